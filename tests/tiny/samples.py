"""Directories of samples as `tessera generate` makes them, with images of the test's choice."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tessera.stages import open_stage


def write_samples(
    directory: Path,
    lines: Sequence[dict[str, Any]],
    per_prompt: int = 2,
    *,
    extended: bool = False,
    paint: Callable[[int, int], np.ndarray] | None = None,
    size: int = 24,
) -> Path:
    """`paint(prompt, k)` gives an image uint8 (H, W, 3); noise by default."""
    stage = open_stage(directory, stage="generate", config={"per_prompt": per_prompt, "extended": extended})
    for i, line in enumerate(lines):
        folder = directory / f"{i:05d}"
        (folder / "samples").mkdir(parents=True)
        for k in range(per_prompt):
            rng = np.random.default_rng([i, k, extended])
            picture = paint(i, k) if paint else rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(picture).save(folder / "samples" / f"{k:04d}.png")
        text = line["extended"]["text"] if extended else line["prompt"]
        (folder / "metadata.jsonl").write_text(json.dumps({**line, "text": text}) + "\n")
    stage.finish({"prompts": len(lines), "images": len(lines) * per_prompt})
    return directory
