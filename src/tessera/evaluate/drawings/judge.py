"""judge: the judge of a set of drawings, trained on scenes that are composed of them.

A small detector finds drawings of anything, and their colors; what lies in a box is named by its outlines
(`naming`), among all names of the set, so a drawing of another thing is found to be none of the judge's.

    judge.safetensors    the weights of both
    manifest.json        the concepts, and in its facts how often the judge is right

The judge never sees the drawings of one artist, the held-out style; its accuracy is of scenes of those alone, so it
says what the judge makes of a drawing that it does not know; that of new scenes of the others stands next to it. Where
there is one artist it is of new scenes of the same drawings, and the facts say so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError, check_ranges, from_dict, to_dict
from tessera.devices import is_fast_in_bf16, set_threads
from tessera.evaluate.drawings.composed import Placed, compose_scene, ground
from tessera.evaluate.geneval.verdict import MIN_SCORE, Detection, judge
from tessera.evaluate.miniature.calibrate import altered, relation_of
from tessera.files import atomic_path, sha256_file
from tessera.progress import progress
from tessera.prompts.drawings import COLORS as ASKED_COLORS
from tessera.randomness import philox
from tessera.records import CutOuts
from tessera.stages import open_stage, read_manifest

if TYPE_CHECKING:
    from tessera.evaluate.drawings.naming import Namer
    from tessera.evaluate.miniature.detector import Detector

WEIGHTS = "judge.safetensors"
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
"""The colors that the judge names: GenEval's, without gray, which at 32 px is a thin black or a shaded white."""
_COUNTS, _SHARES = (0, 1, 2, 3, 4), (0.06, 0.34, 0.38, 0.06, 0.16)  # objects of a scene, and the shares of those scenes
_ANYTHING = "drawing"  # what the detector finds
_OFF = (0.045, 0.045, 0.1)  # deviations of boxes as `moved` takes them; a third of them while names are learned
_OWN_SHOWN, _OWN_NAME = 0.3, 0.6  # shares of the concepts among drawings in training, and as they are expected
_OWN_HUE = 0.5  # share of those in their own hue


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """The training of a judge of drawings."""

    concepts: tuple[str, ...]
    """The names that it tells apart, at least three: two of a scene, and a wrong one."""
    held_out: str | None
    """The style that it never sees; None = there is one style alone."""
    scenes: int = 16_000
    """Composed images, at least 64."""
    steps: int = 2_500
    """Steps of 64 of them that the detector learns, at least 20."""
    tested: int = 400
    """Scenes of each kind that its accuracy is measured on, at least 12."""
    width: int = 16
    """Channels of the detector's first layer, at least 4."""
    seed: int = 0
    """Address of the scenes and the weights, 0 or more."""

    def __post_init__(self):
        if len(set(self.concepts)) != len(self.concepts) or len(self.concepts) < 3:
            raise UserError("concepts: a judge tells at least three apart; give three or more, none twice")
        check_ranges(self, tested="[12, inf)", scenes="[64, inf)", steps="[20, inf)", width="[4, inf)", seed="[0, inf)")


@dataclass(frozen=True)
class Judge:
    """A trained judge, as `evaluate` uses it."""

    concepts: tuple[str, ...]
    network: "Detector"
    namer: "Namer"
    sha256: str
    """The hash of its weights."""
    accuracy: dict[str, float]
    """Shares of scenes that it is right about (`measure_judge`)."""

    def find(self, images: NDArray[np.uint8]) -> list[list[Detection]]:
        """Return the concepts' drawings in each image of uint8 (B, S, S, 3), best score first; boxes in pixels."""
        import torch

        from tessera.evaluate.drawings.naming import crop
        from tessera.evaluate.miniature.detector import detect, to_input

        size, found = images.shape[1], detect(images, self.network)
        boxes = [(number, item) for number, items in enumerate(found) for item in items]
        named: list[list[Detection]] = [[] for _ in images]
        for start in range(0, len(boxes), 256):
            numbers, items = zip(*boxes[start : start + 256])
            corners = torch.tensor([item.box for item in items]).unflatten(1, (2, 2)) / size  # (B, 2 corners, x and y)
            inputs = to_input(images[list(numbers)])
            box = self.namer.refined(inputs, torch.cat([corners.mean(1), (corners[:, 1] - corners[:, 0])[:, :1]], 1))
            shares = self.namer.shares(crop(inputs, box), len(self.concepts))
            for number, item, share, label in zip(numbers, items, *(each.tolist() for each in shares.max(1))):
                named[number].append(replace(item, class_name=self.concepts[label], score=item.score * share))
        return [sorted(items, key=lambda item: -item.score) for items in named]


def train_judge(out: Path, make_cut_outs: Callable[[], CutOuts], config: JudgeConfig) -> None:
    """Train the judge and measure it, into the directory `out`; a complete one is left as it is.

    make_cut_outs: gives drawings of the concepts, and others.
    """
    stage = open_stage(Path(out), stage="judge", config=to_dict(config), inputs={})
    if stage.done:
        return
    import torch
    from safetensors.torch import save_file

    from tessera.evaluate.miniature.detector import GRID, Detector
    from tessera.evaluate.miniature.fitting import fit, targets, weights_of

    set_threads(1)
    drawn = make_cut_outs()
    learned = _rows(drawn, lambda style: style != config.held_out)
    names = [*config.concepts, *sorted(set(learned) - set(config.concepts))]
    rows = [learned[name] for name in names]
    images = np.empty((config.scenes, 32, 32, 3), np.uint8)
    target = np.empty((config.scenes, 5, GRID, GRID), np.float16)
    colors = _numbers(drawn.colors, COLORS)
    scenes: list[list[Placed]] = []
    with progress("compose scenes", config.scenes) as bar:
        for number in range(config.scenes):
            rng = philox(config.seed, "judge/scene", number)
            images[number], placed = _training_scene(drawn, rows, len(config.concepts), rng)
            target[number] = targets([(0, colors[p.row], p.center, p.diameter) for p in placed], 1)
            scenes.append(placed)
            bar.advance()
    network, in_bf16 = Detector((_ANYTHING,), COLORS, config.width), is_fast_in_bf16(torch.device("cpu"))
    fit(network, images, target, steps=config.steps, batch=64, lr=4e-3, seed=config.seed, in_bf16=in_bf16, clean=0.5)
    namer = _fit_namer(drawn, names, images, scenes, config)
    tensors = {f"network.{name}": value for name, value in weights_of(network).items()}
    tensors |= {f"namer.{name}": value.contiguous() for name, value in vars(namer).items()}
    with atomic_path(Path(out) / WEIGHTS) as temporary:
        save_file(tensors, temporary)
    stored = _load(Path(out) / WEIGHTS, config)
    facts = measure_judge(stored, drawn, config)
    if config.held_out is not None:
        seen = measure_judge(stored, drawn, config, seen=True)["accuracy"]
        facts["accuracy"] |= {f"seen_{name}": seen[name] for name in ("one_object", "two_objects", "two_halves")}
    stage.finish({"concepts": len(config.concepts), "scenes": config.scenes}, facts=facts)


def load_judge(path: Path) -> Judge:
    """Return the judge of a directory of `train_judge`. Raises UserError if that is none or incomplete."""
    manifest = read_manifest(path, "judge")
    config = from_dict(JudgeConfig, manifest.config, f"{path}/manifest.json")
    return replace(_load(path / WEIGHTS, config), accuracy=manifest.facts["accuracy"])


def _load(path: Path, config: JudgeConfig) -> Judge:
    from safetensors.torch import load_file

    from tessera.evaluate.drawings.naming import Namer
    from tessera.evaluate.miniature.detector import Detector, with_weights

    parts: dict[str, dict[str, Any]] = {"network": {}, "namer": {}}
    for name, value in load_file(path).items():
        part, _, key = name.partition(".")
        parts[part][key] = value
    network = with_weights(Detector((_ANYTHING,), COLORS, config.width), parts["network"])
    return Judge(config.concepts, network, Namer(**parts["namer"]), sha256_file(path), {})


def _fit_namer(
    drawn: CutOuts,
    names: Sequence[str],
    images: NDArray[np.uint8],
    scenes: Sequence[Sequence[Placed]],
    config: JudgeConfig,
) -> "Namer":
    """Return a namer of the drawings of the scenes, boxes a little off, half of them disturbed."""
    import torch

    from tessera.evaluate.drawings.naming import crop, features, fit_namer, fit_offsets, moved
    from tessera.evaluate.miniature.detector import to_input
    from tessera.evaluate.miniature.fitting import disturb

    label, styles = _numbers(drawn.names, names), sorted(set(drawn.styles))
    shown = [(number, each) for number, placed in enumerate(scenes) for each in placed]
    generator = torch.Generator().manual_seed(config.seed)
    found, wide, offs = [], [], []
    with torch.inference_mode():
        for start in range(0, len(shown), 256):
            numbers, placed = zip(*shown[start : start + 256])
            seen = to_input(images[list(numbers)])
            seen[::2] = disturb(seen[::2], generator)
            boxes = torch.tensor([(*each.center, each.diameter) for each in placed])
            off = torch.randn(len(seen), 3, generator=generator) * torch.tensor(_OFF)
            wide.append(features(crop(seen, moved(boxes, off))))
            offs.append(off)
            part = crop(seen, moved(boxes, off / 3))
            flipped = torch.tensor([each.mirrored for each in placed])
            found.append(features(torch.where(flipped[:, None, None, None], part.flip(3), part)))
        offsets = fit_offsets(torch.cat(wide), torch.cat(offs))
        rows = [each.row for _, each in shown]
        labels = torch.tensor([label[row] for row in rows])
        views = [0 if each.whole else 1 if each.center[0] == 0.5 else 2 for _, each in shown]  # of halves, in strips
        drawings = torch.tensor(
            [(label[row] * len(styles) + styles.index(drawn.styles[row])) * 3 + view for row, view in zip(rows, views)]
        )
        others = max(len(names) - len(config.concepts), 1)
        prior = [_OWN_NAME / len(config.concepts)] * len(config.concepts) + [(1 - _OWN_NAME) / others] * others
        return fit_namer(torch.cat(found), labels, drawings, prior, offsets)


def measure_judge(judged: Judge, drawn: CutOuts, config: JudgeConfig, seen: bool = False) -> dict[str, Any]:
    """Return how often the judge is right ("accuracy", 0..1) about `config.tested` scenes of each kind, drawn in the
    held-out style, or, if `seen`, in the others.

    concept: the one object of a scene has the right name; color: and the color of most of it, where it is one that
    prompts ask for; one_object: name and color right and nothing else found. two_objects: the same of both, and their
    relation; two_named: that without the colors; two_halves: names and relation of two of which half of the frame each
    shows the middle. place: the relation alone, where both are found.
    counting: two to four equal objects counted. wrong_refused: a line with one wrong fact is judged wrong.
    nothing_found: nothing is found in drawings of other things. unseen_style: 1 if the style is held out, 0 if it is
    not. "weakest": the names that are found least, each with its share.
    """
    number, known = config.tested, set(config.concepts)
    every = _rows(drawn, lambda style: style != config.held_out if seen else config.held_out in (None, style))
    rows = {name: every[name] for name in config.concepts if name in every}
    right: dict[str, list[bool]] = {}
    by_name: dict[str, list[bool]] = {}
    kinds = {"one_object": (1, False), "two_objects": (2, False), "two_halves": (2, True)}
    for kind, (count, halves) in kinds.items():
        scenes = [
            _scene(drawn, rows, philox(config.seed, f"judge/test/{kind}", n), count, halves) for n in range(number)
        ]
        found = judged.find(np.stack([image for image, _ in scenes]))
        for n, ((_, placed), items) in enumerate(zip(scenes, found)):
            line = _line(drawn, placed, colors=not halves)
            plain = _line(drawn, placed, colors=False)
            alone = sum(item.score > MIN_SCORE for item in items) == count
            right.setdefault(kind, []).append(alone and judge(line, items).correct)
            if kind == "two_objects":
                right.setdefault("two_named", []).append(alone and judge(plain, items).correct)
            right.setdefault("wrong_refused", []).append(
                not judge(altered(line, n, config.concepts, COLORS), items).correct
            )
            names = {item.class_name for item in items if item.score > MIN_SCORE}
            for each in placed:
                by_name.setdefault(drawn.names[each.row], []).append(drawn.names[each.row] in names)
            if count == 1:
                right.setdefault("concept", []).append(judge(plain, items).correct)
                if "color" in line["include"][0] and right["concept"][-1]:
                    right.setdefault("color", []).append(judge(line, items).correct)
            elif all(drawn.names[each.row] in names for each in placed):
                right.setdefault("place", []).append(judge(plain, items).correct)
    for count in (2, 3, 4):
        scenes = [
            _scene(drawn, rows, philox(config.seed, f"judge/test/{count} equal", n), count, same=True)
            for n in range(number // 6)
        ]
        for (_, placed), items in zip(scenes, judged.find(np.stack([image for image, _ in scenes]))):
            asked = {"class": drawn.names[placed[0].row], "count": count}
            line = {"tag": "counting", "include": [asked], "exclude": [asked | {"count": count + 1}]}
            right.setdefault("counting", []).append(judge(line, items).correct)
    others = [row for name in every if name not in known for row in every[name] if drawn.own_hue[row]]
    if others:
        chosen = philox(config.seed, "judge/test/others").permutation(others)[:number].tolist()
        scenes = [compose_scene(drawn, [row], philox(config.seed, "judge/test/other", row))[0] for row in chosen]
        right["nothing_found"] = [
            not any(item.score > MIN_SCORE for item in items) for items in judged.find(np.stack(scenes))
        ]
    accuracy = {name: round(float(np.mean(values)), 4) for name, values in right.items()}
    found = {name: round(float(np.mean(values)), 3) for name, values in by_name.items()}
    weakest = dict(sorted(found.items(), key=lambda item: item[1])[:10])
    accuracy |= {"scenes": number, "unseen_style": float(config.held_out is not None)}
    return {"accuracy": accuracy, "weakest": weakest}


def _rows(drawn: CutOuts, of: Callable[[str], bool]) -> dict[str, list[int]]:
    """Return name -> its cut-outs of the styles for which `of` is true."""
    found: dict[str, list[int]] = {}
    for row, (name, style) in enumerate(zip(drawn.names, drawn.styles)):
        if of(style):
            found.setdefault(name, []).append(row)
    return found


def _numbers(names: Sequence[str | None], known: Sequence[str]) -> list[int]:
    """Return the number of each name in `known`, or -1."""
    number = {name: n for n, name in enumerate(known)}
    return [-1 if name is None else number.get(name, -1) for name in names]


def _scene(
    drawn: CutOuts,
    rows: dict[str, list[int]],
    rng: np.random.Generator,
    count: int,
    halves: bool = False,
    same: bool = False,
) -> tuple[NDArray[np.uint8], list[Placed]]:
    """Return a scene of `count` different concepts, or as many as there are, or, if `same`, of one drawing."""
    chosen = rng.choice(list(rows), 1 if same else min(count, len(rows)), replace=False)
    picked = [int(rng.choice(rows[name])) for name in chosen]
    return compose_scene(drawn, picked * (count if same else 1), rng, halves)


def _training_scene(
    drawn: CutOuts, rows: Sequence[Sequence[int]], known: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], list[Placed]]:
    """Return a scene of none to four drawings, or garbage. rows: the cut-outs of each name, the first `known` being the
    judge's own."""
    from tessera.evaluate.miniature.fitting import noise, shuffled

    count, kind = int(rng.choice(_COUNTS, p=_SHARES)), rng.random()
    if count == 0 and kind < 0.4:
        return ground(rng), []
    names = (range(known), range(known, len(rows)))
    picked = []
    for _ in range(1 if count > 2 and kind < 0.3 else max(count, 1)):
        own = rng.random() < _OWN_SHOWN or known == len(rows)
        found = rows[int(rng.choice(names[0 if own else 1]))]
        if rng.random() < _OWN_HUE:
            found = [row for row in found if drawn.own_hue[row]]
        picked.append(int(rng.choice(found)))
    if count > len(picked):
        picked *= count
    image, placed = compose_scene(drawn, picked, rng, halves=count == 2 and kind < 0.3, vary=True)
    if count:
        return image, placed
    return (noise if kind < 0.7 else shuffled)(image, rng), []


def _line(drawn: CutOuts, placed: Sequence[Placed], colors: bool) -> dict[str, Any]:
    """Return the metadata line that a scene satisfies."""
    clauses: list[dict[str, Any]] = []
    for each in placed:
        clause: dict[str, Any] = {"class": drawn.names[each.row], "count": 1}
        if colors and drawn.colors[each.row] in ASKED_COLORS:
            clause["color"] = drawn.colors[each.row]
        clauses.append(clause)
    if len(clauses) == 2:
        clauses[1]["position"] = [relation_of(placed[1].center, placed[0].center), 0]
    return {"tag": "", "include": clauses}
