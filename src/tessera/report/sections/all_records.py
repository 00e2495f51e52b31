"""The list of all records of a directory: filtered, searched and sorted in the browser, a screen at a time.

Small images lie in blocks of JSON that the browser does not read before they are shown, so a page of 20,000 opens at
once.
"""

import base64
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from tessera.images import thumbnail
from tessera.metrics.image_hash import cells, near_duplicates
from tessera.progress import progress

SIDE = 64
"""Largest side of the small images in pixels."""
BLOCK = 200
"""Images in a block."""
CLASSES = 40
"""Largest classes of the histogram."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A record to list."""

    key: str
    class_name: str
    caption: str
    source_side: int
    """Shorter side of its source in pixels; 0 = not known."""


@dataclass(frozen=True, kw_only=True)
class AllRecords:
    """The section of the page."""

    total: int
    classes: Sequence[Mapping[str, Any]]
    """{number, name, count, share: percent of the largest}, the largest first."""
    other_classes: int
    """Number of classes that the histogram leaves out."""
    names: Sequence[str]
    """Every class, in the order of the filter."""
    near: int
    """Records that have a near duplicate."""
    index: Markup
    """JSON: keys, classes, captions, sides and groups of near duplicates of the records."""
    blocks: Sequence[Markup]
    """JSON lists of JPEG files in base64."""


def all_records(records: Sequence[Record], images: Iterable[NDArray[np.uint8]]) -> AllRecords:
    """Return the section about `records` and their images (H, W, 3), in the same order."""
    files, colors = [], []
    with progress("preview", len(records)) as bar:
        for pixels in images:
            small = thumbnail(pixels, SIDE)
            colors.append(cells(pixels))
            files.append(_jpeg(small))
            bar.advance()
    groups = near_duplicates(np.stack(colors)) if colors else np.empty(0, np.int32)
    sizes = Counter(record.class_name for record in records)
    names = sorted(sizes)
    number = {name: place for place, name in enumerate(names)}
    index = {
        "keys": [record.key for record in records],
        "classes": [number[record.class_name] for record in records],
        "names": names,
        "captions": [record.caption for record in records],
        "sides": [record.source_side for record in records],
        "groups": groups.tolist(),
    }
    shown = sizes.most_common(CLASSES)
    return AllRecords(
        total=len(records),
        classes=[
            {"number": number[name], "name": name, "count": count, "share": round(100 * count / shown[0][1], 1)}
            for name, count in shown
        ],
        other_classes=len(sizes) - len(shown),
        names=names,
        near=int((groups >= 0).sum()),
        index=_json(index),
        blocks=[_json(files[start : start + BLOCK]) for start in range(0, len(files), BLOCK)],
    )


def _jpeg(pixels: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85, subsampling=0)
    return base64.b64encode(file.getvalue()).decode()


def _json(data: Any) -> Markup:
    """Return JSON that no text in it can end."""
    return Markup(json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))
