"""Published sets of captions as prompts: COCO's annotations, DPG-Bench, and tables of questions about images.

The paper draws one image for each caption of ImageNet's validation set and for 30,000 of COCO's (Table 1).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tessera.config import UserError
from tessera.files import read_json
from tessera.prompts.question_tables import read_question_table
from tessera.prompts.rows import read_rows
from tessera.randomness import philox

COCO = "coco:"
COCO_30K = "coco-30k:"
DPG = "dpg:"
QUESTIONS = "questions:"
_DRAWN = 30_000

Rows = list[tuple[dict[str, Any], str]]


def read_caption_set(source: str) -> tuple[Path, Rows] | None:
    """Read a caption set: (its file, (metadata, text) of each prompt); None if `source` is the name of none.

    `coco:FILE`: COCO's captions_*.json, the first caption of every image, in the order of the images' numbers.
    `coco-30k:FILE`: those of 30,000 images, drawn once for all. `dpg:FILE`: the prompts of DPG-Bench's dpg_bench.csv.
    `questions:FILE`: those of a table of questions, each once. Metadata holds "prompt", and "image_id", "item_id" or
    the long version as "extended". Raises UserError.
    """
    schemes = {DPG: _read_dpg, COCO: _read_coco, COCO_30K: _draw_coco, QUESTIONS: _read_questions}
    for scheme, read in schemes.items():
        if source.startswith(scheme):
            path = Path(source.removeprefix(scheme))
            return path, read(path)
    return None


def _read_dpg(path: Path) -> Rows:
    """Read the prompt of each item, in the file's order."""
    try:
        items = {row[item]: row[text] for _, row, (item, text) in read_rows(path, ("item_id",), ("text",), plain=False)}
    except UserError as error:
        raise UserError(f"{error}; give DPG-Bench's dpg_bench.csv") from error
    return [({"prompt": text, "item_id": name}, text) for name, text in items.items() if name and text]


def _read_questions(path: Path) -> Rows:
    rows: Rows = []
    for item in read_question_table(path, need_questions=False):
        longer = {"extended": {"text": item.long, "extender": f"{path.name}: long"}} if item.long else {}
        rows.append(({"prompt": item.text} | longer, item.text))
    return rows


def _read_coco(path: Path) -> Rows:
    data = read_json(path, "give COCO's captions_val2014.json or one of its form")
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


def _draw_coco(path: Path) -> Rows:
    rows = _read_coco(path)
    if len(rows) < _DRAWN:
        raise UserError(
            f"{path}: has captions of {len(rows)} images, 30000 are needed; use {COCO}{path} for all of them"
        )
    chosen = philox(0, "prompts/coco-30k").choice(len(rows), size=_DRAWN, replace=False)
    return [rows[i] for i in sorted(chosen.tolist())]
