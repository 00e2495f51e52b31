"""The log of a run: log.jsonl with one line per stretch of training; the same numbers for TensorBoard and W&B."""

import json
import re
import secrets
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tessera.config import UserError
from tessera.files import atomic_path, read_json, write_json

QUARTERS = 4
QUARTER_NAMES = [f"t_{q / QUARTERS:g}_to_{(q + 1) / QUARTERS:g}" for q in range(QUARTERS)]
TENSORBOARD = "tensorboard"
WANDB = "wandb.json"
"""File in the run's folder with the run's id at Weights & Biases."""
SECONDS = "seconds.json"
"""File in an unfinished run's folder: the time of training up to its last checkpoint, which no line of the log has."""
MEASURED = ("seconds", "images_per_second", "data_wait", "tflops", "bf16_peak_share", "memory_gb")
"""Fields of a line that differ between equal runs."""


def quarter_of(t: np.ndarray) -> np.ndarray:
    """Return the quarter of [0, 1] in which each time lies, 0..3, clean end first."""
    return np.minimum((t * QUARTERS).astype(np.int64), QUARTERS - 1)


class Window:
    """Sums over the steps since the last line; stored in checkpoints, so that a resumed run writes the same lines."""

    def __init__(self, sums: dict[str, Any] | None = None) -> None:
        quarters = {"quarter_loss": [0.0] * QUARTERS, "quarter_samples": [0] * QUARTERS}
        counts = dict.fromkeys(("steps", "samples", "augmented"), 0)
        self.sums: dict[str, Any] = sums or {**counts, "grad_norm": 0.0, "loss": 0.0, **quarters}

    def add(self, losses: np.ndarray, t: np.ndarray, augmented: np.ndarray, grad_norm: float) -> None:
        """Add one step: losses, times and set of each sample (batch,); the gradient's norm before clipping."""
        sums, quarter = self.sums, quarter_of(t)
        counts = np.bincount(quarter, minlength=QUARTERS).tolist()
        totals = np.bincount(quarter, weights=losses, minlength=QUARTERS).tolist()
        sums["steps"] += 1
        sums["samples"] += len(losses)
        sums["augmented"] += int(augmented.sum())
        sums["grad_norm"] += grad_norm
        sums["loss"] += float(losses.sum(dtype=np.float64))
        sums["quarter_loss"] = [a + b for a, b in zip(sums["quarter_loss"], totals)]
        sums["quarter_samples"] = [a + b for a, b in zip(sums["quarter_samples"], counts)]

    def line(self) -> dict[str, Any]:
        """Return the means; None where nothing was seen."""

        def mean(total: float, count: int) -> float | None:
            return total / count if count else None

        sums = self.sums
        return {
            "loss": mean(sums["loss"], sums["samples"]),
            "loss_by_t": [mean(a, n) for a, n in zip(sums["quarter_loss"], sums["quarter_samples"])],
            "grad_norm": mean(sums["grad_norm"], sums["steps"]),
            "augmented_share": mean(sums["augmented"], sums["samples"]),
        }


class Log:
    """Writer of log.jsonl. Everything but `MEASURED` is the same on every run.

    | field | meaning |
    |---|---|
    | num_images | images seen at the line's end |
    | loss, loss_by_t | mean since the last line, over all t and in the four quarters of [0, 1], clean end first |
    | grad_norm | mean norm of the gradient before clipping |
    | augmented_share | share of augmented samples |
    | lr | learning rate of the last step (Muon's is its own peak times the same factor) |
    | seconds | total time of training, without the time between a stop and a resume |
    | images_per_second | since the last line |
    | data_wait | share of that time in which the step waited for data, 0..1 |
    | tflops | TFLOP/s of each device by formula (`tessera.models.flops`), from the texts' mean length |
    | bf16_peak_share | tflops over the device's dense bf16 peak (`tessera.devices.PEAK_TFLOPS` or --peak-tflops) |
    | memory_gb | most memory in use so far: the device's, on a CPU the process's |
    | validation, validation_ema | loss on the held-out records, over all and by t, if measured; null: not finite |

    Scores of images have lines of their own, written when the judge is done: num_images, seen by the weights that drew;
    scores, by name; or failed, the judge's last words.
    """

    def __init__(self, path: Path, num_images: int, window: dict[str, Any] | None) -> None:
        """Drop the lines after `num_images`: the run resumes there. window: the sums of its checkpoint."""
        self.path, self.window = path, Window(window)
        kept = keep_lines(path, num_images)
        self.scored = {line["num_images"] for line in kept if "scores" in line}
        """Images seen at the evaluations whose lines are there."""
        stored = read_json(path.with_name(SECONDS)) if path.with_name(SECONDS).is_file() else {}
        logged = next((line["seconds"] for line in reversed(kept) if "seconds" in line), 0.0)
        self._before = stored["seconds"] if stored.get("num_images") == num_images else logged
        self._began = self._line_began = time.monotonic()
        self._line_images = num_images
        self.data_wait = 0.0
        self.tokens = self.texts = 0
        """Text tokens and captions of the batches since the last line."""

    def seconds_at(self, now: float) -> float:
        """Return the total time of training up to `now` by `time.monotonic`, to a millisecond."""
        return round(self._before + now - self._began, 3)

    def keep_seconds(self, num_images: int) -> None:
        """Store that time next to the checkpoint of `num_images`, for a resume."""
        write_json(
            self.path.with_name(SECONDS), {"num_images": num_images, "seconds": self.seconds_at(time.monotonic())}
        )

    def write(
        self,
        num_images: int,
        lr: float,
        measured: dict[str, Any] | None = None,
        flops: float = 0.0,
        peak: float | None = None,
    ) -> dict[str, Any]:
        """End the stretch with a line, and return it.

        measured: further fields. flops: a training image's FLOPs on one device, 0 = unknown. peak: the device's dense
        bf16 peak in TFLOP/s, if known.
        """
        now = time.monotonic()
        seconds = max(now - self._line_began, 1e-9)
        line = {
            "num_images": num_images,
            **self.window.line(),
            "lr": lr,
            "seconds": self.seconds_at(now),
            "images_per_second": round((num_images - self._line_images) / seconds, 2),
            "data_wait": round(self.data_wait / seconds, 4),
        }
        if flops:
            line["tflops"] = _four_digits(flops * line["images_per_second"] / 1e12)
        if flops and peak is not None:
            line["bf16_peak_share"] = _four_digits(line["tflops"] / peak)
        line["memory_gb"] = _four_digits(peak_memory() / 1e9)
        line |= measured or {}
        append_line(self.path, line)
        self.window, self.data_wait, self.tokens, self.texts = Window(), 0.0, 0, 0
        self._line_began, self._line_images = now, num_images
        return line


def _four_digits(value: float) -> float:
    return float(f"{value:.4g}")


def peak_memory() -> int:
    """Return the most bytes that this process ever had on its GPU; without one, in main memory (0 on Windows)."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def keep_lines(path: Path, num_images: int) -> list[dict[str, Any]]:
    """Drop a file's lines after `num_images`, and what a killed process left half written; return the others."""
    kept = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            break
        if line["num_images"] <= num_images:
            kept.append(line)
    with atomic_path(path) as temporary:
        temporary.write_text("".join(_dump(line) for line in kept), encoding="utf-8", newline="\n")
    return kept


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Append a line to a .jsonl file."""
    with open(path, "a", encoding="utf-8", newline="\n") as file:
        file.write(_dump(line))


def _dump(line: dict[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"


def scalars(line: dict[str, Any]) -> dict[str, float]:
    """Flatten a line of the log to named numbers: lists give one name per quarter of t, dicts one per key."""
    found: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, dict):
            found |= {f"{name}/{key}": v for key, v in scalars(value).items()}
        elif isinstance(value, list):
            found |= {f"{name}/{q}": v for q, v in zip(QUARTER_NAMES, value) if v is not None}
        elif isinstance(value, int | float) and name != "num_images":
            found[name] = value
    return found


class TensorBoard:
    """Event files in RUN/tensorboard/IMAGES: a folder, and so a curve, for each start, named by the images seen before.

    In one folder TensorBoard 2.21 shows the points of all files, whatever `purge_step` a later one has: those between
    the last checkpoint and the stop would be there twice. Folders of starts that this one repeats are removed; the
    second start at one place is IMAGES-2: an open TensorBoard that reads events by Python keeps to the files it knows
    of a name.
    """

    def __init__(self, run: Path, num_images: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        name, repeats = f"{num_images:012d}", 0
        for folder in (run / TENSORBOARD).glob("*"):
            found = re.fullmatch(r"(\d{12})(?:-(\d+))?", folder.name)
            if found is None or found[1] < name:
                continue
            if found[1] == name:
                repeats = max(repeats, int(found[2] or 1))
            shutil.rmtree(folder)
        self.writer = SummaryWriter(str(run / TENSORBOARD / (f"{name}-{repeats + 1}" if repeats else name)))

    def line(self, num_images: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, num_images)

    def scores(self, num_images: int, values: dict[str, float]) -> None:
        """Write values that belong to fewer images than were seen by now."""
        self.line(num_images, values)

    def image(self, num_images: int, image: np.ndarray) -> None:
        """Write an image, uint8 (H, W, 3)."""
        self.writer.add_image("samples", image, num_images, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class WandB:
    """A Weights & Biases run with the run folder's name, resumed by an id in the folder: names are not unique."""

    def __init__(self, run: Path, project: str, config: dict[str, Any]) -> None:
        try:
            import wandb  # type: ignore[import-not-found]
        except ImportError:
            raise UserError("wandb: Weights & Biases is not installed; run: pip install wandb") from None
        self.wandb = wandb
        if not (run / WANDB).exists():
            write_json(run / WANDB, {"id": secrets.token_hex(8)})
        own = read_json(run / WANDB)["id"]
        self.session = wandb.init(project=project, name=run.resolve().name, id=own, resume="allow", config=config)

    def line(self, num_images: int, values: dict[str, float]) -> None:
        self.session.log({**values, "num_images": num_images}, step=num_images)

    def scores(self, num_images: int, values: dict[str, float]) -> None:
        """Write values that belong to fewer images than were seen by now: its steps cannot go back."""
        self.session.log({**values, "scores/num_images": num_images})

    def image(self, num_images: int, image: np.ndarray) -> None:
        self.session.log({"samples": self.wandb.Image(image)}, step=num_images)

    def close(self) -> None:
        self.session.finish()
