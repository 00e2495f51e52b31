"""Names of images in captions, such as base_partner_x0_y0_x1_y1, which the published ones have for CutMix images.

Such a name says the whole row of a recipe: which images, and the box in pixels at 256 px. So a recipe can be made
again from the captions (`tessera augment images --from-captions FILE`), and needs nothing else.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from tessera.config import UserError
from tessera.curate.caption.file import read_captions_file
from tessera.curate.caption.names import image_names, last_part
from tessera.curate.index import ImageRow
from tessera.cutmix import pattern_of
from tessera.records import Placement

_BOX = re.compile(r"(.+)_(\d+)_(\d+)_(\d+)_(\d+)")


def published_name(base: str, partner: str, placement: Placement) -> str:
    """Return base_partner_x0_y0_x1_y1 of a mix of the images with these keys."""
    return "_".join([last_part(base), last_part(partner), *map(str, placement.box)])


def mixes_in(path: str | Path, rows: Sequence[ImageRow], size: int) -> tuple[list[tuple[str, str, Placement]], int]:
    """Return (base, partner, placement) of each name of that form in a captions file or folder, and the number of names
    of images that are not among `rows`. Raises UserError if none has the form, or for a box that no pattern has at
    `size`."""
    names = image_names(rows)
    found: dict[tuple[str, str, tuple[int, ...]], Placement] = {}
    strange = 0
    for name, _, _ in read_captions_file(path, names):
        match = _BOX.fullmatch(last_part(name))
        if match is None:
            continue
        pair = _split(match.group(1), names)
        if pair is None:
            strange += 1
            continue
        left, top, right, bottom = map(int, match.groups()[1:])
        box = (left, top, right, bottom)
        pattern = pattern_of(box, size)
        if pattern is None:
            raise UserError(
                f"{path}: the box {box} in the name {name!r} is of no pattern at {size} px;"
                " the published names are for 256 px: collect with --size 256"
            )
        found[(*pair, box)] = Placement(pattern, box, size)
    if not found:
        seen = f"{strange} names of other images" if strange else "no name of the form base_partner_x0_y0_x1_y1"
        raise UserError(f"{path}: has {seen}, so it says no recipe; draw one with --pattern instead")
    return [(base, partner, placement) for (base, partner, _), placement in sorted(found.items())], strange


def _split(pair: str, names: dict[str, str]) -> tuple[str, str] | None:
    """Return the keys of base and partner in "base_partner", whose own names may have underscores."""
    halves = ((pair[:place], pair[place + 1 :]) for place, character in enumerate(pair) if character == "_")
    return next(((names[base], names[partner]) for base, partner in halves if base in names and partner in names), None)
