"""The training set in numbers: its name, classes, lengths and words of captions; and what to do after the report."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera.curate.caption.table import read_levels
from tessera.encoded.record import LONG
from tessera.pretrained.text_encoders import split_words
from tessera.stages import COMMAND, is_complete, read_manifest

CLASSES, WORDS = 30, 40
"""Numbers of classes and words that are shown, the most frequent ones."""
_SHORTEST = 3  # letters of a word; shorter ones are mostly articles


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """The section of the page."""

    about: str
    classes: Sequence[dict[str, Any]]
    """{name, count, share: percent of the largest}, the largest first."""
    other_classes: str
    """A sentence about those that are not shown, or ""."""
    lengths: Sequence[str]
    """A sentence for each level of captions."""
    words: Sequence[tuple[str, int]]
    """(word, its number of captions)."""
    credits: Sequence[str] = ()
    """Who made the images, and under which license."""


def training_set(workspace: Path) -> TrainingSet | None:
    """Return the section about images/ and captions/ of a working folder; None without images, or for the miniature."""
    images = workspace / "images"
    if not is_complete(images):
        return None
    manifest = read_manifest(images, "collect")
    if manifest.config.get("world") is not None:
        return None
    sizes = Counter(manifest.facts["classes"])
    shown, total = sizes.most_common(CLASSES), manifest.counts["images"]
    rest = len(sizes) - len(shown)
    other = f"{rest} more classes have {total - sum(count for _, count in shown):,} images." if rest else ""
    size = manifest.config["size"]
    about = f"{manifest.config['source']}: {total:,} images of {len(sizes)} classes, cut to {size} px."
    if enlarged := manifest.counts.get("enlarged"):
        about += f" {enlarged:,} of them were smaller and have been enlarged."
    lengths, words = [], Counter()
    plain = [path for path in sorted((workspace / "captions").glob("plain*")) if is_complete(path)]
    for level, texts in (read_levels(plain[0]) if plain else {}).items():
        counts = sorted(len(text.split()) for text in texts.values())
        low, middle, high = (counts[len(counts) * share // 100] for share in (1, 50, 99))
        name = "Captions" if level == LONG else f"Captions of the level {level}"
        lengths.append(f"{name}: {len(counts):,}, of {low} to {high} words, {middle} in the middle.")
        for text in texts.values():
            words.update({word for word in split_words(text) if len(word) >= _SHORTEST})
    largest = shown[0][1]
    return TrainingSet(
        about=about,
        classes=[{"name": name, "count": count, "share": round(100 * count / largest, 1)} for name, count in shown],
        other_classes=other,
        lengths=lengths,
        credits=read_manifest(emoji).facts["credits"] if is_complete(emoji := workspace / "emoji") else (),
        words=sorted(words.items(), key=lambda item: (-item[1], item[0]))[:WORDS],
    )


def next_steps(workspace: Path, arm: str, prompt: str, num_images: int, images: int) -> list[tuple[str, str]]:
    """Return (what it does, command) of what a user may do after the report of their own images.

    arm: an arm with an export. prompt: a caption of the set. num_images: samples that the arm saw in training. images:
    of the set. Training longer is told of a folder of the command `tessera run`, which kept its words there.
    """
    export, out = shlex.quote(f"{workspace}/export/{arm}"), shlex.quote(str(workspace))
    steps = [
        ("Draw what you like, in words that the captions have:", f"tessera generate {export} {shlex.quote(prompt)}"),
        ("The same on a web page, next to the training images:", f"tessera demo {export}"),
    ]
    if (command := workspace / COMMAND).is_file():
        again = f"{command.read_text(encoding='utf-8').strip()} --out {out} --num-images {4 * num_images}"
        about = "Train longer by the command of this run: images, captions and records stay, and training resumes:"
        steps.append((about, again))
    about = "Real networks at 256 px, on a GPU: the time and the commands:"
    return [*steps, (about, f"tessera plan --images {images} --network dit-s")]
