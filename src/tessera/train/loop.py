"""The training loop: batches of Algorithm 1, steps, and the actions between them.

Progress is counted in images. A run that was stopped, for whatever reason, resumes from its last checkpoint and ends
with the same bytes as one that was not. Under torchrun or Slurm rank r of w takes samples r, r + w, ... of each batch.
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
from tessera.models.rin import RINConfig
from tessera.progress import progress
from tessera.stages import Stage, find_stage, open_stage
from tessera.train import checkpoint
from tessera.train.algorithm1 import Algorithm1, Normalization, latent_limit
from tessera.train.config import RuntimeOptions, TrainConfig
from tessera.train.dataset_checks import check_sets, without_held_out
from tessera.train.distributed import broadcast_from_rank0, delayed_signals, join
from tessera.train.loader import Loader, Reader, passes
from tessera.train.logs import Log, TensorBoard, WandB, keep_lines
from tessera.train.periodic import PeriodicActions
from tessera.train.state import TrainState, initial_network, weights_of_export
from tessera.train.step import SKIPPED, Stepper
from tessera.train.validation import SampleGrid, ValidationLoss

STEPS_BEHIND = 1
"""Number of steps by which the host reads the outcomes of a GPU's steps later."""
COMPILED_LENGTHS = 32
"""Compiled blocks get texts padded to a multiple of this, so that few lengths occur."""
VERIFIED_BYTES = 10**9
"""Sets below this size are read and compared with their checksums before the first step."""


def train(
    out: Path,
    plain: Path,
    augmented: Path | None,
    config: TrainConfig,
    resume: bool = False,
    device: str | None = None,
    init: Path | None = None,
    runtime: RuntimeOptions | None = None,
) -> None:
    """Train into the run directory `out` from the encoded sets `plain` and `augmented` (None where augment_prob is 0).

    A complete run is left as it is, an unfinished one resumes from its last checkpoint. `resume`: require a run to
    resume. `device`: None = the best available. `init`: an export with the initial weights; None = random ones.
    Ctrl-C, SIGTERM and SIGUSR1 finish the step, write a checkpoint and raise KeyboardInterrupt.

    Raises UserError, before the first step and before anything is written, for sets or weights that do not fit the
    model or each other, for a full disk, for a directory of another configuration or in which another process trains;
    later, after five steps in a row whose loss is not finite.
    """
    out, runtime = Path(out), runtime or RuntimeOptions()
    sets = {"plain": Path(plain)}
    if config.augment_prob > 0:
        if augmented is None:
            raise UserError(
                f"augment_prob: {config.augment_prob} needs an augmented set; give one or set augment_prob to 0"
            )
        sets["augmented"] = Path(augmented)
    inputs = sets if init is None else sets | {"init": Path(init)}
    made = {"stage": "train", "config": to_dict(config), "inputs": inputs}

    set_threads(config.threads)
    torch_device = pick_device(device)
    is_writer = join(torch_device)
    found = find_stage(out, **made) if is_writer else None
    started = broadcast_from_rank0(int(found is not None), torch_device)
    if resume and not started:
        raise UserError(f"{out}: there is no run to resume; leave out --resume to start one")
    if broadcast_from_rank0(int(found is not None and found.done), torch_device):
        return

    plain_store = open_encoded(sets["plain"])
    augmented_store = open_encoded(sets["augmented"]) if "augmented" in sets else None
    for store in (plain_store, augmented_store):
        if is_writer and store is not None and (runtime.verify or store.byte_count < VERIFIED_BYTES):
            store.verify()
    model = config.model
    facts = check_sets(
        plain_store,
        augmented_store,
        latent_shape=(model.latent_channels, model.latent_size, model.latent_size),
        text_width=model.text_width,
        encodes_text=runtime.encode_text is not None,
    )
    facts["latent_limit"] = latent_limit(plain_store, Normalization(config.latent_shift, config.latent_scale))
    weights = None
    if init is not None and checkpoint.latest(out) is None:
        weights = weights_of_export(Path(init), config, facts, runtime.content_hash)
    trainer = Trainer(out, plain_store, augmented_store, config, torch_device, runtime, weights)
    if is_writer:
        checkpoint.check_space(out, trainer.state.checkpoint_bytes, trainer.checkpoints_to_come)

    busy = "another process is training in this directory"
    with exclusive_lock(out, busy) if is_writer else contextlib.nullcontext():
        stage = open_stage(out, **made) if is_writer else None
        if stage is not None:
            write_json(out / "config.json", to_dict(config))
        if stage is None or not stage.done:  # another process may have finished it meanwhile
            trainer.run(stage, facts)


class Trainer:
    """A run put together from its configuration: data, state, steps and periodic actions."""

    def __init__(
        self,
        out: Path,
        plain: EncodedStore,
        augmented: EncodedStore | None,
        config: TrainConfig,
        device: torch.device,
        runtime: RuntimeOptions | None = None,
        weights: dict[str, Tensor] | None = None,
    ) -> None:
        """Build the parts; `out` is not written to before `run`. `weights`: the initial ones; None = random."""
        self.out, self.config, self.runtime = out, config, runtime or RuntimeOptions()
        self.samples_per_pass = _samples_per_pass(config, plain)
        self.state = TrainState(
            initial_network(config.model, config.seed, weights),
            config.optim,
            compute=config.compute,
            ema_decay=config.ema_decay,
            device=device,
            runtime=self.runtime,
        )
        null_condition = torch.from_numpy(plain.null_condition).to(device, self.state.dtype)
        self.reader = self._reader(plain, augmented)
        self.stepper = Stepper(out, config, self.state, self.reader.algorithm, null_condition)
        self.actions = self._actions(null_condition)

    def _reader(self, plain: EncodedStore, augmented: EncodedStore | None) -> Reader:
        config, held_out = self.config, self.config.validation_records
        trained = without_held_out(augmented, plain, held_out) if augmented is not None and held_out else augmented
        algorithm = Algorithm1(
            len(plain) - held_out,
            trained,
            config.augment_min_t,
            config.augment_prob,
            config.seed,
            config.noise_schedule,
            start=config.augment_start_image,
            end=None if config.augment_prob_end is None else (config.num_images, config.augment_prob_end),
            caption_drop_prob=config.caption_drop_prob,
            self_condition_prob=config.self_condition_prob,
        )
        return Reader(
            algorithm,
            plain,
            trained,
            Normalization(config.latent_shift, config.latent_scale),
            encode_text=self.runtime.encode_text,
            multiple=COMPILED_LENGTHS if self.state.compiled else 1,
        )

    def _actions(self, null_condition: Tensor) -> PeriodicActions:
        config, runtime, held_out = self.config, self.runtime, self.config.validation_records
        validation = grid = None
        if held_out:
            validation = ValidationLoss(
                self.reader,
                held_out,
                null_condition,
                config.prediction,
                self_condition=isinstance(config.model, RINConfig),
                samples_per_pass=self.samples_per_pass,
            )
        if config.sample_every_images is not None and runtime.decode is not None:
            first = len(self.reader.plain) - held_out if held_out else 0
            grid = SampleGrid(self.reader, first, null_condition, config.prediction)
        actions = {"validation": validation, "grid": grid, "decode": runtime.decode, "peak": runtime.peak_tflops}
        return PeriodicActions(self.out, config, self.state, **actions)

    @property
    def checkpoints_to_come(self) -> int:
        """The largest number of further checkpoints on the disk at a time, with the one that is being written."""
        config, there = self.config, checkpoint.found(self.out)
        for_ever = config.num_images // config.keep_every_images if config.keep_every_images else 0
        for_ever = min(for_ever, config.num_images // config.checkpoint_every_images)
        return max(1, config.keep_checkpoints + 1 + for_ever - len(there))

    def run(self, stage: Stage | None, facts: dict[str, Any]) -> None:
        """Train from the last checkpoint to the end; write files where there is a `stage`."""
        out, config, state, actions = self.out, self.config, self.state, self.actions
        found = checkpoint.latest(out)
        window = state.load(found) if found is not None else None
        unfinished = state.num_images < config.num_images
        if stage:
            if unfinished:
                actions.boards = [TensorBoard(out, state.num_images)]
                if self.runtime.wandb is not None:
                    actions.boards.append(WandB(out, self.runtime.wandb, to_dict(config)))
            self.stepper.log = actions.log = Log(out / "log.jsonl", state.num_images, window)
            if (out / SKIPPED).exists():
                keep_lines(out / SKIPPED, state.num_images)
        if unfinished:
            try:
                self._loop(actions.log)
            finally:
                for board in actions.boards:
                    board.close()
        if stage:
            checkpoint.prune(out, 1, config.keep_every_images)
            counts = {
                "num_images": state.num_images,
                "skipped_steps": state.skipped,
                "parameters": state.parameter_count,
            }
            stage.finish(counts=counts, facts=facts)

    def _loop(self, log: Log | None) -> None:
        config, state, total = self.config, self.state, self.config.num_images
        numbers = passes(state.num_images, config.batch_size, total, self.samples_per_pass)
        per_step = config.batch_size // world_size() // self.samples_per_pass
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
                stop, loss = self.stepper.catch_up(0 if self.actions.due else behind)
                bar.advance(config.batch_size, **({} if math.isnan(loss) else {"loss": loss}))
                if stop:
                    self.stepper.catch_up(0)
                self.actions.run(self.stepper.lr, stop)
                if stop and state.num_images < total:
                    raise KeyboardInterrupt


def _samples_per_pass(config: TrainConfig, plain: EncodedStore) -> int:
    """Return the samples per forward pass of a rank. Raises UserError where the batch or the set cannot be divided."""
    share = config.batch_size // world_size()
    samples = min(config.device_batch_size or share, share)
    if samples == 0 or share * world_size() != config.batch_size or share % samples:
        raise UserError(
            f"batch_size: {config.batch_size} cannot be split over {world_size()} ranks in passes of {samples}"
        )
    if config.validation_records >= len(plain):
        raise UserError(
            f"validation_records: {config.validation_records} leaves nothing to train on; {plain.directory} has "
            f"{len(plain)} records"
        )
    return samples
