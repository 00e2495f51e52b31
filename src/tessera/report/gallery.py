"""Images of pages: the same prompts drawn by every model, side by side, with the judge's verdicts."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera.evaluate.scores import Scores
from tessera.files import read_json
from tessera.images import data_uri, read_rgb, thumbnail
from tessera.report.arms import Arm
from tessera.report.tables import TASKS, name_of, shown

SMALL = 128
"""Images of at most this side are shown with hard pixels and stored without loss."""
LARGEST = 320
"""Larger images are scaled down to this side in the page."""
HELD_OUT, TRAINED_ON = "held_out", "trained_on"
"""Tags of prompts that are captions of the set."""
CAPTIONS = {
    HELD_OUT: "Captions of images that no training saw",
    TRAINED_ON: "Captions of training images",
}
PROMPTS = 24
"""Prompts of `most_different`."""
_EACH = 4  # images of one prompt and model in it


def embed(pixels: NDArray[np.uint8], alt: str, largest: int = LARGEST) -> dict[str, Any]:
    """Return uint8 (H, W, 3) as an image of the page: PNG if small, else JPEG of at most `largest` px.

    The result is {uri, width, height, alt, small}; small: shown with hard pixels.
    """
    small = max(pixels.shape[:2]) <= SMALL
    pixels = thumbnail(pixels, largest)
    height, width, _ = pixels.shape
    return {"uri": data_uri(pixels, SMALL), "width": width, "height": height, "alt": alt, "small": small}


def prompt_groups(
    folders: Mapping[str, Path],
    arms: Sequence[Arm],
    scores: Mapping[str, Scores],
    at_once: int,
    more: int,
    images: Path | None = None,
    nearest: Mapping[str, Mapping[str, str]] | None = None,
) -> list[dict[str, Any]]:
    """Return the prompts of the sample `folders` (arm -> folder in GenEval's layout) by task.

    The result is [{title, note, prompts, more}]: `at_once` prompts of each task in "prompts", up to `more` further
    ones in "more", and the task's accuracy of each arm in "note". scores: arm -> its scores. images: the training set,
    of which prompts that are captions show their own image. nearest: arm -> image drawn -> key of the training image
    nearest to it, shown below it.
    """
    drawn_by = [arm for arm in arms if arm.name in folders]
    items = {name: {(item["prompt"], item["sample"]): item for item in found.items} for name, found in scores.items()}
    paths = [path for folder in folders.values() for path in folder.iterdir() if path.name.isdecimal()]
    groups: dict[str, dict[str, Any]] = {}
    for number in sorted({int(path.name) for path in paths}):
        found = [folder / f"{number:05d}" / "metadata.jsonl" for folder in folders.values()]
        metadata = next((read_json(path) for path in found if path.is_file()), None)
        if metadata is None:
            continue
        tag = metadata.get("tag", "")
        title = name_of(tag) if tag in TASKS else CAPTIONS.get(tag, "")
        group = groups.setdefault(tag, {"title": title, "prompts": [], "more": []})
        place = group["prompts"] if len(group["prompts"]) < at_once else group["more"]
        if place is not group["more"] or len(place) < more:
            place.append(_prompt(number, metadata, drawn_by, folders, items, images, nearest or {}))
    tags = sorted(groups, key=lambda tag: TASKS.index(tag) if tag in TASKS else len(TASKS))
    for tag in tags:
        numbers = [(found.name, found.number(tag) or found.number(f"geneval/{tag}")) for found in scores.values()]
        groups[tag]["note"] = ", ".join(f"{label} {number.value:.2f}" for label, number in numbers if number)
    return [groups[tag] for tag in tags]


def _prompt(
    number: int,
    metadata: Mapping[str, Any],
    arms: Sequence[Arm],
    folders: Mapping[str, Path],
    items: Mapping[str, Mapping[tuple[int, int], Mapping[str, Any]]],
    images: Path | None,
    nearest: Mapping[str, Mapping[str, str]],
) -> dict[str, Any]:
    """Return one prompt with each arm's images and their verdicts, and with the images of the set that belong to it."""

    def of_set(key: str | None, alt: str) -> dict[str, Any] | None:
        file = images / f"{key}.png" if images is not None and key else None
        return embed(read_rgb(file), f"{alt}, {key}") if file is not None and file.is_file() else None

    text = metadata.get("text", metadata["prompt"])
    # A long text is judged by its short prompt: both are shown.
    asked = metadata["prompt"] if text != metadata["prompt"] else ""
    drawn, judged = [], False
    for arm in arms:
        shots = []
        for path in sorted((folders[arm.name] / f"{number:05d}" / "samples").glob("*.png")):
            item = items.get(arm.name, {}).get((number, int(path.stem)), {})
            judged |= item.get("correct") is not None
            shots.append(_shot(path, arm.label, text, item if item.get("correct") is not None else {}))
            near = nearest.get(arm.name, {}).get(f"{number:05d}/samples/{path.name}")
            shots[-1]["near"] = of_set(near, "Nearest training image")
        drawn.append({"label": arm.label, "color": arm.color, "shots": shots})
    real = of_set(metadata.get("key"), "Image of this caption")
    return {"text": text, "asked": asked, "arms": drawn, "judged": judged, "real": real}


def _shot(path: Path, model: str, text: str, item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the image `path` that `model` drew of `text`, with what the judge said of it."""
    correct, reason = item.get("correct"), str(item.get("reason") or "")
    values = {name: value for name, value in item.get("values", {}).items() if value is not None}
    said = ", ".join(f"{name_of(name)} {shown(value)}" for name, value in values.items())
    if reason:  # a mark says the value of what is right or wrong
        said = f"{said}. {reason}" if correct is None else reason
    judged = "" if correct is None else f"judged {'right' if correct else 'wrong'}: "
    alt = f"{model} draws: {text.rstrip('.')}. {judged}{said}".rstrip()
    return {"image": embed(read_rgb(path), alt), "correct": correct, "said": said, "near": None}


def most_different(
    scores: Sequence[Scores], samples: Sequence[Path], colors: Mapping[str, int], count: int = PROMPTS
) -> list[dict[str, Any]]:
    """Return `count` prompts with every model's images, those first whose values differ most; the judges take turns.

    samples: the folder of the images of each of `scores`. colors: name -> its color.
    """
    found: dict[str, dict[int, list[tuple[Path, Mapping[str, Any]]]]] = {}  # text -> number of the scores -> images
    for number, (item, folder) in enumerate(zip(scores, samples)):
        for entry in item.items:
            path = Path(folder) / str(entry.get("file", ""))
            if path.resolve().is_relative_to(Path(folder).resolve()) and path.is_file():
                text = str(entry.get("text") or _text_of(path) or entry.get("prompt"))
                found.setdefault(text, {}).setdefault(number, []).append((path, entry))
    apart, of_judges = {}, {}  # each judge has a scale of its own
    for text, images in found.items():
        values = [[entry["values"].values() for _, entry in each] for each in images.values()]
        sums = [sum(next((v for v in item if v is not None), 0.0) for item in each) for each in values]
        apart[text] = max(sums) - min(sums)
        of_judges.setdefault(scores[min(images)].kind, []).append(text)
    ordered = [sorted(texts, key=lambda text: (-apart[text], text)) for texts in of_judges.values()]
    taken = [text for texts in itertools.zip_longest(*ordered) for text in texts if text is not None][:count]
    prompts = []
    for text in taken:
        drawn = []
        for number, entries in sorted(found[text].items()):
            name = scores[number].name
            shots = [_shot(path, name, text, entry) for path, entry in entries[:_EACH]]
            drawn.append({"label": name, "color": colors[name], "shots": shots})
        prompts.append({"text": text, "asked": "", "arms": drawn, "judged": True, "real": None})
    return prompts


def _text_of(image: Path) -> str | None:
    """Return the text that an image in GenEval's layout was drawn of, for items of a judge that keeps none."""
    path = image.parents[1] / "metadata.jsonl"
    return read_json(path).get("text") if path.is_file() else None
