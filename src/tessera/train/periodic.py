"""What is done between two steps when it is time: measuring, a line of the log, a grid of pictures, a checkpoint."""

from pathlib import Path
from typing import Any

from torch import Tensor

from tessera.config import to_dict
from tessera.devices import rank, world_size
from tessera.images import image_grid, write_png
from tessera.models.flops import step_flops
from tessera.train.boards import TensorBoard, WandB, scalars
from tessera.train.config import Means, TrainConfig
from tessera.train.loader import Reader
from tessera.train.logs import Log
from tessera.train.state import TrainState
from tessera.train.validation import GRID_SIDE, Grid, HeldOut


class Boundaries:
    """Knows when it is time for what. All ranks go through it, since all may have to compute; one writes."""

    def __init__(
        self,
        out: Path,
        config: TrainConfig,
        means: Means,
        state: TrainState,
        reader: Reader,
        null_condition: Tensor,
        micro: int,
    ) -> None:
        """`micro`: samples per forward pass."""
        self.out, self.config, self.means, self.state, self.null_condition = out, config, means, state, null_condition
        self.held_out = HeldOut(reader, config, micro, state.device, state.dtype) if config.validation_records else None
        draws = config.sample_every_images is not None and means.decode is not None
        self.grid = Grid(reader, config, state.device, state.dtype) if draws else None
        self.log: Log | None = None
        """Where it writes; None on the other ranks."""
        self.boards: list[TensorBoard | WandB] = []

    def open_boards(self) -> None:
        """TensorBoard's files, and W&B where that is wanted."""
        self.boards = [TensorBoard(self.out, self.state.num_images)]
        if self.means.wandb is not None:
            self.boards.append(WandB(self.out, self.means.wandb, to_dict(self.config)))

    def close_boards(self) -> None:
        for board in self.boards:
            board.close()

    def here(self) -> bool:
        """Whether the last step reached one."""
        c = self.config
        every = (c.log_every_images, c.checkpoint_every_images, c.validate_every_images, c.sample_every_images)
        return any(self._crossed(e) for e in every if e is not None)

    def do(self, lr: float, stop: bool) -> None:
        """Measures, logs, draws and saves where it is time for that. lr: of the last step; stop: saves in any case."""
        config, further = self.config, {}
        if self.held_out is not None and self._crossed(config.validate_every_images or config.checkpoint_every_images):
            further = self.validate(self.held_out)
        if self.log and (self._crossed(config.log_every_images) or further):
            line = self.log.write(self.state.num_images, lr, further, self._flops_per_image, self.means.peak_tflops)
            for board in self.boards:
                board.line(self.state.num_images, scalars(line))
        if self.grid is not None and config.sample_every_images and self._crossed(config.sample_every_images):
            self._draw(self.grid)
        if self._crossed(config.checkpoint_every_images) or stop:
            self.state.save(self.out, self.log.window.sums if self.log else None)

    def validate(self, held_out: HeldOut) -> dict[str, Any]:
        """The loss on the held-out records, by the weights and by each average."""
        network = self.state.network
        found: dict[str, Any] = {"validation": held_out.loss(network, self.null_condition)}
        for name, average in self.state.averages.items():
            with self.state.optimizer.using(average.weights):
                found[f"validation_{name}"] = held_out.loss(network, self.null_condition)
        return found

    def _draw(self, grid: Grid) -> None:
        """A grid of pictures by the averaged weights, as a file and on the boards."""
        if rank() > 0 and self.state.shards is None:
            return
        with self.state.optimizer.using(self.state.averages["ema"].weights):
            latents = grid.latents(self.state.network, self.null_condition)
        if self.log and self.means.decode is not None:
            picture = image_grid(self.means.decode(latents), GRID_SIDE, gap=0, background=0)
            write_png(self.out / "samples" / f"{self.state.num_images:012d}.png", picture)
            for board in self.boards:
                board.picture(self.state.num_images, picture)

    def _flops_per_image(self, tokens: float) -> float:
        """On one device, of an image of the whole batch."""
        return step_flops(self.config.model, tokens, self.config.self_condition_prob) / world_size()

    def _crossed(self, every: int) -> bool:
        """Whether the last step went over a multiple of `every` images, or was the last of all."""
        now, before = self.state.num_images, self.state.num_images - self.config.batch_size
        return now // every > before // every or now == self.config.num_images
