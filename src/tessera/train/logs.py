"""log.jsonl: one line for each stretch of training, and what its averages are made of."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tessera.files import atomic_path

QUARTERS = 4


def quarter_of(t: np.ndarray) -> np.ndarray:
    """In which quarter of [0, 1] each time lies, 0..3, clean end first."""
    return np.minimum((t * QUARTERS).astype(np.int64), QUARTERS - 1)


class Window:
    """Sums over the steps since the last line; kept in checkpoints, so that a resumed run writes the same lines."""

    def __init__(self, sums: dict[str, Any] | None = None) -> None:
        self.sums: dict[str, Any] = sums or {
            "steps": 0,
            "samples": 0,
            "augmented": 0,
            "grad_norm": 0.0,
            "loss": 0.0,
            "quarter_loss": [0.0] * QUARTERS,
            "quarter_samples": [0] * QUARTERS,
        }

    def add(self, losses: np.ndarray, t: np.ndarray, augmented: np.ndarray, grad_norm: float) -> None:
        """One step: losses, times and which set, of each sample (batch,); the gradient's norm before clipping."""
        quarter = quarter_of(t)
        counts = np.bincount(quarter, minlength=QUARTERS).tolist()
        totals = np.bincount(quarter, weights=losses, minlength=QUARTERS).tolist()
        sums = self.sums
        sums["steps"] += 1
        sums["samples"] += len(losses)
        sums["augmented"] += int(augmented.sum())
        sums["grad_norm"] += grad_norm
        sums["loss"] += float(losses.sum(dtype=np.float64))
        sums["quarter_loss"] = [a + b for a, b in zip(sums["quarter_loss"], totals)]
        sums["quarter_samples"] = [a + b for a, b in zip(sums["quarter_samples"], counts)]

    def line(self) -> dict[str, Any]:
        """The averages; None where nothing was seen."""
        sums = self.sums
        return {
            "loss": _mean(sums["loss"], sums["samples"]),
            "loss_by_t": [_mean(a, n) for a, n in zip(sums["quarter_loss"], sums["quarter_samples"])],
            "grad_norm": _mean(sums["grad_norm"], sums["steps"]),
            "augmented_share": _mean(sums["augmented"], sums["samples"]),
        }


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None


class Log:
    """Appends to log.jsonl. Everything but `MEASURED` is the same on every run.

    | field | meaning |
    |---|---|
    | num_images | images seen at the line's end |
    | loss, loss_by_t | mean since the last line, over all t and in the four quarters of [0, 1], clean end first |
    | grad_norm | mean norm of the gradient before clipping |
    | augmented_share | share of augmented samples |
    | lr | learning rate of the last step (Muon's is its own peak times the same factor) |
    | seconds | of training in all, without the time between a stop and a resume |
    | images_per_second | since the last line |
    | data_wait | share of that time in which the step waited for data, 0..1 |
    | tflops | TFLOP/s of each device by formula (`tessera.models.flops`), from the texts' mean length |
    | peak_share | of the device's stated peak, if that was given |
    | memory_gb | most memory in use so far: the device's, on a CPU the process's |
    | validation, validation_ema | loss on the held-out records, in all and by t, if measured; null: not finite |
    """

    def __init__(self, path: Path, num_images: int, window: dict[str, Any] | None) -> None:
        """Drops the lines after `num_images`: the run goes on from there."""
        self.path, self.window = path, Window(window)
        kept = keep_lines(path, num_images)
        self._before = kept[-1]["seconds"] if kept else 0.0
        self._began = self._line_began = time.monotonic()
        self._line_images = num_images
        self.data_wait = 0.0
        self.tokens = self.texts = 0
        """Of the batches since the last line: text tokens and captions."""

    def write(
        self,
        num_images: int,
        lr: float,
        further: dict[str, Any] | None = None,
        flops: Callable[[float], float] | None = None,
        peak_tflops: float | None = None,
    ) -> dict[str, Any]:
        """Ends the stretch with a line, which is returned. `further`: what was measured at its end. `flops`: a training
        image's FLOPs on one device, for a mean number of text tokens."""
        now = time.monotonic()
        seconds = max(now - self._line_began, 1e-9)
        line = {
            "num_images": num_images,
            **self.window.line(),
            "lr": lr,
            "seconds": round(self._before + now - self._began, 3),
            "images_per_second": round((num_images - self._line_images) / seconds, 2),
            "data_wait": round(self.data_wait / seconds, 4),
        }
        if flops is not None and self.texts:
            line["tflops"] = _rounded(flops(self.tokens / self.texts) * line["images_per_second"] / 1e12)
            if peak_tflops is not None:
                line["peak_share"] = _rounded(line["tflops"] / peak_tflops)
        line["memory_gb"] = _rounded(peak_memory() / 1e9)
        line |= further or {}
        append_line(self.path, line)
        self.window, self.data_wait, self.tokens, self.texts = Window(), 0.0, 0, 0
        self._line_began, self._line_images = now, num_images
        return line


MEASURED = ("seconds", "images_per_second", "data_wait", "tflops", "peak_share", "memory_gb")
"""The fields that differ between equal runs."""


def _rounded(value: float) -> float:
    """Four digits."""
    return float(f"{value:.4g}")


def peak_memory() -> int:
    """Bytes: the most that this process ever had on its GPU; without one, in main memory."""
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    import resource  # Unix alone has it

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def keep_lines(path: Path, num_images: int) -> list[dict[str, Any]]:
    """Drops a file's lines after `num_images`; returns the others."""
    kept = [line for line in _lines(path) if line["num_images"] <= num_images]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(_dump(line) for line in kept), encoding="utf-8", newline="\n")
    return kept


def append_line(path: Path, line: dict[str, Any]) -> None:
    with open(path, "a", encoding="utf-8", newline="\n") as file:
        file.write(_dump(line))


def _dump(line: dict[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines; a killed process may have left half of one at the end."""
    if not path.exists():
        return []
    whole = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            whole.append(json.loads(text))
        except ValueError:
            break
    return whole
