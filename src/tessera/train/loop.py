"""The training loop: batches of Algorithm 1, steps, and what is done between them.

Progress is counted in images. A run that was stopped, by whatever, goes on from its last checkpoint and ends with the
same bytes as one that was not. Under torchrun (or Slurm) rank r of w takes the samples r, r + w, ... of every batch.
"""

import contextlib
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tessera.config import UserError, to_dict
from tessera.devices import pick_device, set_threads, world_size
from tessera.encoded.store import EncodedStore, open_encoded
from tessera.files import exclusive_lock, write_json
from tessera.progress import progress
from tessera.stages import MANIFEST, Stage, open_stage
from tessera.train import checkpoint
from tessera.train.algorithm1 import Algorithm1, Normalisation, latent_limit
from tessera.train.config import Means, TrainConfig
from tessera.train.dataset_checks import check_sets, without_held_out
from tessera.train.distributed import delayed_signals, join, leaders
from tessera.train.loader import Loader, Reader, passes
from tessera.train.logs import Log, keep_lines
from tessera.train.periodic import Boundaries
from tessera.train.start import starting_weights
from tessera.train.state import TrainState
from tessera.train.step import SKIPPED, Stepper

__all__ = ["Means", "TrainConfig", "Trainer", "train"]

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
    disk, for a directory of another configuration or in which another process trains; later, after five steps in a row
    whose loss is not finite.
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
    with contextlib.ExitStack() as held:
        stage = None
        started = leaders(int((out / MANIFEST).exists()), place)
        if resume and not started:
            raise UserError(f"{out}: there is no run to resume; leave out --resume to start one")
        if started:
            if leads:
                held.enter_context(exclusive_lock(out, "another process is training in this directory"))
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
            start = starting_weights(Path(init), config, facts, means.content_hash)
        trainer = Trainer(out, plain_store, augmented_store, config, place, means, start)
        if leads:
            checkpoint.check_space(out, trainer.state.checkpoint_bytes, trainer.checkpoints_to_come)
            if stage is None:
                stage = open_stage(out, stage="train", config=to_dict(config), inputs=inputs)
                held.enter_context(exclusive_lock(out, "another process is training in this directory"))
            write_json(out / "config.json", to_dict(config))
        trainer.run(stage, facts)


class Trainer:
    """One run: its data, its state, its steps."""

    def __init__(
        self,
        out: Path,
        plain: EncodedStore,
        augmented: EncodedStore | None,
        config: TrainConfig,
        device: torch.device,
        means: Means | None = None,
        start: dict[str, Tensor] | None = None,
    ) -> None:
        """`out`: the run's directory, not written to before `run`. `start`: the first weights; None = random ones."""
        self.out, self.config = out, config
        means = means or Means()
        self.micro = _passes_of(config, plain)
        self.state = TrainState(config, device, means, start)
        shown = augmented
        if augmented is not None and config.validation_records:
            shown = without_held_out(augmented, plain, config.validation_records)
        algorithm = Algorithm1(
            len(plain) - config.validation_records,
            shown,
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
        self.reader = Reader(
            algorithm,
            plain,
            shown,
            Normalisation(config.latent_shift, config.latent_scale),
            encode_text=means.encode_text,
            multiple=COMPILED_LENGTHS if self.state.compiled else 1,
        )
        null_condition = torch.from_numpy(plain.null_condition).to(device, self.state.dtype)
        self.stepper = Stepper(out, config, self.state, algorithm, null_condition)
        self.boundaries = Boundaries(out, config, means, self.state, self.reader, null_condition, self.micro)

    @property
    def checkpoints_to_come(self) -> int:
        """How many more there have to be room for, with the one that is being written."""
        config, there = self.config, checkpoint.found(self.out)
        for_ever = config.num_images // config.keep_every_images if config.keep_every_images else 0
        for_ever = min(for_ever, config.num_images // config.checkpoint_every_images)
        return max(1, config.keep_checkpoints + 1 + for_ever - len(there))

    def run(self, stage: Stage | None, facts: dict[str, Any]) -> None:
        """Trains from the last checkpoint to the end; writes files where there is a `stage`."""
        state, found = self.state, checkpoint.latest(self.out)
        window = state.load(found) if found is not None else None
        unfinished = state.num_images < self.config.num_images
        if stage:
            if unfinished:
                self.boundaries.open_boards()
            self.stepper.log = self.boundaries.log = Log(self.out / "log.jsonl", state.num_images, window)
            if (self.out / SKIPPED).exists():
                keep_lines(self.out / SKIPPED, state.num_images)
        if unfinished:
            try:
                self._loop(self.boundaries.log)
            finally:
                self.boundaries.close_boards()
        if stage:
            checkpoint.prune(self.out, 1, self.config.keep_every_images)
            counts = {
                "num_images": state.num_images,
                "skipped_steps": state.skipped,
                "parameters": state.parameters,
            }
            stage.finish(counts=counts, facts=facts)

    def _loop(self, log: Log | None) -> None:
        config, state, total = self.config, self.state, self.config.num_images
        numbers = passes(state.num_images, config.batch_size, total, self.micro)
        per_step = config.batch_size // world_size() // self.micro
        behind = STEPS_BEHIND * state.optimizer.masked
        with (
            delayed_signals() as caught,
            Loader(self.reader, numbers, device=state.device) as loader,
            progress("train", total, completed=state.num_images) as bar,
        ):
            while state.num_images < total:
                waiting = time.monotonic()
                loaded = [next(loader) for _ in range(per_step)]
                if log:
                    log.data_wait += time.monotonic() - waiting
                    log.tokens += sum(batch.tokens for batch in loaded)
                    log.texts += sum(len(batch.numbers) for batch in loaded)
                self.stepper.step(loaded, bool(caught))
                stop, loss = self.stepper.catch_up(0 if self.boundaries.here() else behind)
                bar.advance(config.batch_size, **({} if math.isnan(loss) else {"loss": loss}))
                if stop:
                    self.stepper.catch_up(0)
                self.boundaries.do(self.stepper.lr, stop)
                if stop and state.num_images < total:
                    raise KeyboardInterrupt


def _passes_of(config: TrainConfig, plain: EncodedStore) -> int:
    """Samples per forward pass of a rank. UserError where the batch or the set cannot be divided as the config says."""
    share = config.batch_size // world_size()
    micro = min(config.device_batch_size or share, share)
    if micro == 0 or share * world_size() != config.batch_size or share % micro:
        raise UserError(
            f"batch_size: {config.batch_size} cannot be split over {world_size()} ranks in passes of {micro}"
        )
    if config.validation_records >= len(plain):
        raise UserError(
            f"validation_records: {config.validation_records} leaves nothing to train on; {plain.directory} has "
            f"{len(plain)} records"
        )
    return micro
