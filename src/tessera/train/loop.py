"""The training loop: batches of Algorithm 1, the loss of Eq. 1-2, the step, EMA, log, checkpoints.

Progress is counted in images. A run that was stopped, by whatever, goes on from its last checkpoint and ends with the
same bytes as one that was not. Under torchrun (or Slurm) rank r of w takes the samples r, r + w, ... of every batch.

The host never waits for the step that it has just given to a GPU: whether that step's loss is finite, and with it the
step to be made, is decided there; the host reads the answer while the next step runs.
"""

import math
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tessera.config import UserError, to_dict
from tessera.diffusion.loss import diffusion_loss
from tessera.files import MANIFEST, Stage, open_stage, write_json
from tessera.models.build import build_network, compile_blocks
from tessera.models.flops import step_flops
from tessera.models.rin import RINConfig
from tessera.runtime import address, pick_device, progress, rank, set_threads, world_size
from tessera.shards import EncodedStore, open_encoded
from tessera.train import checkpoint
from tessera.train.batches import HostBatch, Loader, Reader, passes
from tessera.train.boards import TensorBoard, WandB, scalars
from tessera.train.data import Algorithm1, Normalisation, check_sets, latent_limit
from tessera.train.log import Log, append_line, keep_lines
from tessera.train.measure import Grid, HeldOut, save_picture, tile
from tessera.train.optim import EMA, MasterOptimizer, lr_fraction
from tessera.train.ranks import GradientExchange, add_up, add_up_one, delayed_signals, join, leaders
from tessera.train.settings import Means, TrainConfig
from tessera.train.start import starting_weights

__all__ = ["Means", "TrainConfig", "train"]

MAX_SKIPPED_IN_A_ROW = 5
"""Steps with a loss or gradient that is not finite are skipped; this many of them end the run."""
SKIPPED = "skipped.jsonl"
"""In the run's folder: the samples of each skipped step, and those whose own loss was not finite."""
STEPS_BEHIND = 1
"""How many steps later the host reads what a GPU made of a step."""
COMPILED_LENGTHS = 32
"""Compiled blocks get texts padded to a multiple of this, so that they meet few lengths."""


VERIFIED_BYTES = 10**9
"""Sets below this are read and compared with their checksums before the first step."""


def train(
    out: Path,
    plain: Path,
    augmented: Path | None,
    config: TrainConfig,
    resume: bool = False,
    device: str | None = None,
    init: Path | None = None,
    means: Means | None = None,
) -> None:
    """Trains into the run directory `out` from the encoded sets `plain` and `augmented` (None where augment_prob is 0).

    A complete run is left as it is, an unfinished one goes on from its last checkpoint. `resume` = True: there has to
    be one. `device`: None = the best there is. `init`: an export whose weights it starts from; None = random ones.
    Ctrl-C, SIGTERM and SIGUSR1 finish the step, write a checkpoint and raise KeyboardInterrupt.

    Raises UserError, before the first step, for sets or weights that do not fit the model or each other, for a full
    disk, for a directory of another configuration; later, after five steps in a row whose loss is not finite.
    """
    out, plain, means = Path(out), Path(plain), means or Means()
    if config.augment_prob > 0 and augmented is None:
        raise UserError(
            f"augment_prob: {config.augment_prob} needs an augmented set; give one or set augment_prob to 0"
        )
    inputs = {"plain": plain}
    if augmented is not None and config.augment_prob > 0:
        inputs["augmented"] = Path(augmented)
    stores = list(inputs.values())
    if init is not None:
        inputs["init"] = Path(init)
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
    opened = [open_encoded(path) for path in stores]
    if leads:
        for store in opened:
            if means.verify or store.byte_count < VERIFIED_BYTES:
                store.verify()
    plain_store, augmented_store = opened[0], opened[1] if len(opened) > 1 else None
    model = config.model
    shape = (model.latent_channels, model.latent_size, model.latent_size)
    facts = check_sets(
        plain_store,
        augmented_store,
        latent_shape=shape,
        text_width=model.text_width,
        encodes_text=means.encode_text is not None,
    )
    facts["latent_limit"] = latent_limit(plain_store, Normalisation(config.latent_shift, config.latent_scale))
    start = None
    if init is not None and checkpoint.latest(out) is None:
        start = starting_weights(Path(init), config, facts)
    trainer = _Trainer(out, plain_store, augmented_store, config, place, means, start)
    if leads:
        checkpoint.check_space(out, trainer.checkpoint_bytes, trainer.checkpoints_to_come)
        if stage is None:
            stage = open_stage(out, stage="train", config=to_dict(config), inputs=inputs)
        write_json(out / "config.json", to_dict(config))
    trainer.run(stage, facts)


@dataclass(frozen=True)
class _Queued:
    """A step that the device has been given."""

    values: torch.Tensor
    """Each sample's loss, whether a rank wants to stop, and the gradient's norm before clipping (batch + 2,); on the
    host once `event` has happened."""
    event: Any
    """None: they are there."""
    end: int
    """Number of images after the step."""
    lr: float


class _Trainer:
    """The state of one run and its steps."""

    def __init__(
        self,
        out: Path,
        plain: EncodedStore,
        augmented: EncodedStore | None,
        config: TrainConfig,
        device: torch.device,
        means: Means | None = None,
        start: dict[str, torch.Tensor] | None = None,
    ) -> None:
        self.out, self.plain, self.augmented, self.config, self.device = out, plain, augmented, config, device
        self.means = means = means or Means()
        self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[config.compute]
        self._split_batch(plain)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(address(config.seed, "initial weights"))
            network = build_network(config.model)
        if start is not None:
            network.load_state_dict(start)
        self.network = network.to(device)
        self.shards = self.exchange = None
        if means.shard and world_size() > 1:
            from tessera.train.sharded import Shards

            self.shards = Shards(self.network, self.dtype)
        self.optimizer = MasterOptimizer(
            self.network, config.optim, self.dtype, add_up_one if self.shards is not None else None
        )
        if world_size() > 1 and self.shards is None:
            self.exchange = GradientExchange(self.optimizer.masters, self.optimizer.network)
        compiled = device.type == "cuda" if means.compile is None else means.compile
        if compiled:
            compile_blocks(self.network)
        masters = self.optimizer.masters
        self.averages = {"ema": EMA(masters, config.ema_decay, config.ema_warmup)}
        self.averages |= {average_name(d): EMA(masters, d, config.ema_warmup) for d in config.ema_extra_decays}
        self.self_conditioned = isinstance(config.model, RINConfig) and config.self_condition_prob > 0
        self.algorithm = Algorithm1(
            len(plain) - config.validation_records,
            augmented,
            config.augment_min_t,
            config.augment_prob,
            config.seed,
            config.noise_schedule,
            start=config.augment_start_image,
            end=None if config.augment_prob_end is None else (config.num_images, config.augment_prob_end),
            caption_drop_prob=config.caption_drop_prob,
            self_condition_prob=config.self_condition_prob,
            t_distribution=config.t_distribution,
        )
        self.null_condition = torch.from_numpy(plain.null_condition).to(device, self.dtype)
        self.reader = Reader(
            self.algorithm,
            plain,
            augmented,
            Normalisation(config.latent_shift, config.latent_scale),
            encode_text=means.encode_text,
            multiple=COMPILED_LENGTHS if compiled else 1,
        )
        self.held_out = None
        if config.validation_records:
            self.held_out = HeldOut(self.reader, config, self.micro, device, self.dtype)
        self.grid = None
        if config.sample_every_images is not None and means.decode is not None:
            self.grid = Grid(self.reader, config, device, self.dtype)
        self.num_images = self.skipped = self.skipped_in_a_row = 0
        self.window: dict[str, Any] | None = None
        self.queue: deque[_Queued] = deque()
        self.log: Log | None = None
        self.boards: list[TensorBoard | WandB] = []

    def _split_batch(self, plain: EncodedStore) -> None:
        config = self.config
        share = config.batch_size // world_size()
        self.micro = min(config.device_batch_size or share, share)
        if self.micro == 0 or share * world_size() != config.batch_size or share % self.micro:
            raise UserError(
                f"batch_size: {config.batch_size} cannot be split over {world_size()} ranks in passes of {self.micro}"
            )
        if config.validation_records >= len(plain):
            raise UserError(
                f"validation_records: {config.validation_records} leaves nothing to train on; {plain.directory} has "
                f"{len(plain)} records"
            )

    @property
    def checkpoint_bytes(self) -> int:
        """At most: masters, averages and the optimiser's two, fp32."""
        return 4 * (3 + len(self.averages)) * sum(p.numel() for p in self.network.parameters())

    @property
    def checkpoints_to_come(self) -> int:
        """How many more there have to be room for, with the one that is being written."""
        config, there = self.config, checkpoint.found(self.out)
        for_ever = config.num_images // config.keep_every_images if config.keep_every_images else 0
        for_ever = min(for_ever, config.num_images // config.checkpoint_every_images)
        return max(1, config.keep_checkpoints + 1 + for_ever - len(there))

    def run(self, stage: Stage | None, facts: dict[str, Any]) -> None:
        """Trains from the last checkpoint to the end; writes files where there is a `stage`."""
        found = checkpoint.latest(self.out)
        if found is not None:
            self._load(found)
        if stage and self.num_images < self.config.num_images:
            self.boards = [TensorBoard(self.out, self.num_images)]
            if self.means.wandb is not None:
                self.boards.append(WandB(self.out, self.means.wandb, to_dict(self.config)))
        if stage:
            self.log = Log(self.out / "log.jsonl", self.num_images, self.window)
            if (self.out / SKIPPED).exists():
                keep_lines(self.out / SKIPPED, self.num_images)
        if self.num_images < self.config.num_images:
            try:
                self._loop()
            finally:
                for board in self.boards:
                    board.close()
        if stage:
            checkpoint.prune(self.out, 1, self.config.keep_every_images)
            parameters = sum(p.numel() for p in self.network.parameters())
            counts = {"num_images": self.num_images, "skipped_steps": self.skipped, "parameters": parameters}
            stage.finish(counts=counts, facts=facts)

    def _loop(self) -> None:
        config, total = self.config, self.config.num_images
        numbers = passes(self.num_images, config.batch_size, total, self.micro)
        per_step = config.batch_size // world_size() // self.micro
        with (
            delayed_signals() as caught,
            Loader(self.reader, numbers, device=self.device) as loader,
            progress("train", total, completed=self.num_images) as bar,
        ):
            while self.num_images < total:
                waiting = time.monotonic()
                loaded = [next(loader) for _ in range(per_step)]
                if self.log:
                    self.log.data_wait += time.monotonic() - waiting
                    self.log.tokens += sum(batch.tokens for batch in loaded)
                    self.log.texts += sum(len(batch.numbers) for batch in loaded)
                self.queue.append(self._step(loaded, bool(caught)))
                lr = self.queue[-1].lr
                stop, loss = self._catch_up(0 if self._crossed_any() else STEPS_BEHIND * self.optimizer.masked)
                bar.advance(config.batch_size, **({} if math.isnan(loss) else {"loss": loss}))
                if stop:
                    self._catch_up(0)
                self._at_boundaries(lr, stop)
                if stop and self.num_images < total:
                    raise KeyboardInterrupt

    def _at_boundaries(self, lr: float, stop: bool) -> None:
        """Measures, logs, draws and saves where it is time for that; on every rank, since all may have to compute."""
        config = self.config
        further: dict[str, Any] = {}
        validate_every = config.validate_every_images or config.checkpoint_every_images
        if self.held_out is not None and self._crossed(validate_every):
            further = self._validate(self.held_out)
        if self.log:
            if self._crossed(config.log_every_images) or further:
                line = self.log.write(self.num_images, lr, further, self._flops_per_image, self.means.peak_tflops)
                for board in self.boards:
                    board.line(self.num_images, scalars(line))
            self.window = self.log.window.sums
        if self.grid is not None and config.sample_every_images and self._crossed(config.sample_every_images):
            self._draw(self.grid)
        if self._crossed(config.checkpoint_every_images) or stop:
            self._save()

    def _flops_per_image(self, tokens: float) -> float:
        """On one device, of an image of the whole batch."""
        prob = self.config.self_condition_prob if self.self_conditioned else 0.0
        return step_flops(self.config.model, tokens, prob) / world_size()

    def _crossed(self, every: int) -> bool:
        """Whether the last step went over a multiple of `every` images, or was the last of all."""
        before = self.num_images - self.config.batch_size
        return self.num_images // every > before // every or self.num_images == self.config.num_images

    def _crossed_any(self) -> bool:
        c = self.config
        every = (c.log_every_images, c.checkpoint_every_images, c.validate_every_images, c.sample_every_images)
        return any(self._crossed(e) for e in every if e is not None)

    def _step(self, loaded: list[HostBatch], stop: bool) -> _Queued:
        """One optimiser step, given to the device."""
        config = self.config
        if self.exchange is not None:
            self.exchange.begin()
        parts = []
        for number, host in enumerate(loaded):
            if self.exchange is not None and number == len(loaded) - 1:
                self.exchange.arm()
            loss, per_sample = diffusion_loss(
                self.network,
                host.to(self.device, self.dtype),
                self.null_condition,
                prediction=config.prediction,
                self_condition_keep=host.self_condition if self.self_conditioned else None,
                min_snr_gamma=config.min_snr_gamma,
            )
            share = len(host.numbers) / config.batch_size
            # FSDP takes the ranks' mean, where the sum is wanted.
            (loss * (share if self.shards is None else share * world_size())).backward()
            self.optimizer.add_gradients()
            parts.append(per_sample)
        losses = torch.zeros(config.batch_size, device=self.device)
        losses[rank() :: world_size()] = torch.cat(parts)
        stopping = losses.new_full((1,), float(stop))
        if self.exchange is not None:
            self.exchange.finish()
        add_up([losses, stopping])
        norm = self.optimizer.clip()
        values = torch.cat([losses, stopping, norm[None]])
        skip = ~torch.isfinite(values).all()
        self.num_images += config.batch_size
        fraction = lr_fraction(config.optim, self.num_images, config.num_images)
        self.optimizer.step(fraction, skip)
        average_skip = skip if self.optimizer.masked else None
        if self.optimizer.masked or not skip:
            for average in self.averages.values():
                average.update(self.optimizer.masters, self.num_images // config.batch_size - 1, average_skip)
        event = None
        if values.device.type == "cuda":
            values = torch.empty(values.shape, pin_memory=True).copy_(values, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        return _Queued(values, event, self.num_images, fraction * config.optim.lr)

    def _catch_up(self, left: int) -> tuple[bool, float]:
        """Reads what became of the queued steps but the last `left`. Returns whether a rank wants to stop, and the last
        one's mean loss (NaN: there was none, or it is not finite)."""
        stop, loss = False, math.nan
        while len(self.queue) > left:
            step = self.queue.popleft()
            if step.event is not None:
                step.event.synchronize()
            values = step.values.cpu().numpy()
            losses, norm = values[:-2], float(values[-1])
            stop = stop or values[-2] > 0
            if not np.isfinite(values).all():
                self._count_skip(step.end, losses)
                continue
            self.skipped_in_a_row = 0
            loss = float(losses.mean())
            if self.log:
                draws = self.algorithm.draws(np.arange(step.end - len(losses), step.end))
                self.log.window.add(losses, draws.t, draws.augmented, norm)
        return bool(stop), loss

    def _count_skip(self, end: int, losses: np.ndarray) -> None:
        self.skipped += 1
        self.skipped_in_a_row += 1
        first = end - len(losses)
        if self.log:
            bad = [first + int(i) for i in np.flatnonzero(~np.isfinite(losses))]
            append_line(
                self.out / SKIPPED,
                {"num_images": end, "seed": self.config.seed, "samples": [first, end - 1], "not_finite": bad},
            )
            print(
                f"train: the loss or gradient of samples {first} to {end - 1} is not finite; that step is skipped "
                f"({self.out / SKIPPED})",
                file=sys.stderr,
            )
        if self.skipped_in_a_row == MAX_SKIPPED_IN_A_ROW:
            raise UserError(
                f"{self.out}: the loss was not finite {MAX_SKIPPED_IN_A_ROW} steps in a row, up to image "
                f"{end}; lower optim.lr or optim.clip_norm, or raise optim.warmup_images"
            )

    def _validate(self, held_out: HeldOut) -> dict[str, Any]:
        found: dict[str, Any] = {"validation": held_out.loss(self.network, self.null_condition)}
        for name, average in self.averages.items():
            with self.optimizer.using(average.weights):
                found[f"validation_{name}"] = held_out.loss(self.network, self.null_condition)
        return found

    def _draw(self, grid: Grid) -> None:
        """A grid of pictures by the averaged weights, as a file and on the boards."""
        if rank() > 0 and self.shards is None:
            return
        with self.optimizer.using(self.averages["ema"].weights):
            latents = grid.latents(self.network, self.null_condition)
        if self.log and self.means.decode is not None:
            picture = tile(self.means.decode(latents))
            save_picture(self.out / "samples" / f"{self.num_images:012d}.png", picture)
            for board in self.boards:
                board.picture(self.num_images, picture)

    def _save(self) -> None:
        """Writes a checkpoint, on rank 0; parts of a split network come together for it."""
        state = self.optimizer.state_dict()
        for name, average in self.averages.items():
            state |= {f"{name}/{n}": w for n, w in zip(self.optimizer.names, average.weights)}
        if self.shards is not None:
            split = self.shards
            state = {k: split.whole(_parameter_of(k), v).cpu() if v.ndim else v for k, v in sorted(state.items())}
        if not self.log:
            return
        meta = {"skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row, "window": self.window}
        keep, every = self.config.keep_checkpoints, self.config.keep_every_images
        checkpoint.save(self.out, self.num_images, state, meta, keep, every)

    def _load(self, directory: Path) -> None:
        state = checkpoint.load(directory, self.device if self.shards is None else "cpu")
        self.num_images = state.num_images
        self.skipped, self.skipped_in_a_row = state.meta["skipped"], state.meta["skipped_in_a_row"]
        self.window = state.meta["window"]
        tensors = state.tensors
        if self.shards is not None:
            split = self.shards
            tensors = {k: split.part(_parameter_of(k), v.to(self.device)) if v.ndim else v for k, v in tensors.items()}
        self.optimizer.load_state_dict(tensors)
        for name, average in self.averages.items():
            for parameter, weight in zip(self.optimizer.names, average.weights):
                weight.copy_(tensors[f"{name}/{parameter}"])


def average_name(decay: float) -> str:
    """What an extra average is called in checkpoints and in the log."""
    return f"ema@{decay!r}"


def _parameter_of(key: str) -> str:
    """The parameter of a checkpoint's tensor: master/NAME, ema/NAME, optim/NAME/FIELD."""
    kind, _, rest = key.partition("/")
    return rest.rpartition("/")[0] if kind == "optim" else rest
