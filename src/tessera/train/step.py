"""The optimizer step: the loss of Eq. 1-2 over a batch's passes, its gradient over the ranks, clipping, weights, EMA.

The host never waits for the step that it has just given to a GPU: the GPU itself decides whether that step's loss is
finite, and with it the step to be made; the host reads the answer while the next step runs.
"""

import math
import sys
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tessera.config import UserError, blaming
from tessera.devices import world_size
from tessera.models.rin import RINConfig
from tessera.train.algorithm1 import Algorithm1
from tessera.train.config import TrainConfig
from tessera.train.distributed import all_reduce_sum
from tessera.train.loader import HostBatch
from tessera.train.logs import Log, append_line
from tessera.train.optim.config import lr_fraction
from tessera.train.state import TrainState

MAX_SKIPPED_IN_A_ROW = 5
"""Steps with a loss or gradient that is not finite are skipped; this many in a row end the run."""
SKIPPED = "skipped.jsonl"
"""File in the run's folder: the samples of each skipped step, and those whose own loss was not finite."""


class Stepper:
    """The steps of a run, and the reading of their outcomes."""

    def __init__(
        self, out: Path, config: TrainConfig, state: TrainState, algorithm: Algorithm1, null_condition: Tensor
    ) -> None:
        """Take `null_condition` (1, D), the text of dropped captions, and what the steps work on."""
        self.batch_size, self.num_images, self.optim = config.batch_size, config.num_images, config.optim
        self.objective = config.objective
        self.self_condition = isinstance(config.model, RINConfig) and config.self_condition_prob > 0
        self.out, self.state, self.algorithm, self.null_condition = out, state, algorithm, null_condition
        self.lr = 0.0
        """Learning rate of the last step."""
        self.log: Log | None = None
        """Log for the losses; None on ranks that do not write."""
        self._queue: deque[tuple[Tensor, Any, int]] = deque()
        """Steps given to the device: `step`'s values, on the host once the event has happened (None: they are there),
        and the number of images after it."""

    def step(self, loaded: list[HostBatch], stop: bool = False) -> Tensor:
        """Give the device one optimizer step on the passes of a batch. stop: this rank wants to. Return what `catch_up`
        reads: each sample's loss, whether to stop, the gradient's norm (batch + 2,)."""
        state = self.state
        draws = self.algorithm.draws(np.arange(state.num_images, state.num_images + self.batch_size))
        with blaming(self.objective, "objective"):
            weights = state.objective.weights(draws)
            weights = None if weights is None else weights.to(state.device)
            if weights is not None and weights.shape != draws.shape:
                raise UserError(f"weights are {tuple(weights.shape)}; give one for each draw, {draws.shape}")
        if state.average is not None and loaded[0].cleaner_alpha_bar is not None:
            state.average_now()
        losses, stopping = self._gradients(loaded, weights), torch.full((1,), float(stop), device=state.device)
        all_reduce_sum(losses, stopping)
        norm = state.optimizer.clip()
        values = torch.cat([losses, stopping, norm[None]])
        skip = ~torch.isfinite(values).all()
        with blaming(self.objective, "objective"), torch.no_grad():
            state.objective.update(draws, losses, skip)
        state.num_images += self.batch_size
        fraction = lr_fraction(self.optim, state.num_images, self.num_images)
        self.lr = fraction * self.optim.lr
        state.optimizer.step(fraction, skip, state.ema, state.num_images // self.batch_size - 1)
        event = None
        if values.device.type == "cuda":
            values = torch.empty(values.shape, pin_memory=True).copy_(values, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._queue.append((values, event, state.num_images))
        return values

    def fits(self, host: HostBatch) -> bool:
        """Return whether the device's memory suffices for a pass on these samples, forward and backward, with the
        margin of the optimizer's own step. Nothing changes but the network's
        gradients, which are cleared."""
        state, fits = self.state, True
        margin = torch.empty(state.optimizer.margin, device=state.device)
        try:
            self._pass(host)[0].backward()
        except torch.OutOfMemoryError:
            fits = False
        del margin
        state.optimizer.zero_grad()
        if state.device.type == "cuda":
            torch.cuda.empty_cache()  # outside of the handler, whose error holds tensors
        return fits

    def _pass(self, host: HostBatch, weights: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the objective's loss of the samples, each one's own, and their places in the step. weights (batch,):
        of the whole step's samples."""
        state, count = self.state, len(host.numbers)
        batch = host.to(state.device, state.dtype)
        places = batch.numbers % self.batch_size
        with blaming(self.objective, "objective"):
            losses = state.objective(
                state.network,
                batch,
                self.null_condition,
                weights=None if weights is None else weights[places],
                self_condition_keep=host.self_condition if self.self_condition else None,
                first_network=state.first_network,
                **({} if state.average is None else {"average": state.average}),
            )
            match losses:
                case (Tensor(shape=(), requires_grad=True) as loss, Tensor(shape=(n,)) as own) if n == count:
                    return loss, own, places
            raise UserError(f"forward has to return the loss, with a gradient, and that of each of {count} samples")

    def _gradients(self, loaded: list[HostBatch], weights: Tensor | None = None) -> Tensor:
        """Add up the gradients of all passes and ranks. Return this rank's losses (batch,), 0 in the others' places.

        weights (batch,): of the samples' losses in the gradients.
        """
        state, exchange = self.state, self.state.exchange
        losses = torch.zeros(self.batch_size, device=state.device)
        if exchange is not None:
            exchange.begin()
        for number, host in enumerate(loaded):
            if exchange is not None and number == len(loaded) - 1:
                exchange.arm()
            loss, own, places = self._pass(host, weights)
            share = len(host.numbers) / self.batch_size
            # FSDP takes the ranks' mean; needed is the sum.
            (loss * (share if state.shards is None else share * world_size())).backward()
            state.optimizer.add_gradients()
            losses.index_copy_(0, places, own.float())
        if exchange is not None:
            exchange.finish()
        return losses

    def catch_up(self, left: int) -> tuple[bool, float]:
        """Read the outcomes of all steps but the last `left`. Return whether a rank wants to stop, and the mean loss of
        the last one read (NaN: there was none, or it is not finite)."""
        stop, loss = False, math.nan
        while len(self._queue) > left:
            on_host, event, end = self._queue.popleft()
            if event is not None:
                event.synchronize()
            values = on_host.cpu().numpy()
            losses, stop = values[:-2], bool(stop or values[-2] > 0)
            if not np.isfinite(values).all():
                self._count_skip(end, losses)
                continue
            self.state.skipped_in_a_row = 0
            loss = float(losses.mean())
            if self.log:
                draws = self.algorithm.draws(np.arange(end - len(losses), end))
                self.log.window.add(losses, draws.t, draws.augmented, float(values[-1]))
        return stop, loss

    def _count_skip(self, end: int, losses: np.ndarray) -> None:
        self.state.skipped += 1
        self.state.skipped_in_a_row += 1
        first, file = end - len(losses), self.out / SKIPPED
        if self.log:
            bad = [first + int(i) for i in np.flatnonzero(~np.isfinite(losses))]
            line = {"num_images": end, "seed": self.algorithm.seed, "samples": [first, end - 1], "not_finite": bad}
            append_line(file, line)
            said = f"the loss or gradient of samples {first} to {end - 1} is not finite; that step is skipped ({file})"
            print(f"train: {said}", file=sys.stderr)
        if self.state.skipped_in_a_row == MAX_SKIPPED_IN_A_ROW:
            raise UserError(
                f"{self.out}: the loss was not finite {MAX_SKIPPED_IN_A_ROW} steps in a row, up to image {end}; "
                "lower optim.lr or optim.clip_norm, or raise optim.warmup_images"
            )
