"""The log's lines for people who watch: TensorBoard's files in the run's folder, and Weights & Biases if asked."""

import secrets
from pathlib import Path
from typing import Any

import numpy as np

from tessera.config import UserError
from tessera.files import read_json, write_json
from tessera.train.logs import QUARTERS

FOLDER = "tensorboard"
WANDB = "wandb.json"
"""In the run's folder: the id under which Weights & Biases knows it."""
QUARTER_NAMES = [f"t_{q / QUARTERS:g}_to_{(q + 1) / QUARTERS:g}" for q in range(QUARTERS)]


def scalars(line: dict[str, Any]) -> dict[str, float]:
    """A line of the log as named numbers: lists become one name for each quarter of t, dicts one for each key."""
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
    """Event files in RUN/tensorboard. `num_images`: where the run goes on; later points of before are dropped."""

    def __init__(self, run: Path, num_images: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run / FOLDER), purge_step=num_images + 1 if num_images else None)

    def line(self, num_images: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, num_images)

    def picture(self, num_images: int, picture: np.ndarray) -> None:
        """uint8 (H, W, 3)."""
        self.writer.add_image("samples", picture, num_images, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class WandB:
    """A Weights & Biases run of the run folder's name; goes on under the folder's own id, for many have one name."""

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

    def picture(self, num_images: int, picture: np.ndarray) -> None:
        self.session.log({"samples": self.wandb.Image(picture)}, step=num_images)

    def close(self) -> None:
        self.session.finish()
