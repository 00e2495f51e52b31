"""The training loop: batches of Algorithm 1, steps, and the actions between them.

Progress is counted in images. A run that was stopped, for whatever reason, resumes from its last checkpoint and ends
with the same bytes as one that was not. Under torchrun or Slurm rank r of w takes samples r, r + w, ... of each batch.
"""

import contextlib
import math
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from tessera.config import UserError, part_id, to_dict
from tessera.devices import pick_device, rank, reuse_memory, set_threads, usual_defaults, world_size
from tessera.diffusion.objective import OBJECTIVES
from tessera.encoded.seams import Seams, read_seams
from tessera.encoded.store import EncodedStore, open_encoded
from tessera.files import exclusive_lock, read_json, write_json
from tessera.progress import progress
from tessera.stages import Stage, find_stage, open_stage
from tessera.train import checkpoint
from tessera.train.algorithm1 import Algorithm1, Normalization, latent_limit
from tessera.train.config import RuntimeOptions, TrainConfig
from tessera.train.dataset_checks import (
    captions_seen,
    check_features,
    check_inputs,
    check_margin,
    check_mix,
    check_normalization,
    check_sentences,
    check_sets,
    check_starts,
    level_numbers,
    without_held_out,
)
from tessera.train.distributed import all_reduce_sum, broadcast_from_rank0, delayed_signals, join, warn_of_short_stops
from tessera.train.export import FACTS
from tessera.train.extension import BUSY, check_budget, extends, reopen_for_more
from tessera.train.loader import Reader, passes, read_ahead
from tessera.train.logs import SECONDS, Log, TensorBoard, WandB, keep_lines
from tessera.train.periodic import PeriodicActions
from tessera.train.state import TrainState, initial_network, load_objective, times_of, weights_of_export
from tessera.train.step import SKIPPED, Stepper
from tessera.train.validation import Evaluations

STEPS_BEHIND = 1
"""Number of steps by which the host reads the outcomes of a GPU's steps later."""
AUTO_SAMPLES = 128
"""Samples per pass beyond which a GPU gains nothing: the first number that "auto" tries."""
AUTO_STEPS = 16
"""Number of steps whose longest texts it tries with."""
REMEMBERED = "device_batch_size.json"
"""File in the run's folder: the number that "auto" found, and what it depends on."""
VERIFIED_BYTES = 10**9
"""Sets below this size are read and compared with their checksums before the first step."""


@usual_defaults
def train(
    out: Path,
    plain: Path,
    augmented: Path | None,
    config: TrainConfig,
    resume: bool = False,
    device: str | None = None,
    init: Path | None = None,
    runtime: RuntimeOptions | None = None,
    extend: bool = False,
    tau: Path | None = None,
) -> None:
    """Train into the run directory `out` from the encoded sets `plain` and `augmented` (None where augment_prob is 0).

    A complete run is left as it is, an unfinished one resumes from its last checkpoint. `resume`: require a run to
    resume. `device`: None = the best available. `init`: an export with the initial weights; None = random ones.
    `extend`: continue a finished run to the larger num_images of `config`, as if it had had that from the start; for
    that its learning rate must be constant. If it was cooled down it rises again, to be cooled anew. `tau`: a directory
    of `tessera tau`, for an augment_min_t that is no number, and seam_margin.
    Ctrl-C, SIGTERM, SIGHUP (but not under nohup) and SIGUSR1 finish the step, write a checkpoint and raise
    KeyboardInterrupt.

    Raises UserError, before the first step and before anything is written, for sets or weights that do not fit the
    model, each other or their roles, for a full disk, for a directory of another configuration or in which another
    process trains; later, after five steps in a row whose loss is not finite.
    """
    out, runtime = Path(out), runtime or RuntimeOptions()
    sets = {"plain": Path(plain)}
    if augmented is not None:
        sets["augmented"] = Path(augmented)
    inputs = sets | {name: Path(path) for name, path in (("tau", tau), ("init", init)) if path is not None}
    check_inputs(config, augmented, tau)
    objective = load_objective(config)  # says what is wrong with it
    if config.align_until_image is not None and not objective.aligns:
        raise UserError(
            f"align_until_image: the objective {config.objective} aligns nothing; leave it out, or give another, such "
            "as self-aligned"
        )
    recorded = replace(config, objective=part_id(config.objective, OBJECTIVES))
    made = {"stage": "train", "config": to_dict(recorded), "inputs": inputs}

    set_threads(config.threads)
    torch_device = pick_device(device)
    is_writer = join(torch_device)
    if is_writer and torch_device.type == "cuda" and (warning := warn_of_short_stops(os.environ)):
        print(f"train: {warning}", file=sys.stderr)
    reopened = is_writer and extend and extends(out, recorded, inputs)
    if is_writer and not extend:
        check_budget(out, recorded)
    found = find_stage(out, **made) if is_writer and not reopened else None
    progress_made = broadcast_from_rank0(int(reopened) if found is None else 1 + found.done, torch_device)
    if resume and not progress_made:
        raise UserError(f"{out}: there is no run to resume; leave out --resume to start one")
    if progress_made == 2:
        return

    stores = [open_encoded(folder) for folder in sets.values()]
    for store in stores:
        if runtime.verify:
            store.verify(rank(), world_size())
        elif is_writer and store.byte_count < VERIFIED_BYTES:
            store.verify()
    facts = check_sets(*stores, model=config.model, encodes_text=runtime.encode_text is not None)
    check_sentences(config.sentence_drop_prob, *stores)
    check_features(objective.needs_features, *stores)
    notes = check_normalization(stores[0], config.latent_shift, config.latent_scale)
    for note in notes + check_mix(config.mix, *stores) + check_starts(config):
        if is_writer:
            print(f"train: {note}", file=sys.stderr)
    drawn = stores if config.augment_start_image < config.num_images else stores[:1]
    told = config.mix, config.num_images, config.validation_records
    if is_writer and (seen := captions_seen(*told, *drawn)) is not None:
        facts["captions_seen"] = seen
    facts["latent_limit"] = latent_limit(stores[0], Normalization(config.latent_shift, config.latent_scale))
    weights = None
    if init is not None and checkpoint.latest(out) is None:
        weights = weights_of_export(Path(init), config, facts, runtime.content_hash)
    seams = None
    if tau is not None:
        noise = {name: made["config"][name] for name in ("noise_schedule", "latent_shift", "latent_scale")}
        seams = read_seams(Path(tau), stores[1], noise, config.augment_min_t)
        facts["median_min_t"] = float(np.median(seams.min_t))
    trainer = Trainer(out, stores[0], stores[1] if stores[1:] else None, config, torch_device, runtime, weights, seams)
    facts["compute"] = trainer.state.compute
    if is_writer:
        largest = 16 * trainer.state.parameter_count  # bytes of masters, EMA and the optimizer's two, fp32
        best = bool(config.validation_records)  # up to three times the EMA
        checkpoint.check_space(out, largest, trainer.checkpoints_to_come + best)

    with exclusive_lock(out, BUSY) if is_writer else contextlib.nullcontext():
        if reopened:
            reopen_for_more(out, recorded)
        stage = open_stage(out, **made) if is_writer else None
        if stage is not None:
            write_json(out / "config.json", to_dict(recorded))
            write_json(out / FACTS, facts)
        if stage is None or not stage.done:  # another process may have finished it meanwhile
            trainer.run(stage, facts)


def _divisor(number: int, most: int) -> int:
    """Return the largest divisor of `number` that is at most `most`."""
    return next(n for n in range(min(number, most), 0, -1) if number % n == 0)


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
        seams: Seams | None = None,
    ) -> None:
        """Build the parts; `out` is not written to before `run`. `weights`: the initial ones; None = random. `seams`:
        of the augmented records, with the t above which each is used."""
        self.out, self.config, self.runtime = out, config, runtime or RuntimeOptions()
        if device.type == "cpu":
            reuse_memory()
        held_out, share = config.validation_records, config.batch_size // world_size()
        if share == 0 or share * world_size() != config.batch_size:
            raise UserError(f"batch_size: {config.batch_size} cannot be split over {world_size()} ranks")
        asked = self.runtime.device_batch_size
        if isinstance(asked, int) and share % min(asked, share):
            raise UserError(
                f"device_batch_size: {asked} does not divide a rank's {share} samples of a step; give "
                f"{_divisor(share, asked)}"
            )
        self.auto = asked == "auto" or (asked is None and device.type == "cuda")
        self.samples_per_pass = min(asked, share) if isinstance(asked, int) else share
        if plain.shapes and self.runtime.shard:
            raise UserError(
                "shard: ranks that share a network make equally many passes, which buckets do not; leave it out"
            )
        if held_out >= len(plain):
            raise UserError(
                f"validation_records: {held_out} leaves nothing to train on; {plain.directory} has {len(plain)} records"
                "; give fewer: --validation-records"
            )
        trained = without_held_out(augmented, plain, held_out) if augmented is not None and held_out else augmented
        if seams is not None and isinstance(trained, Subset):
            seams = seams.select(trained.indices)
        if seams is not None and config.seam_margin is not None:
            check_margin(config.seam_margin, seams, plain.facts["image_size"], plain.latent_shape[-1])
        min_t = config.augment_min_t if seams is None else seams.min_t
        min_t = 1.0 if isinstance(min_t, str) else min_t  # of an arm without augmented images
        objective = load_objective(config, plain.features[1])
        algorithm = Algorithm1(
            len(plain) - held_out,
            trained,
            min_t,
            config.augment_prob,
            config.seed,
            config.noise_schedule,
            start=config.augment_start_image,
            end=None if config.augment_prob_end is None else (config.num_images, config.augment_prob_end),
            caption_drop_prob=config.caption_drop_prob,
            self_condition_prob=config.self_condition_prob,
            caption_mix=config.mix,
            times=times_of(objective, config.objective),
            max_t=config.augment_max_t,
            below=config.seam_margin is not None,
        )
        network = initial_network(config.model, config.seed, weights)
        self.state = TrainState(network, config, objective, device=device, runtime=self.runtime)
        null_condition = torch.from_numpy(plain.null_condition).to(device, self.state.dtype)
        self.reader = Reader(
            algorithm,
            plain,
            trained,
            Normalization(config.latent_shift, config.latent_scale),
            encode_text=self.runtime.encode_text,
            levels=(level_numbers(config.mix, plain), level_numbers(config.mix, augmented or plain)),
            seams=seams,
            seam_margin=config.seam_margin or 0,
            sentence_drop_prob=config.sentence_drop_prob,
            condition_noise=config.condition_noise,
            align_until=(config.align_until_image or math.inf) if objective.aligns else 0,
            features=objective.needs_features,
        )
        self.stepper = Stepper(out, config, self.state, algorithm, null_condition)
        if self.auto:
            self.samples_per_pass = self._remembered() or self._most_that_fit(share)
        size = self.samples_per_pass
        self.actions = PeriodicActions(out, config, self.state, self.reader, null_condition, size, self.runtime)

    @property
    def _circumstances(self) -> dict[str, Any]:
        """Conditions that decide how many samples fit into memory."""
        device, runtime = self.state.device, self.runtime
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        split = "network" if self.state.shards is not None else self.state.optimizer.split
        flags = {"gradient_checkpointing": runtime.gradient_checkpointing, "split": split}
        return {"device": name, "ranks": world_size(), **flags}

    def _remembered(self) -> int | None:
        """Return the number of samples that an earlier start found under the same circumstances."""
        found = read_json(self.out / REMEMBERED) if (self.out / REMEMBERED).is_file() else {}
        size = found.pop("samples", None)
        return size if found == self._circumstances else None

    def _remember(self, size: int) -> None:
        write_json(self.out / REMEMBERED, {"samples": size} | self._circumstances)

    def _most_that_fit(self, share: int) -> int:
        """Return the number of samples of a pass that fit into all ranks' memory, by trying a pass with the longest
        texts of the first steps. Where FSDP splits the network, ranks cannot try alone, and nothing is tried."""
        size, config = _divisor(share, AUTO_SAMPLES), self.config
        if self.state.shards is not None:
            return size
        device = self.state.device
        numbers = np.arange(min(config.num_images, AUTO_STEPS * config.batch_size))
        longest = numbers[np.argsort(-self.reader.lengths(numbers), kind="stable")]
        if (buckets := self.reader.buckets(longest)) is not None:
            longest = longest[buckets == np.bincount(buckets).argmax()]
        while True:
            failed = torch.full((1,), float(not self.stepper.fits(self.reader(longest[:size]))), device=device)
            all_reduce_sum(failed)
            if not failed:
                return size
            if size == 1:
                raise UserError(self._out_of_memory(size))
            size = _divisor(share, size // 2)
            if rank() == 0:
                print(f"train: memory does not suffice; continues with passes of {size} samples", file=sys.stderr)

    def _out_of_memory(self, size: int) -> str:
        """Return what happened in a pass of `size` samples and what can be done, in the order of what it costs."""
        runtime, options = self.runtime, []
        if size > 1:
            options.append(f"--device-batch-size {_divisor(self.config.batch_size // world_size(), size // 2)}")
        if not runtime.gradient_checkpointing:
            options.append("--gradient-checkpointing")
        if self.config.optim.name == "adamw" and self.state.shards is None:
            options.append("--adamw8bit for a new run")
        if self.state.shards is None:
            options.append("--shard on several GPUs")
        passes = f"passes of {size} samples" if size > 1 else "one image"
        return f"{self._circumstances['device']}: has too little memory for {passes}; try, in this order, " + ", ".join(
            [*options, "a smaller model"]
        )

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
        if actions.best is not None:
            actions.best.resume()
        unfinished = state.num_images < config.num_images and not actions.no_gain
        if stage:
            if unfinished:
                actions.boards = [TensorBoard(out, state.num_images)]
                if self.runtime.wandb is not None:
                    actions.boards.append(WandB(out, self.runtime.wandb, to_dict(config)))
            if self.auto:
                self._remember(self.samples_per_pass)
            self.stepper.log = actions.log = Log(out / "log.jsonl", state.num_images, window)
            if (out / SKIPPED).exists():
                keep_lines(out / SKIPPED, state.num_images)
            if self.runtime.judge is not None:
                actions.evaluations = Evaluations(out, self.runtime.judge, actions.log, actions.boards)
        actions.facts = facts
        try:
            if actions.evaluations:
                actions.evaluations.resume(state.num_images)
            if unfinished:
                self._loop(actions.log)
            if actions.evaluations:
                actions.evaluations.wait()
        except torch.OutOfMemoryError as error:
            advice, smaller = self._out_of_memory(self.samples_per_pass), self.samples_per_pass // 2
            if self.auto and smaller and self.state.shards is None:
                smaller = _divisor(config.batch_size // world_size(), smaller)
                self._remember(smaller)
                advice += f"; the next start, from the last checkpoint, has passes of {smaller}"
            raise UserError(advice) from error
        finally:
            if actions.evaluations:
                actions.evaluations.close()
            for board in actions.boards:
                board.close()
        if stage:
            checkpoint.prune(out, 1, config.keep_every_images)
            checkpoint.prune(out / checkpoint.BEST, 1)
            (out / SECONDS).unlink(missing_ok=True)  # the log's last line has them
            if actions.best is not None and actions.best.num_images:
                facts = facts | {"best": {"num_images": actions.best.num_images, "validation_ema": actions.best.loss}}
            counts = {"num_images": state.num_images, "skipped_steps": state.skipped}
            if actions.evaluations:
                counts["failed_evaluations"] = actions.evaluations.failures
            stage.finish(counts=counts | {"parameters": state.parameter_count}, facts=facts)

    def _loop(self, log: Log | None) -> None:
        config, state, total = self.config, self.state, self.config.num_images
        numbers = passes(
            state.num_images, config.batch_size, total, self.samples_per_pass, self.reader.lengths, self.reader.buckets
        )
        share = config.batch_size // world_size()
        with (
            delayed_signals() as caught,
            read_ahead(self.reader, numbers, threads=self.runtime.loader_threads, device=state.device) as loader,
            progress("train", total, completed=state.num_images) as bar,
        ):
            self.actions.stopping = lambda: bool(caught)
            while state.num_images < total and not self.actions.no_gain:
                waiting = time.monotonic()
                loaded = []
                while sum(len(batch.numbers) for batch in loaded) < share:
                    loaded.append(next(loader))
                if log:
                    log.data_wait += time.monotonic() - waiting
                    log.tokens += sum(batch.tokens for batch in loaded)
                    log.texts += sum(len(batch.numbers) for batch in loaded)
                self.stepper.step(loaded, bool(caught))
                stop, loss = self.stepper.catch_up(0 if self.actions.due else STEPS_BEHIND * state.optimizer.masked)
                bar.advance(config.batch_size, **({} if math.isnan(loss) else {"loss": loss}))
                if stop:
                    self.stepper.catch_up(0)
                self.actions.run(self.stepper.lr, stop)
                if stop and state.num_images < total and not self.actions.no_gain:
                    raise KeyboardInterrupt
        if log and self.actions.best and state.num_images < total:
            said = f"the EMA's loss on held-out records was lowest after {self.actions.best.num_images}"
            print(f"train: ends after {state.num_images} images: {said}", file=sys.stderr)
