"""The folder of a run with made-up samples and scores, and its page as a browser reads it."""

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

from tessera.config import to_dict
from tessera.curate.augment import AugmentConfig, augment
from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.curate.encode import EncodeConfig, encode
from tessera.evaluate.scores import write_scores
from tessera.files import write_json
from tessera.miniature import WorldConfig, draw_composed, render
from tessera.models.dit import DiTConfig
from tessera.prompts.miniature import PromptConfig, draw_prompts, extend, prompts, prompts_sha256
from tessera.randomness import philox
from tessera.stages import open_stage
from tessera.train.config import TrainConfig
from tiny.scores import judged, miniature_scores

SKILL = {"aio": 0.1, "ta": 0.4, "ta_ia": 0.8}


"""How often the made-up samples of an arm show what was asked."""


def curate(workspace: Path, world: WorldConfig) -> None:
    images, recipe = workspace / "images", workspace / "recipe"
    collect(images, CollectConfig(size=world.size, world=world))
    augment(recipe, images, AugmentConfig(half_view="centre"))
    for name, config, mixed in (
        ("plain-aio", CaptionConfig(), None),
        ("plain-scene", CaptionConfig(captioner="scene"), None),
        ("augmented-scene", CaptionConfig(captioner="scene"), recipe),
    ):
        caption(workspace / "captions" / name, images, config, recipe=mixed)
        encode(workspace / "encoded" / name, images, workspace / "captions" / name, EncodeConfig(), recipe=mixed)


def write_run(workspace: Path, arm: str, points: int = 30) -> None:
    prob = 0.5 if arm == "ta_ia" else 0.0
    model = DiTConfig(latent_channels=48, latent_size=8, width=16, depth=1, heads=2, text_width=64)
    config = TrainConfig(model=model, num_images=points * 64, batch_size=64, prediction="x0", augment_prob=prob)
    inputs = {"plain": workspace / "encoded" / ("plain-aio" if arm == "aio" else "plain-scene")}
    if prob:
        inputs["augmented"] = workspace / "encoded" / "augmented-scene"
    stage = open_stage(workspace / "runs" / arm, stage="train", config=to_dict(config), inputs=inputs)
    rng = philox(0, f"loss/{arm}")
    lines = [
        {"num_images": 64 * (n + 1), "loss": float(0.05 + np.exp(-n / points * 4) * rng.uniform(0.9, 1.1))}
        for n in range(points)
    ]
    (stage.directory / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    stage.finish(counts={"num_images": points * 64})


def write_samples(workspace: Path, arm: str, kind: str, lines: list[dict], world: WorldConfig) -> None:
    """Rendered images in place of generated ones, with verdicts that say what was rendered."""
    samples = open_stage(workspace / "samples" / arm / kind, stage="generate", config={"extended": kind == "extended"})
    rng, verdicts = philox(0, f"samples/{arm}/{kind}"), []
    for i, line in enumerate(lines):
        folder = samples.directory / f"{i:05d}"
        (folder / "samples").mkdir(parents=True)
        text = line["extended"]["text"] if kind == "extended" else line["prompt"]
        (folder / "metadata.jsonl").write_text(json.dumps({**line, "text": text}) + "\n")
        for k in range(2):
            right = bool(rng.random() < SKILL[arm])
            scene = extend(line, world, rng) if right else draw_composed(world, 1000 * i + k, 1, arm)
            Image.fromarray(render(scene, world.size)).save(folder / "samples" / f"{k:04d}.png")
            related = ("both_colors", "colors_in_relation") if line["tag"] in ("position", "color_attr") else ()
            verdicts.append(
                judged(i, k, line["tag"], right, seam=rng.random() * 0.2, **dict.fromkeys(related, right))
                | {"reason": f"found {scene.objects[0].color} {scene.objects[0].shape} 0.98"}
            )
    samples.finish({"images": len(verdicts)})
    scores = open_stage(
        workspace / "scores" / arm / kind, stage="evaluate", config={}, inputs={"samples": samples.directory}
    )
    judge = {"one_object": 0.9925, "two_objects": 0.97, "counting": 0.95, "color_objects": 0.998}
    judge |= {"seam_renders": 0.01, "seam_cutmix": 0.31, "wrong_refused": 0.985}
    about = {"extended": kind == "extended", "prompts_sha256": prompts_sha256(lines)}
    made = miniature_scores(arm, verdicts, judge=judge, **about)
    write_scores(scores.directory, made)
    scores.finish({"images": len(verdicts)})


def make_workspace(workspace: Path, arms=("ta", "ta_ia"), per_task: int = 2, num_images: int = 24) -> Path:
    world = WorldConfig(num_images=num_images)
    curate(workspace, world)
    prompts(workspace / "prompts", workspace / "images", PromptConfig(per_task=per_task))
    lines = draw_prompts(world, PromptConfig(per_task=per_task))
    for arm in arms:
        write_run(workspace, arm)
        for kind in ("short", "extended"):
            write_samples(workspace, arm, kind, lines, world)
    stages = [("collect", 1.3), ("encode plain-scene", 4.2), ("train ta", 205.0), ("generate ta", 31.4)]
    write_json(workspace / "stages.json", [{"stage": name, "seconds": seconds} for name, seconds in stages])
    return workspace


class Page(HTMLParser):
    """What a browser would load, run and show."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.images: list[dict] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.text = ""
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.close()

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.sources += [found[name] for name in ("src", "srcset", "data", "poster", "action") if name in found]
        for name in ("href", "xlink:href"):
            if name in found:
                (self.targets if found[name].startswith("#") else self.sources).append(found[name])
        if tag == "img":
            self.images.append(found)
        if "id" in found:
            self.ids.append(found["id"])

    def handle_data(self, data):
        self.text += data


def assert_sound(page: Page) -> None:
    """Self-contained, without scripts, every image described, every link leading somewhere."""
    assert set(page.tags) & {"script", "iframe", "object", "embed", "base"} == set()
    assert all(source.startswith("data:") for source in page.sources)
    assert re.findall(r"url\((?!#)|@import", page.html) == []
    assert all(image["alt"] for image in page.images)
    assert len(page.ids) == len(set(page.ids))
    assert {target[1:] for target in page.targets} <= set(page.ids)
    for svg in re.findall(r"<svg.*?</svg>", page.html, flags=re.S):
        assert ElementTree.fromstring(svg).get("aria-label")
