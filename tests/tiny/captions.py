"""Captions files of every format."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

TRICKY = 'He said "look, a \u732b",\nthen\t left; it\'s 5\\" \u00e9'


def write_captions(path: Path, rows: Iterable[tuple[str, str]], name: str = "key", text: str = "text") -> Path:
    """Write (name, text) rows as the format that the suffix names, with one more column."""
    rows = list(rows)
    if path.suffix == ".jsonl":
        lines = [json.dumps({name: k, text: v, "more": 1}, ensure_ascii=False) for k, v in rows]
        path.write_text("\n".join(lines) + "\n\n")
    elif path.suffix == ".parquet":
        pq.write_table(pa.table({name: [k for k, _ in rows], text: [v for _, v in rows]}), path)
    else:
        with open(path, "w", newline="", encoding="utf-8-sig" if name == "key" else "utf-8") as file:
            writer = csv.writer(file, dialect="excel-tab" if path.suffix == ".tsv" else "excel")
            writer.writerows([("more", name, text), *(("", k, v) for k, v in rows)])
    return path
