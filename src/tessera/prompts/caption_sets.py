"""Captions of images as prompts, from the user's own files: COCO's annotations, a caption directory, a table.

The paper draws one image for each caption of ImageNet's validation set and for 30,000 of COCO's (Table 1).
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tessera.config import UserError
from tessera.files import read_json, read_table
from tessera.randomness import philox

COCO = "coco:"
COCO_30K = "coco-30k:"
DPG = "dpg:"
CAPTIONS = "captions.parquet"
_DRAWN = 30_000

Rows = list[tuple[dict[str, Any], str]]


def is_caption_set(source: str) -> bool:
    """Return True if the name of a prompt set is one of this module's."""
    return (
        source.startswith((COCO, COCO_30K, DPG)) or source.endswith(".parquet") or (Path(source) / CAPTIONS).is_file()
    )


def read_caption_set(source: str) -> tuple[Path, Rows]:
    """Read a caption set: (its file, (metadata, text) of each prompt).

    `coco:FILE`: COCO's captions_*.json, the first caption of every image, in the order of the images' numbers.
    `coco-30k:FILE`: those of 30,000 images, drawn once for all. `dpg:FILE`: the prompts of DPG-Bench's dpg_bench.csv. A
    directory made by `tessera caption`, or a .parquet file with columns key and text: every row in its order. Metadata
    holds "prompt" and "image_id", "item_id" or "key". Raises UserError.
    """
    if source.startswith(DPG):
        path = Path(source.removeprefix(DPG))
        return path, _read_dpg(path)
    for scheme in (COCO_30K, COCO):
        if source.startswith(scheme):
            path = Path(source.removeprefix(scheme))
            rows = _read_coco(path)
            return path, _draw(path, rows) if scheme == COCO_30K else rows
    path = Path(source) / CAPTIONS if Path(source).is_dir() else Path(source)
    table = read_table(path, ["key", "text"])
    keys, texts = table.column("key").to_pylist(), table.column("text").to_pylist()
    for number, (key, text) in enumerate(zip(keys, texts), 1):
        if not isinstance(key, str) or not isinstance(text, str):
            raise UserError(f"{path}: row {number}: key and text must be strings")
    if not keys:
        raise UserError(f"{path}: holds no captions")
    return path, [({"prompt": text, "key": key}, text) for key, text in zip(keys, texts)]


def _read_dpg(path: Path) -> Rows:
    """Read the prompt of each item, in the file's order."""
    limit = csv.field_size_limit(1_000_000)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            items = {row.get("item_id"): row.get("text") for row in csv.DictReader(file, strict=True)}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a csv file ({error}); give DPG-Bench's dpg_bench.csv") from error
    finally:
        csv.field_size_limit(limit)
    if not items or None in items or None in items.values():
        raise UserError(f"{path}: needs columns item_id and text in every row; give DPG-Bench's dpg_bench.csv")
    return [({"prompt": text, "item_id": name}, text) for name, text in items.items() if name and text]


def _read_coco(path: Path) -> Rows:
    data = read_json(path)
    annotations = data.get("annotations") if isinstance(data, Mapping) else None
    if not isinstance(annotations, Sequence) or not annotations:
        raise UserError(f"{path}: has no annotations; give COCO's captions_val2014.json or one of its form")
    first: dict[int, tuple[int, str]] = {}  # image -> its caption of the lowest number
    for number, entry in enumerate(annotations):
        fields = [entry.get(name) if isinstance(entry, Mapping) else None for name in ("image_id", "id", "caption")]
        image, own, caption = fields
        if not isinstance(image, int) or not isinstance(own, int) or not isinstance(caption, str):
            raise UserError(f"{path}: annotations[{number}] needs image_id, id (integers) and caption (text)")
        if image not in first or own < first[image][0]:
            first[image] = (own, " ".join(caption.split()))
    return [({"prompt": text, "image_id": image}, text) for image, (_, text) in sorted(first.items())]


def _draw(path: Path, rows: Rows) -> Rows:
    if len(rows) < _DRAWN:
        raise UserError(
            f"{path}: has captions of {len(rows)} images, 30000 are needed; use {COCO}{path} for all of them"
        )
    chosen = philox(0, "prompts/coco-30k").choice(len(rows), size=_DRAWN, replace=False)
    return [rows[i] for i in sorted(chosen.tolist())]
