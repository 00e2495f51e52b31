"""Scores of GenEval and of image quality, of the test's choice, and images to go with them."""

from pathlib import Path

import numpy as np
from PIL import Image

from tessera.evaluate.intervals import mean_interval
from tessera.evaluate.scores import Extender, Number, Protocol, Scores

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


HOSTILE = "<script>alert('x')</script> a | red & \"blue\" fox"


def geneval(name: str, skill: float, seed: int = 0, extended: bool = False, prompts: int = 24, **protocol) -> Scores:
    rng = np.random.default_rng(seed)
    extender = Extender(model="llama", prompt="t", seed=0) if extended else None
    items, numbers = [], []
    for i in range(prompts):
        for k in range(2):
            right, tag = bool(rng.random() < skill), TASKS[i % 6]
            values = {"geneval/overall": float(right), f"geneval/{tag}": float(right)}
            items.append(
                {"prompt": i, "sample": k, "file": f"{i:05d}/samples/{k:04d}.png", "text": f"{HOSTILE} {i}", "tag": tag}
                | {"values": values, "correct": right, "reason": "found <b>fox</b>"}
            )
    for task in ("overall", *TASKS):
        rows = [item for item in items if f"geneval/{task}" in item["values"]]
        values = [row["values"][f"geneval/{task}"] for row in rows]
        tags = [row["tag"] for row in rows] if task == "overall" else None
        interval = mean_interval(values, [row["prompt"] for row in rows], tags)
        about = Protocol(metric=f"geneval/{task}", name="geneval", encoder="det", extender=extender, **protocol)
        ends = {"low": interval.low, "value": interval.value, "high": interval.high}
        over = "tags" if task == "overall" else "items"
        numbers.append(Number(metric=about.metric, **ends, n=len(rows), clusters=prompts, over=over, protocol=about))
    return Scores(kind="geneval", name=name, numbers=tuple(numbers), items=tuple(items))


def quality(name: str, fid: float, num_images: int | None = None, **protocol) -> Scores:
    about = Protocol(**{"metric": "fid", "name": "full", "images": 100, **protocol})
    number = Number(metric="fid", value=fid, n=100, protocol=about)
    return Scores(kind="quality", name=name, numbers=(number,), num_images=num_images)


def write_images(directory: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    for i in range(24):
        for k in range(2):
            path = directory / f"{i:05d}" / "samples" / f"{k:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.kron(rng.integers(0, 256, (4, 4, 3), np.uint8), np.ones((8, 8, 1), np.uint8))).save(path)
    return directory
