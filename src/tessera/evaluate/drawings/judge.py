"""judge: the detector of a set of drawings, trained on scenes that are composed of them.

    judge.safetensors    the weights, in fp16
    manifest.json        the concepts, and in its facts how often the judge is right

The judge never sees the drawings of one artist, the held-out style; its accuracy is of scenes of those alone, so it
says what the judge makes of a drawing that it does not know; that of new scenes of the others stands next to it. Where
there is one artist it is of new scenes of the same drawings, and the facts say so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError, check_ranges, from_dict, to_dict
from tessera.devices import is_fast_in_bf16, set_threads
from tessera.evaluate.drawings.composed import Placed, compose_scene, ground
from tessera.evaluate.geneval.verdict import MIN_SCORE, judge
from tessera.evaluate.miniature.calibrate import altered, relation_of
from tessera.files import atomic_path, sha256_file
from tessera.progress import progress
from tessera.randomness import philox
from tessera.records import CutOuts
from tessera.stages import open_stage, read_manifest

if TYPE_CHECKING:
    from tessera.evaluate.miniature.detector import Detector

WEIGHTS = "judge.safetensors"
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "gray", "white")
"""The colors that the judge names."""
_COUNTS, _SHARES = (0, 1, 2, 3, 4), (0.1, 0.2, 0.37, 0.08, 0.25)  # objects of a scene, and the shares of those scenes
_OWN_HUE = 0.5  # share of the objects of training scenes in their own hue


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """The training of a judge of drawings."""

    concepts: tuple[str, ...]
    """The names that it tells apart, at least three: two of a scene, and a wrong one."""
    held_out: str | None
    """The style that it never sees; None = there is one style alone."""
    scenes: int = 20_000
    """Composed images, at least 64."""
    steps: int = 2_200
    """Steps of 64 of them, at least 20."""
    tested: int = 400
    """Scenes of each kind that its accuracy is measured on, at least 12."""
    width: int = 24
    """Channels of the network's first layer, at least 4."""
    seed: int = 0
    """Address of the scenes and the weights, 0 or more."""

    def __post_init__(self):
        if len(set(self.concepts)) != len(self.concepts) or len(self.concepts) < 3:
            raise UserError("concepts: a judge tells at least three apart; give three or more, none twice")
        check_ranges(self, tested="[12, inf)", scenes="[64, inf)", steps="[20, inf)", width="[4, inf)", seed="[0, inf)")


@dataclass(frozen=True)
class Judge:
    """A trained judge, as `evaluate` uses it."""

    network: "Detector"
    sha256: str
    """The hash of its weights."""
    accuracy: dict[str, float]
    """Shares of scenes that it is right about (`measure_judge`)."""


def train_judge(out: Path, make_cut_outs: Callable[[], CutOuts], config: JudgeConfig) -> None:
    """Train the judge and measure it, into the directory `out`; a complete one is left as it is.

    make_cut_outs: gives drawings of the concepts, and others without a name.
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
    images = np.empty((config.scenes, 32, 32, 3), np.uint8)
    target = np.empty((config.scenes, 5, GRID, GRID), np.float16)
    labels, colors = _numbers(drawn.names, config.concepts), _numbers(drawn.colors, COLORS)
    with progress("compose scenes", config.scenes) as bar:
        for number in range(config.scenes):
            images[number], placed = _training_scene(drawn, learned, philox(config.seed, "judge/scene", number))
            found = [(labels[p.row], colors[p.row], p.center, p.diameter) for p in placed]
            target[number] = targets([each for each in found if each[0] >= 0], len(config.concepts))
            bar.advance()
    network, in_bf16 = Detector(config.concepts, COLORS, config.width), is_fast_in_bf16(torch.device("cpu"))
    fit(network, images, target, steps=config.steps, batch=64, lr=4e-3, seed=config.seed, in_bf16=in_bf16, clean=0.5)
    with atomic_path(Path(out) / WEIGHTS) as temporary:
        save_file(weights_of(network), temporary)
    stored = _load(Path(out) / WEIGHTS, config)
    facts = measure_judge(stored, drawn, config)
    if config.held_out is not None:
        seen = measure_judge(stored, drawn, config, seen=True)["accuracy"]
        facts["accuracy"] |= {f"seen_{name}": seen[name] for name in ("one_object", "two_objects")}
    stage.finish({"concepts": len(config.concepts), "scenes": config.scenes}, facts=facts)


def load_judge(path: Path) -> Judge:
    """Return the judge of a directory of `train_judge`. Raises UserError if that is none or incomplete."""
    manifest = read_manifest(path, "judge")
    config = from_dict(JudgeConfig, manifest.config, f"{path}/manifest.json")
    return Judge(_load(path / WEIGHTS, config), sha256_file(path / WEIGHTS), manifest.facts["accuracy"])


def _load(path: Path, config: JudgeConfig) -> "Detector":
    from tessera.evaluate.miniature.detector import Detector, with_weights

    return with_weights(Detector(config.concepts, COLORS, config.width), path.read_bytes())


def measure_judge(network: "Detector", drawn: CutOuts, config: JudgeConfig, seen: bool = False) -> dict[str, Any]:
    """Return how often the judge is right ("accuracy", 0..1) about `config.tested` scenes of each kind, drawn in the
    held-out style, or, if `seen`, in the others.

    concept: the one object of a scene has the right name; color: and the color that covers half of it; one_object: name
    and color right and nothing else found. two_objects: the same of both, and their relation; two_halves: names and
    relation of two of which half of the frame each shows the middle. place: the relation alone, where both are found.
    counting: two to four equal objects counted. wrong_refused: a line with one wrong fact is judged wrong.
    nothing_found: nothing is found in drawings of other things. unseen_style: 1 if the style is held out, 0 if it is
    not. "weakest": the names that are found least, each with its share.
    """
    from tessera.evaluate.miniature.detector import detect

    number, rows = (
        config.tested,
        _rows(drawn, lambda style: config.held_out in (None, style) if not seen else style != config.held_out),
    )
    right: dict[str, list[bool]] = {}
    by_name: dict[str, list[bool]] = {}
    kinds = {"one_object": (1, False), "two_objects": (2, False), "two_halves": (2, True)}
    for kind, (count, halves) in kinds.items():
        scenes = [
            _scene(drawn, rows, philox(config.seed, f"judge/test/{kind}", n), count, halves) for n in range(number)
        ]
        found = detect(np.stack([image for image, _ in scenes]), network)
        for n, ((_, placed), items) in enumerate(zip(scenes, found)):
            line = _line(drawn, placed, colors=not halves)
            plain = _line(drawn, placed, colors=False)
            alone = sum(item.score > MIN_SCORE for item in items) == count
            right.setdefault(kind, []).append(alone and judge(line, items).correct)
            right.setdefault("wrong_refused", []).append(
                not judge(altered(line, n, config.concepts, COLORS), items).correct
            )
            names = {item.class_name for item in items if item.score > MIN_SCORE}
            for each in placed:
                by_name.setdefault(str(drawn.names[each.row]), []).append(drawn.names[each.row] in names)
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
        for (_, placed), items in zip(scenes, detect(np.stack([image for image, _ in scenes]), network)):
            asked = {"class": drawn.names[placed[0].row], "count": count}
            line = {"tag": "counting", "include": [asked], "exclude": [asked | {"count": count + 1}]}
            right.setdefault("counting", []).append(judge(line, items).correct)
    others = [compose_scene(drawn, [row], philox(config.seed, "judge/test/other", row))[0] for row in rows[None]]
    if others:
        right["nothing_found"] = [
            not any(item.score > MIN_SCORE for item in items) for items in detect(np.stack(others), network)
        ]
    accuracy = {name: round(float(np.mean(values)), 4) for name, values in right.items()}
    found = {name: round(float(np.mean(values)), 3) for name, values in by_name.items()}
    weakest = dict(sorted(found.items(), key=lambda item: item[1])[:10])
    accuracy |= {"scenes": number, "unseen_style": float(config.held_out is not None)}
    return {"accuracy": accuracy, "weakest": weakest}


def _rows(drawn: CutOuts, of: Callable[[str], bool]) -> dict[str | None, list[int]]:
    """Return name -> its cut-outs of the styles for which `of` is true."""
    found: dict[str | None, list[int]] = {None: []}
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
    rows: dict[str | None, list[int]],
    rng: np.random.Generator,
    count: int,
    halves: bool = False,
    same: bool = False,
    vary: bool = False,
) -> tuple[NDArray[np.uint8], list[Placed]]:
    """Return a scene of `count` different concepts, or as many as there are, or, if `same`, of one drawing."""
    named = [name for name in rows if name is not None]
    chosen = rng.choice(len(named), 1 if same else min(count, len(named)), replace=False)
    picked = [_pick(drawn, rows[named[n]], rng, _OWN_HUE if vary else 0.0) for n in chosen]
    return compose_scene(drawn, picked * (count if same else 1), rng, halves, vary)


def _pick(drawn: CutOuts, rows: Sequence[int], rng: np.random.Generator, own: float) -> int:
    """Draw a cut-out, a share of `own` of them in their own hue."""
    if rng.random() < own:
        rows = [row for row in rows if drawn.own_hue[row]]
    return int(rng.choice(rows))


def _training_scene(
    drawn: CutOuts, rows: dict[str | None, list[int]], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], list[Placed]]:
    """Return a scene of none to four objects, some of which may be other things, or garbage without any."""
    from tessera.evaluate.miniature.fitting import noise, shuffled

    count, kind = int(rng.choice(_COUNTS, p=_SHARES)), rng.random()
    if count > 2:
        return _scene(drawn, rows, rng, count, same=kind < 0.2, vary=True)
    if count == 2:
        image, placed = _scene(drawn, rows, rng, 2, halves=kind < 0.4, vary=True)
        if kind > 0.9 and rows[None]:
            other = int(rng.choice(rows[None]))
            return compose_scene(drawn, [placed[0].row, other], rng, vary=True)
        return image, placed
    image, placed = _scene(drawn, rows, rng, 1, vary=True)
    if count == 1:
        return image, placed
    if kind < 0.4 and rows[None]:
        return compose_scene(
            drawn, [int(rng.choice(rows[None])) for _ in range(int(rng.integers(1, 3)))], rng, vary=True
        )
    if kind < 0.55:
        return ground(rng), []
    if kind < 0.7:
        return noise(image, rng), []
    return shuffled(image, rng), []


def _line(drawn: CutOuts, placed: Sequence[Placed], colors: bool) -> dict[str, Any]:
    """Return the metadata line that a scene satisfies."""
    clauses: list[dict[str, Any]] = []
    for each in placed:
        clause: dict[str, Any] = {"class": drawn.names[each.row], "count": 1}
        if colors and drawn.colors[each.row] is not None:
            clause["color"] = drawn.colors[each.row]
        clauses.append(clause)
    if len(clauses) == 2:
        clauses[1]["position"] = [relation_of(placed[1].center, placed[0].center), 0]
    return {"tag": "", "include": clauses}
