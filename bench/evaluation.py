"""Every metric, GenEval, DPG-Bench and the report through the command line, on tiny random models of the true classes.

    python bench/evaluation.py                   # in a temporary folder
    python bench/evaluation.py --out out/smoke   # leaves everything there; see out/smoke/report/index.html
    python bench/evaluation.py --table1 8        # all of Table 1 by networks of true size, against their forwards alone

It draws with a tiny Stable Diffusion, then judges: short and extended prompts, all seven metrics of Table 1, GenEval's
detector and colors, DPG-Bench by a tiny BLIP, VQAScore by a tiny Qwen3-VL. Its numbers mean nothing but that the path
works.
Prints the seconds of each command in this one process, and of all with the imports: on the clock, and of all threads of
the processor, which a busy machine does not stretch.
"""

import argparse
import contextlib
import functools
import importlib
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

START = time.perf_counter()
TESTS = Path(__file__).parents[1] / "tests"
PER_PROMPT = 4


def save_models(folder: Path) -> dict[str, str]:
    """Save random networks, as small as their class allows, as their libraries save them: name -> path."""
    sys.path.insert(0, str(TESTS))
    from transformers.utils import logging

    names = ("baselines", "encoders", "jina", "judges")
    tiny_baselines, tiny_encoders, tiny_jina, tiny_judges = (importlib.import_module(f"tiny.{name}") for name in names)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder.mkdir(parents=True)
    made = {
        "baseline": tiny_baselines.save_stable_diffusion(folder / "baseline"),
        "inception": tiny_encoders.save_inception(folder / "inception.safetensors"),
        "dinov2": tiny_encoders.save_dino(folder / "dinov2"),
        "clip": tiny_encoders.save_clip(folder / "clip-l14"),
        "clip336": tiny_encoders.save_clip(folder / "clip-l14-336", 40),
        "jina": tiny_jina.save_jina(folder / "jina"),
        "detector": tiny_judges.save_detector(folder / "detector"),
        "blip": tiny_judges.save_blip(folder / "blip"),
        "qwen": tiny_judges.save_qwen_vl(folder / "qwen", three=True),
    }
    return {name: str(path) for name, path in made.items()}


def write_inputs(folder: Path) -> None:
    """Write one of GenEval's prompts of each task, a csv of questions about two prompts, and reference images."""
    import numpy as np
    from PIL import Image

    from tessera.prompts.read import load_prompts

    lines = [metadata for metadata, _ in load_prompts("geneval").rows]
    chosen = {line["tag"]: line for line in lines}
    (folder / "geneval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in chosen.values()))
    (folder / "dpg_bench.csv").write_text(
        "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
        "question_natural_language\n"
        "a,A dog.,,1,0,entity,whole,entity - whole (dog),is there a dog ?\n"
        'a,A dog.,,2,1,attribute,color,"attribute - color (dog, red)",is there a red dog ?\n'
        "b,A cat on a chair.,,1,0,entity,whole,entity - whole (cat),is there a cat ?\n"
        'b,A cat on a chair.,,2,1,relation,spatial,"relation - spatial (cat, chair, on)",is there a cat on a chair ?\n'
    )
    (folder / "reference").mkdir()
    rng = np.random.default_rng(0)
    for number in range(24):
        pixels = np.kron(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
        Image.fromarray(pixels).save(folder / "reference" / f"{number:03d}.png")


def commands(folder: Path, models: dict[str, str]) -> list[list[str]]:
    """List the commands of a user, in order."""
    cpu, prompts = ["--device", "cpu"], str(folder / "prompts" / "prompts.jsonl")
    draw = ["generate", "--model", models["baseline"], "--steps", "2", "--size", "32"]

    def at(*names: str) -> str:
        return str(folder.joinpath(*names))

    quality = ["evaluate", "quality", "--samples", at("samples", "short"), "--reference", at("reference")]
    quality += ["--metrics", "fid", "kid", "fd_dinov2", "prdc", "cmmd", "clip_score", "jina_clip_score"]
    for name in ("inception", "dinov2", "clip", "clip336", "jina"):
        quality += [f"--{name}", models[name]]
    geneval = ["evaluate", "geneval", "--samples", at("samples", "short"), "--extended-samples", at("samples", "long")]
    dpg = ["evaluate", "dpg", "--samples", at("samples", "dpg"), "--questions", at("dpg_bench.csv")]
    scores = [at("scores", "quality"), at("scores", "geneval", "original"), at("scores", "geneval", "extended")]
    vqascore = ["evaluate", "questions", "--benchmark", "vqascore", "--samples", at("samples", "short")]
    scores += [at("scores", "dpg"), at("scores", "vqascore")]
    images = [at("samples", name) for name in ("short", "short", "long", "dpg", "short")]
    return [
        ["extend-prompts", at("geneval.jsonl"), "--extender", "rules", "--out", at("prompts")],
        [*draw, *cpu, "--per-prompt", str(PER_PROMPT), "--prompts", prompts, "--out", at("samples", "short")],
        [*draw, *cpu, "--per-prompt", "1", "--prompts", prompts, "--extended", "--out", at("samples", "long")],
        [*draw, *cpu, "--per-prompt", "2", "--prompts", f"dpg:{at('dpg_bench.csv')}", "--out", at("samples", "dpg")],
        [*quality, "--allow-remote-code", "--cache", at("cache"), "--out", at("scores", "quality"), *cpu],
        [*geneval, "--detector", models["detector"], "--clip", models["clip"], "--out", at("scores", "geneval"), *cpu],
        [*dpg, "--vqa", "blip", "--vqa-model", models["blip"], "--out", at("scores", "dpg"), *cpu],
        [*vqascore, "--vqa-model", models["qwen"], "--out", at("scores", "vqascore"), *cpu],
        ["report", *scores, "--samples", *images, "--out", at("report")],
    ]


def call(words: list[str]) -> None:
    """Run `tessera WORDS` in this process. RuntimeError, with what it said, if it fails."""
    from tessera import cli

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            cli.main(words)
        except SystemExit as ended:
            code = ended.code
    if code:
        raise RuntimeError(f"tessera {' '.join(words)}: exit code {code}: {said.getvalue()}")


def smoke(folder: Path, tell: Callable[[str, float, float], None] = lambda *_: None) -> None:
    """Do everything in an empty `folder`; tell the seconds of each part, on the clock and of the processor."""
    os.environ.setdefault("HF_MODULES_CACHE", str(folder / "modules"))  # where transformers copies jina's code to
    models: dict[str, str] = {}

    def timed(name: str, part: Callable[[], Any]) -> None:
        start, used = time.perf_counter(), time.process_time()
        part()
        tell(name, time.perf_counter() - start, time.process_time() - used)

    timed("models and inputs", lambda: (models.update(save_models(folder / "models")), write_inputs(folder)))
    for words in commands(folder, models):
        name = " ".join(words[:2]) if words[0] == "evaluate" else words[0]
        timed(f"{name} {Path(words[-1]).name}" if name == "generate" else name, lambda words=words: call(words))


def true_networks() -> dict[str, Any]:
    """Return Table 1's networks as large as the published ones, with random weights."""
    import torch
    from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

    from tessera.hub import find_model
    from tessera.pretrained.features.clip import ClipEncoder
    from tessera.pretrained.features.dinov2 import DinoEncoder
    from tessera.pretrained.features.inception import Inception, InceptionEncoder
    from tessera.pretrained.load import load_tokenizer

    encoders = importlib.import_module("tiny.encoders")
    large: dict[str, Any] = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    text: dict[str, Any] = {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    }
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = load_tokenizer(
            find_model(str(encoders.save_clip(Path(folder) / "clip")), ["*.safetensors"], "clip"), "clip"
        )

    def clip(side: int) -> ClipEncoder:
        vision = large | {"intermediate_size": 4096, "image_size": side, "patch_size": 14}
        network = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=768))
        return ClipEncoder(network, tokenizer, f"clip{side}", f"{side}" * 20, crop_first=side != 224)

    torch.manual_seed(0)
    dinov2 = Dinov2Model(Dinov2Config(**large, image_size=518, patch_size=14))
    return {
        "inception": InceptionEncoder(Inception(encoders.inception_state()), "inception", "i" * 64, "cpu"),
        "dinov2": DinoEncoder(dinov2, "dinov2", "d" * 64),
        "clip": clip(224),
        "clip336": clip(336),
    }


def table1(images: int) -> dict[str, float]:
    """Return processor seconds of the networks' forwards on 256 px images and as many of the reference, of all of
    Table 1, and of the same once more. The packing of matrices, once for each network, is part of the first two."""
    import numpy as np
    import torch
    from PIL import Image

    from tessera.evaluate.quality.evaluate import evaluate_quality
    from tessera.evaluate.quality.metrics import QualityConfig
    from tessera.images import read_rgb
    from tessera.models.packing import packed_linears

    sys.path.insert(0, str(TESTS))
    networks, rng, spent = true_networks(), np.random.default_rng(0), {}
    config = QualityConfig(metrics=("fid", "kid", "mind", "fd_dinov2", "prdc", "cmmd", "clip_score"), prdc=("full",))
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for name in ("samples", "reference"):
            (root / name).mkdir()
            for number in range(images):
                small = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
                small.resize((256, 256), Image.Resampling.BICUBIC).save(root / name / f"{number:05d}.png")
        (root / "prompts.txt").write_text("".join(f"a picture of number {number}\n" for number in range(images)))

        def timed(name: str, part: Callable[[], Any]) -> None:
            start = time.process_time()
            part()
            spent[name] = time.process_time() - start

        files = [file for name in ("samples", "reference") for file in sorted((root / name).iterdir())]

        prepared = {key: [network.prepare(read_rgb(file)) for file in files] for key, network in networks.items()}

        def forwards() -> None:
            for key, network in networks.items():
                with packed_linears(network.network):
                    for first in range(0, len(files), config.batch_size):
                        network.features(torch.stack(prepared[key][first : first + config.batch_size]))

        timed("the networks' forwards alone", forwards)

        def measure(name: str) -> bool:
            where, prompts = (root / name, root / "samples", root / "reference"), root / "prompts.txt"
            return evaluate_quality(*where, networks, config, prompts=prompts, cache=root / "cache")

        for name in ("Table 1", "the same, with features kept"):
            timed(name, functools.partial(measure, name))
    return spent


def tell(name: str, seconds: float, cpu: float) -> None:
    print(f"{name:<24}{seconds:>9.1f}{cpu:>9.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a new folder to keep; a temporary one by default")
    parser.add_argument(
        "--table1", type=int, metavar="IMAGES", help="samples, 4 at least, and as many of the reference"
    )
    args = parser.parse_args()
    os.environ["TESSERA_QUIET"] = "1"
    if args.table1:
        spent = table1(args.table1)
        alone = next(iter(spent.values()))
        for name, seconds in spent.items():
            print(f"{name:<32}{seconds:>9.1f} CPU-s{seconds / alone:>9.3f} x")
        return
    with tempfile.TemporaryDirectory() as temporary:
        if args.out is not None:
            args.out.mkdir(parents=True)
        print(f"{'':<24}{'seconds':>9}{'CPU':>9}")
        smoke(args.out or Path(temporary), tell)
    tell("all, with imports", time.perf_counter() - START, time.process_time())


if __name__ == "__main__":
    main()
