"""The training loop: batches of Algorithm 1, the loss of Eq. 1-2, the step, EMA, log, checkpoints.

Progress is counted in images. A run that was stopped, by whatever, goes on from its last checkpoint and ends with the
same bytes as one that was not. Under torchrun rank r of w takes the samples r, r + w, ... of every batch.
"""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tessera.config import UserError, to_dict
from tessera.diffusion.loss import diffusion_loss
from tessera.files import MANIFEST, Stage, open_stage, write_json
from tessera.models.build import build_network
from tessera.models.rin import RINConfig
from tessera.records import Batch
from tessera.runtime import address, pick_device, progress, rank, set_threads, world_size
from tessera.shards import EncodedStore, open_encoded
from tessera.train import checkpoint
from tessera.train.data import Algorithm1, Draws, Normalisation, check_sets, latent_limit, load_batch
from tessera.train.log import Log
from tessera.train.optim import EMA, MasterOptimizer, lr_fraction
from tessera.train.ranks import add_up, delayed_signals, join, leaders
from tessera.train.settings import TrainConfig

MAX_SKIPPED_IN_A_ROW = 5
"""Steps with a loss or gradient that is not finite are skipped; this many of them end the run."""
KEPT_CHECKPOINTS = 2


def train(
    out: Path,
    plain: Path,
    augmented: Path | None,
    config: TrainConfig,
    resume: bool = False,
    device: str | None = None,
) -> None:
    """Trains into the run directory `out` from the encoded sets `plain` and `augmented` (None where augment_prob is 0).

    A complete run is left as it is, an unfinished one goes on from its last checkpoint. `resume` = True: there has to
    be one. `device`: None = the best there is. Ctrl-C and SIGTERM finish the step, write a checkpoint and raise
    KeyboardInterrupt. Raises UserError, before the first step, for sets that do not fit the model or each other, for
    a full disk, for a directory of another configuration; later, after five steps in a row whose loss is not finite.
    """
    out, plain = Path(out), Path(plain)
    if config.augment_prob > 0 and augmented is None:
        raise UserError(
            f"augment_prob: {config.augment_prob} needs an augmented set; give one or set augment_prob to 0"
        )
    inputs = {"plain": plain}
    if augmented is not None and config.augment_prob > 0:
        inputs["augmented"] = Path(augmented)
    set_threads(config.threads)
    place = pick_device(device)
    leads = join(place)
    stage = None
    started = leaders(int((out / MANIFEST).exists()), place)
    if resume and not started:
        raise UserError(f"{out}: there is no run to resume; leave out --resume to start one")
    if started:
        stage = open_stage(out, stage="train", config=to_dict(config), inputs=inputs) if leads else None
        if leaders(int(stage.done) if stage else 0, place):
            return
    stores = [open_encoded(path) for path in inputs.values()]
    plain_store, augmented_store = stores[0], stores[1] if len(stores) > 1 else None
    model = config.model
    shape = (model.latent_channels, model.latent_size, model.latent_size)
    facts = check_sets(plain_store, augmented_store, latent_shape=shape, text_width=model.text_width)
    facts["latent_limit"] = latent_limit(plain_store, Normalisation(config.latent_shift, config.latent_scale))
    trainer = _Trainer(out, plain_store, augmented_store, config, place)
    if leads:
        room = max(1, KEPT_CHECKPOINTS + 1 - len(checkpoint.found(out)))
        checkpoint.check_space(out, trainer.checkpoint_bytes, room)
        if stage is None:
            stage = open_stage(out, stage="train", config=to_dict(config), inputs=inputs)
        write_json(out / "config.json", to_dict(config))
    trainer.run(stage, facts)


@dataclass(frozen=True)
class _Loaded:
    """One step's data of this rank."""

    draws: Draws
    """Of the whole batch, over all ranks."""
    passes: list[tuple[Batch, torch.Tensor]]
    """One forward pass each: the batch, and whom to self-condition (B,) bool on the CPU."""


class _Trainer:
    """The state of one run and its steps."""

    def __init__(
        self,
        out: Path,
        plain: EncodedStore,
        augmented: EncodedStore | None,
        config: TrainConfig,
        device: torch.device,
    ) -> None:
        self.out, self.plain, self.augmented, self.config, self.device = out, plain, augmented, config, device
        self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[config.compute]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(address(config.seed, "initial weights"))
            network = build_network(config.model)
        self.network = network.to(device)
        self.optimizer = MasterOptimizer(self.network, config.optim, self.dtype)
        self.ema = EMA(self.optimizer.masters, config.ema_decay, config.ema_warmup)
        self.self_conditioned = isinstance(config.model, RINConfig) and config.self_condition_prob > 0
        self.algorithm = Algorithm1(
            plain,
            augmented,
            config.augment_min_t,
            config.augment_prob,
            config.seed,
            config.noise_schedule,
            start=config.augment_start_image,
            caption_drop_prob=config.caption_drop_prob,
            self_condition_prob=config.self_condition_prob,
        )
        self.null_condition = torch.from_numpy(plain.null_condition).to(device, self.dtype)
        share = config.batch_size // world_size()
        self.micro = min(config.device_batch_size or share, share)
        if self.micro == 0 or share * world_size() != config.batch_size or share % self.micro:
            raise UserError(
                f"batch_size: {config.batch_size} cannot be split over {world_size()} ranks in passes of {self.micro}"
            )
        self.normalise = Normalisation(config.latent_shift, config.latent_scale)
        self.num_images = self.skipped = self.skipped_in_a_row = 0
        self.window: dict[str, Any] | None = None

    @property
    def checkpoint_bytes(self) -> int:
        """At most: masters, EMA and two averages of the optimiser, fp32."""
        return 4 * 4 * sum(m.numel() for m in self.optimizer.masters)

    def run(self, stage: Stage | None, facts: dict[str, Any]) -> None:
        """Trains from the last checkpoint to the end; writes files where there is a `stage`."""
        found = checkpoint.latest(self.out)
        if found is not None:
            self._load(found)
        log = Log(self.out / "log.jsonl", self.num_images, self.window) if stage else None
        if self.num_images < self.config.num_images:
            self._loop(log)
        if stage:
            checkpoint.prune(self.out, 1)
            parameters = sum(m.numel() for m in self.optimizer.masters)
            counts = {"num_images": self.num_images, "skipped_steps": self.skipped, "parameters": parameters}
            stage.finish(counts=counts, facts=facts)

    def _loop(self, log: Log | None) -> None:
        config, total = self.config, self.config.num_images
        with (
            delayed_signals() as caught,
            ThreadPoolExecutor(1) as loader,
            progress("train", total, completed=self.num_images) as bar,
        ):
            following = self.num_images
            pending = loader.submit(self._read, following)
            while following < total:
                waiting = time.monotonic()
                loaded = pending.result()
                waited = time.monotonic() - waiting
                following += config.batch_size
                if following < total:
                    pending = loader.submit(self._read, following)
                losses, norm, lr, stop = self._step(loaded.passes, bool(caught))
                bar.advance(config.batch_size, loss=float(losses.mean()))
                if log:
                    log.data_wait += waited
                    if math.isfinite(norm):
                        log.window.add(losses, loaded.draws.t, loaded.draws.augmented, norm)
                    if self._crossed(config.log_every_images):
                        log.write(self.num_images, lr)
                    self.window = log.window.sums
                    if self._crossed(config.checkpoint_every_images) or stop:
                        self._save()
                if stop and following < total:
                    raise KeyboardInterrupt

    def _crossed(self, every: int) -> bool:
        """Whether the last step went over a multiple of `every` images, or was the last of all."""
        before = self.num_images - self.config.batch_size
        return self.num_images // every > before // every or self.num_images == self.config.num_images

    def _read(self, start: int) -> _Loaded:
        """The batch that starts at sample `start`. Runs beside the step, in the only thread that uses `algorithm`."""
        end = start + self.config.batch_size
        mine = np.arange(start + rank(), end, world_size())
        passes = []
        for numbers in np.split(mine, len(mine) // self.micro):
            batch = load_batch(self.algorithm, self.plain, self.augmented, numbers, self.normalise, dtype=self.dtype)
            passes.append((batch, torch.from_numpy(self.algorithm.draws(numbers).self_condition)))
        return _Loaded(self.algorithm.draws(np.arange(start, end)), passes)

    def _step(self, passes: list[tuple[Batch, torch.Tensor]], stop: bool) -> tuple[np.ndarray, float, float, bool]:
        """One optimiser step. Returns each sample's loss (batch,), the gradient's norm before clipping (NaN: the step
        was skipped), the learning rate, and whether any rank wants to stop."""
        config = self.config
        losses = torch.zeros(config.batch_size, device=self.device)
        parts = []
        for batch, keep in passes:
            loss, per_sample = diffusion_loss(
                self.network,
                batch.to(self.device),
                self.null_condition,
                prediction=config.prediction,
                self_condition_keep=keep if self.self_conditioned else None,
            )
            (loss * (len(keep) / config.batch_size)).backward()
            self.optimizer.add_gradients()
            parts.append(per_sample)
        losses[rank() :: world_size()] = torch.cat(parts)
        stopping = losses.new_tensor([float(stop)])
        add_up([losses, stopping, *self.optimizer.gradients()])
        norm = self.optimizer.clip()
        # The one wait for the device in a step: whether to step at all hangs on it.
        *values, stop_value, norm_value = torch.cat([losses, stopping, norm[None]]).tolist()
        self.num_images += config.batch_size
        fraction = lr_fraction(config.optim, self.num_images, config.num_images)
        if all(map(math.isfinite, (*values, norm_value))):
            self.optimizer.step(fraction)
            self.ema.update(self.optimizer.masters, self.num_images // config.batch_size - 1)
            self.skipped_in_a_row = 0
        else:
            self.optimizer.zero_grad()
            norm_value = math.nan
            self._count_skip()
        return np.asarray(values), norm_value, fraction * config.optim.lr, stop_value > 0

    def _count_skip(self) -> None:
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row == MAX_SKIPPED_IN_A_ROW:
            raise UserError(
                f"{self.out}: the loss was not finite {MAX_SKIPPED_IN_A_ROW} steps in a row, up to image "
                f"{self.num_images}; lower optim.lr or optim.clip_norm, or raise optim.warmup_images"
            )

    def _save(self) -> None:
        ema = {f"ema/{name}": w for name, w in zip(self.optimizer.names, self.ema.weights)}
        meta = {"skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row, "window": self.window}
        checkpoint.save(self.out, self.num_images, self.optimizer.state_dict() | ema, meta, KEPT_CHECKPOINTS)

    def _load(self, directory: Path) -> None:
        state = checkpoint.load(directory, self.device)
        self.num_images = state.num_images
        self.skipped, self.skipped_in_a_row = state.meta["skipped"], state.meta["skipped_in_a_row"]
        self.window = state.meta["window"]
        self.optimizer.load_state_dict(state.tensors)
        for name, weight in zip(self.optimizer.names, self.ema.weights):
            weight.copy_(state.tensors[f"ema/{name}"])
