"""Copies: the drawn images that lie nearest to training images, next to those."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tessera.evaluate.scores import Scores, read_scores
from tessera.images import read_rgb
from tessera.report.arms import Arm
from tessera.report.gallery import embed
from tessera.stages import is_complete

COPIES = "copies"
"""Scores of an arm without a judge."""
_PAIRS = 12
_BY_JUDGE = (
    "in the judge's features. The number is their distance over the median distance of unseen images: 0 is a copy, 1 as"
    " far off as an image that the model has never seen."
)
_BY_PIXELS = (
    "by their pixels at 16 x 16, without brightness and contrast. The number is their distance over the median distance"
    " of a training image to the nearest other one: 0 is a copy, 1 as far off as training images are from each other."
)
_ALONE = ("single_object", "colors")  # tasks that ask for one object, as training images show


@dataclass(frozen=True, kw_only=True)
class NearestPairs:
    """The section of the page."""

    lines: Sequence[str]
    """A sentence for each arm."""
    about: str
    """The distance, and its yardstick."""
    pairs: Sequence[Mapping[str, Any]]
    """{label, color, ratio, prompt, drawn, training, flipped}, the closest first."""


def nearest_pairs(
    workspace: Path, arms: Sequence[Arm], kinds: Mapping[str, Mapping[str, Scores]]
) -> NearestPairs | None:
    """Return the closest pairs of all arms and kinds of prompts ({kind: {arm: its scores}}); None without any."""
    every, lines = [], []
    for arm in arms:
        own = [
            (item["nearest"]["features"], kind, item)
            for kind, scores in kinds.items()
            for item in (scores[arm.name].items if arm.name in scores else ())
            if "nearest" in item
        ] + _by_pixels(workspace, arm.name)
        if own:
            lines.append(_line(arm, [item for _, _, item in own]))
            every += [(near["ratio"], arm.name, kind, item["file"], arm, near) for near, kind, item in own]
    pairs = []
    for ratio, name, kind, file, arm, near in heapq.nsmallest(_PAIRS, every, key=lambda each: each[:4]):
        drawn = read_rgb(workspace / "samples" / name / kind / file)
        training = read_rgb(workspace / "images" / f"{near['image']}.png")
        pairs.append(
            {
                "label": arm.label,
                "color": arm.color,
                "ratio": f"{ratio:.2f}",
                "drawn": embed(drawn, f"{arm.label} drew this image"),
                "training": embed(training, f"Training image {near['image']}"),
                "name": near["image"],
                "flipped": near["flipped"],
            }
        )
    judged = any("nearest" in item for found in kinds.values() for each in found.values() for item in each.items)
    return NearestPairs(lines=lines, pairs=pairs, about=_BY_JUDGE if judged else _BY_PIXELS) if pairs else None


def nearest_of_each(workspace: Path, arms: Sequence[Arm]) -> dict[str, dict[str, str]]:
    """Return arm -> image that it drew -> key of the nearest training image by pixels, of arms without a judge."""
    return {
        arm.name: {item["file"]: near["image"] for near, _, item in found}
        for arm in arms
        if (found := _by_pixels(workspace, arm.name))
    }


def searched_kind(workspace: Path, arm: str) -> str:
    """Return the kind of prompts whose images are compared with training images where no judge does it."""
    return "captions" if (workspace / "samples" / arm / "captions").is_dir() else "short"


def _by_pixels(workspace: Path, arm: str) -> list[tuple[dict[str, Any], str, dict[str, Any]]]:
    """Return (nearest training image, kind of prompts, item) of each image in an arm's complete scores of `evaluate
    copies`; [] without any."""
    found, scores = [], workspace / "scores" / arm / COPIES
    kind = searched_kind(workspace, arm)
    for item in read_scores(scores).items if is_complete(scores) else ():
        near = item["nearest"]
        image = str(Path(near["image"]).with_suffix(""))
        found.append(({"image": image, "flipped": "mirrored" in near["view"], "ratio": near["ratio"]}, kind, item))
    return found


def _line(arm: Arm, items: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence about an arm's images of all prompts."""
    closer = np.mean([item["values"]["copies"] for item in items])
    text = f"{arm.label}: {closer:.1%} of {len(items):,} images are nearer to a training image than 99% of "
    if not any("tag" in item for item in items):  # not a judge's
        return f"{text}training images are to another one."
    text += "unseen images."
    for alone, said in ((True, "with one object"), (False, "with several")):
        ratios = [i["nearest"]["features"]["ratio"] for i in items if (i.get("tag") in _ALONE) == alone]
        if ratios:
            text += f" Images of prompts {said} lie {np.median(ratios):.2f} times as far off as unseen ones."
    return text
