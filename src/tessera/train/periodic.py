"""Actions between two steps when their time has come: validation, a line of the log, a grid of images, their scores, a
checkpoint."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tessera.config import UserError
from tessera.devices import peak_tflops, rank, world_size
from tessera.files import read_json
from tessera.images import image_grid, write_png
from tessera.models.flops import step_flops
from tessera.train import checkpoint
from tessera.train.config import JudgeOptions, RuntimeOptions, TrainConfig
from tessera.train.distributed import broadcast_from_rank0
from tessera.train.loader import Reader
from tessera.train.logs import Log, TensorBoard, WandB, scalars
from tessera.train.state import TrainState
from tessera.train.validation import (
    EVALUATIONS,
    GRID_SIDE,
    Evaluations,
    SampleGrid,
    ValidationLoss,
    write_weights,
)


class BestEMA:
    """The EMA weights with the lowest loss on held-out records so far, in RUN/best, apart from the checkpoints."""

    def __init__(self, run: Path, state: TrainState) -> None:
        self.run, self.folder, self.state = run, run / checkpoint.BEST, state
        self.num_images, self.loss = 0, float("inf")

    def resume(self) -> None:
        """Find what was the best when the state's checkpoint was written; later ones are deleted. All ranks call it."""
        if rank() == 0:
            there = checkpoint.found(self.folder)
            checkpoint.remove(path for path in there if int(path.name) > self.state.num_images)
            self.num_images = max((int(path.name) for path in checkpoint.found(self.folder)), default=0)
        self.num_images = broadcast_from_rank0(self.num_images, self.state.device)
        if self.num_images:
            place = self.folder / checkpoint.FOLDER / f"{self.num_images:012d}"
            self.loss = read_json(place / checkpoint.META)["validation_ema"]

    def offer(self, loss: float | None) -> None:
        """Keep the EMA of now if its loss is the lowest; all ranks call it with the same. None: it is not finite."""
        if loss is None or loss >= self.loss:
            return
        self.num_images, self.loss = self.state.num_images, loss
        averages = {name: tensor for name, tensor in self.state.tensors().items() if name.startswith("ema/")}
        checkpoint.save(self.folder, self.num_images, averages, {"validation_ema": loss}, keep=sys.maxsize)
        if rank() == 0:  # a run that is killed now resumes from the last checkpoint, and needs what was the best there
            last = checkpoint.latest(self.run)
            older = checkpoint.found(self.folder)[:-1]
            before = [path for path in older if last is not None and path.name <= last.name]
            checkpoint.remove(path for path in older if path not in before[-1:])


class PeriodicActions:
    """The actions and their intervals. All ranks go through them, since all may have to compute; one writes."""

    def __init__(
        self,
        out: Path,
        config: TrainConfig,
        state: TrainState,
        reader: Reader,
        null_condition: Tensor,
        samples_per_pass: int,
        runtime: RuntimeOptions,
    ) -> None:
        self.out, self.config, self.state, self.decode = out, config, state, runtime.decode
        self.validation = self.grid = self.best = None
        if config.validation_records:
            self.validation = ValidationLoss(reader, config, null_condition, samples_per_pass)
            self.best = BestEMA(out, state)
        if config.sample_every_images is not None and runtime.decode is not None:
            self.grid = SampleGrid(reader, config, null_condition)
        elif config.sample_every_images is not None and rank() == 0:
            fix = "give RuntimeOptions one, as tessera.pretrained.training.networks_of_training makes it"
            print(f"train: sample_every_images without a decoder of latents draws no images; {fix}", file=sys.stderr)
        gpu = torch.cuda.get_device_name(state.device) if state.device.type == "cuda" else None
        self.peak = runtime.peak_tflops or (peak_tflops(gpu) if gpu else None)
        self.judge, self.facts = runtime.judge, {}
        """Options of the scores on the way, the same on all ranks; and facts of the run's manifest, for the judge."""
        self.evaluations: Evaluations | None = None
        """Scores on the way, on the writing rank."""
        self.stopping: Callable[[], bool] = lambda: False
        """Returns True once a signal has told this process to stop."""
        self.log: Log | None = None
        """Log of the writing rank; None on the others."""
        self.boards: list[TensorBoard | WandB] = []

    @property
    def due(self) -> bool:
        """True: the last step reached the time of an action."""
        c = self.config
        every = (c.log_every_images, c.checkpoint_every_images, c.validate_every_images, c.sample_every_images)
        every += (self.judge.evaluate_every_images,) if self.judge else ()
        return any(self._crossed(e) for e in every if e is not None)

    @property
    def no_gain(self) -> bool:
        """True: the EMA was measured after the last step, and its loss on held-out records has not been lower than the
        lowest for so many images that the run ends."""
        if self.best is None or self.config.stop_after_no_gain is None or not self._validates:
            return False
        return self.state.num_images - self.best.num_images >= self.config.stop_after_no_gain

    def run(self, lr: float, stop: bool) -> None:
        """Do whatever is due after a step. lr: of that step; stop: save in any case."""
        config, measured = self.config, {}
        if self.validation and self.best and self._validates:
            measured = self.validate(self.validation)
            self.best.offer(measured["validation_ema"]["loss"])
        if self.log and (self._crossed(config.log_every_images) or measured):
            # One device's share of the FLOPs of an image of the whole batch.
            tokens = self.log.tokens / self.log.texts
            flops = step_flops(config.model, tokens, config.self_condition_prob) / world_size()
            line = self.log.write(self.state.num_images, lr, measured, flops, self.peak)
            for board in self.boards:
                board.line(self.state.num_images, scalars(line))
        if self.grid is not None and config.sample_every_images and self._crossed(config.sample_every_images):
            self._sample(self.grid)
        if self.judge and (self._crossed(self.judge.evaluate_every_images) or self.no_gain):
            self._evaluate(self.judge)
        elif self.evaluations:
            self.evaluations.poll()
        if self._crossed(config.checkpoint_every_images) or stop or self.no_gain:
            window = self.log.window.sums if self.log else None
            self.state.save(self.out, window, config.keep_checkpoints, config.keep_every_images)
            if self.log:
                self.log.keep_seconds(self.state.num_images)

    def validate(self, validation: ValidationLoss) -> dict[str, Any]:
        """Return the loss on the held-out records, by the weights and by their EMA."""
        online = validation.loss(self.state.network)
        with self.state.optimizer.using(self.state.ema.weights):
            return {"validation": online, "validation_ema": validation.loss(self.state.network)}

    def _sample(self, grid: SampleGrid) -> None:
        """Write a grid of images by the EMA weights, to a file and to the boards."""
        if rank() > 0 and self.state.optimizer.split is None:
            return
        with self.state.optimizer.using(self.state.ema.weights):
            latents = grid.latents(self.state.network)
        if self.log and self.decode is not None:
            image = image_grid(self.decode(latents), GRID_SIDE, gap=0, background=0)
            write_png(self.out / "samples" / f"{self.state.num_images:012d}.png", image)
            for board in self.boards:
                board.image(self.state.num_images, image)

    @property
    def _validates(self) -> bool:
        return self._crossed(self.config.validate_every_images or self.config.checkpoint_every_images)

    def _evaluate(self, judge: JudgeOptions) -> None:
        """Hand the EMA weights to the judge, after it is done with those before them."""
        place = self.out / EVALUATIONS / f"{self.state.num_images:012d}"
        if self.evaluations:
            self.evaluations.wait(self.stopping)
        failed = None
        try:
            write_weights(place, self.state, self.config, self.facts)
        except (UserError, OSError) as error:  # such as a full disk
            failed = f"its weights cannot be written: {error}"
        if self.evaluations:
            if failed:
                self.evaluations.conclude(place, failed)
            else:
                self.evaluations.ask(place)
            if judge.wait:
                self.evaluations.wait(self.stopping)

    def _crossed(self, every: int) -> bool:
        """Return whether the last step went over a multiple of `every` images, or was the last of the run."""
        now, before = self.state.num_images, self.state.num_images - self.config.batch_size
        return now // every > before // every or now == self.config.num_images
