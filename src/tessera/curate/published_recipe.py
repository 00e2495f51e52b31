"""Names of images in captions, such as base_partner_x0_y0_x1_y1, which the published ones have for CutMix images.

Such a name says the whole row of a recipe: which images, and the box in pixels at 256 px. So a recipe can be made
again from the captions (`tessera augment images --from-captions FILE`), and needs nothing else.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from tessera.config import UserError
from tessera.curate.caption.file import read_captions_file
from tessera.curate.index import ImageRow
from tessera.cutmix import pattern_of
from tessera.images import READABLE
from tessera.records import Placement

_BOX = re.compile(r"(.+)_(\d+)_(\d+)_(\d+)_(\d+)")


def without_suffix(name: str) -> str:
    """Return the name without the suffix of an image file."""
    place = PurePosixPath(name)
    return name[: -len(place.suffix)] if place.suffix.lower() in READABLE else name


def image_names(rows: Iterable[ImageRow]) -> dict[str, str]:
    """Return every name that an image may have in a file of captions -> its key.

    Its key, its file, its source, these without suffix, and their last part where no other image has it.
    """
    names: dict[str, str] = {}
    stems: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows:
        for name in (row.source, without_suffix(row.source), row.file):
            if name:
                names.setdefault(name, row.key)
        for stem in (row.key, row.source):
            stems[_stem(stem)].add(row.key)
    by_stem = {stem: key for stem, (key, *others) in stems.items() if not others}
    # A key wins over another image's file of that name, and any full name over a last part.
    return by_stem | names | {row.key: row.key for row in rows}


def _stem(name: str) -> str:
    return without_suffix(name).rpartition("/")[2]


def published_name(base: str, partner: str, placement: Placement) -> str:
    """Return base_partner_x0_y0_x1_y1 of a mix of the images with these keys."""
    return "_".join([_stem(base), _stem(partner), *map(str, placement.box)])


def mixes_in(path: str | Path, rows: Sequence[ImageRow], size: int) -> tuple[list[tuple[str, str, Placement]], int]:
    """Return (base, partner, placement) of each name of that form in a captions file or folder, and the number of names
    of images that are not among `rows`. Raises UserError if none has the form, or for a box that no pattern has at
    `size`."""
    names = image_names(rows)
    found: dict[tuple[str, str, tuple[int, ...]], Placement] = {}
    strange = 0
    for name, _ in read_captions_file(path, names):
        match = _BOX.fullmatch(_stem(name))
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
