"""Directories of samples and networks without weights for `evaluate quality`."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tessera.evaluate.quality.metrics import QualityConfig
from tessera.stages import open_stage

WORDS = ["a red fox", "two blue cups", "a small house of grey stone under a pale sky, " * 4]


def write_samples(directory: Path, seed: int, prompts: int = 12, per_prompt: int = 2) -> Path:
    """What `generate` leaves: NNNNN/metadata.jsonl, NNNNN/samples/KKKK.png, a grid, a manifest."""
    stage = open_stage(directory, stage="generate", config={"extended": False, "per_prompt": per_prompt})
    rng = np.random.default_rng(seed)
    for i in range(prompts):
        folder = directory / f"{i:05d}"
        (folder / "samples").mkdir(parents=True)
        (folder / "metadata.jsonl").write_text(json.dumps({"prompt": "p", "text": f"{WORDS[i % 3]} {i}"}) + "\n")
        for k in range(per_prompt):
            pixels = np.kron(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
            Image.fromarray(pixels).save(folder / "samples" / f"{k:04d}.png")
        Image.fromarray(pixels).save(folder / "grid.png")
    stage.finish({"prompts": prompts, "images": prompts * per_prompt})
    return directory


class Moments:
    """A network of no weights: means, deviations and corners of an image; it counts what it is asked."""

    def __init__(self, name: str):
        import torch

        self.network = torch.nn.Linear(1, 1)
        self.id, self.sha256, self.resizing, self.cut, self.seen = name, name * 8, "none", "keep-end", 0
        self.scale = 100.0

    def prepare(self, picture):
        import torch

        self.seen += 1
        return torch.from_numpy(picture[::4, ::4].astype(np.float32) / 255)

    def features(self, batch):
        return batch.numpy().reshape(len(batch), -1)[:, :24] + 0.5

    def captions(self, texts):
        from types import SimpleNamespace

        rows = np.array([[len(t) * (j + 1) % 7 + 1.0 for j in range(24)] for t in texts], np.float32)
        return SimpleNamespace(features=rows, truncated=1)


def nets():
    return {name: Moments(name) for name in ("inception", "dinov2", "clip", "clip336")}


SMALL = QualityConfig(kid_subsets=3, batch_size=5, resamples=100)
