"""Measurements besides the training loss: the loss on held-out records, grids of sampled images, and their scores.

All have addresses: held-out record i always gets the same t, posterior draw and noise, image k the same initial noise.
So two measurements differ by the weights alone.
"""

import contextlib
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tessera.config import UserError, compare
from tessera.devices import rank, world_size
from tessera.diffusion.guidance import Guided
from tessera.diffusion.loss import Denoiser, diffusion_loss
from tessera.diffusion.sampler import ddim
from tessera.files import read_json, write_json
from tessera.models.rin import RINConfig
from tessera.progress import STATUS_VARIABLE
from tessera.randomness import philox
from tessera.records import Batch
from tessera.stages import is_complete, made_otherwise, open_stage
from tessera.train import checkpoint
from tessera.train.algorithm1 import latent_limit
from tessera.train.config import JudgeOptions, TrainConfig
from tessera.train.distributed import all_reduce_sum, broadcast_from_rank0
from tessera.train.export import ExportConfig, info_of, network_of
from tessera.train.loader import Reader, draw_latents
from tessera.train.logs import QUARTERS, Log, TensorBoard, WandB, append_line, quarter_of
from tessera.train.state import TrainState
from tessera.weights.export import save_export

VALIDATION = "validation "  # before a purpose, for draws that training does not make
GRID_SIDE = 4
GRID_STEPS = 25
GRID_GUIDANCE = 3.0


class ValidationLoss:
    """Loss on the last `count` records of the plain set, which are not trained on."""

    def __init__(self, reader: Reader, config: TrainConfig, null_condition: Tensor, samples_per_pass: int) -> None:
        """Set up the records. `null_condition` (1, D): on the device and in the dtype of the network."""
        self.reader, self.null_condition, self.samples_per_pass = reader, null_condition, samples_per_pass
        self.count, self.prediction = config.validation_records, config.prediction
        self.self_condition = isinstance(config.model, RINConfig)
        self.first = len(reader.plain) - self.count
        self.t = (np.arange(self.count) + 0.5) / self.count
        """Time of each record: evenly over [0, 1]; records lie in shuffled order."""

    def batch(self, rows: np.ndarray) -> Batch:
        """Return the held-out records `rows` (counted from 0) with their times and noise."""
        records = [self.reader.plain[self.first + int(row)] for row in rows]
        latents, noise = draw_latents(records, self.reader.algorithm.seed, rows.tolist(), VALIDATION)
        t = torch.from_numpy(self.t[rows])
        batch = Batch(
            latents=self.reader.normalize(latents),
            text=self.reader.text_of(records).unpack(self.null_condition.dtype),
            t=t.float(),
            alpha_bar=self.reader.algorithm.schedule(t).float(),
            noise=noise,
            dropped=torch.zeros(len(rows), dtype=torch.bool),
            numbers=torch.from_numpy(rows),
        )
        return batch.to(self.null_condition.device)

    @torch.no_grad()
    def loss(self, network: nn.Module) -> dict[str, float | list[float | None] | None]:
        """Return the mean loss, and its means by quarters of t, over all ranks. None: a quarter without records, or a
        loss that is not finite; it is up to the steps to end such a run."""
        losses = self.null_condition.new_zeros(self.count, dtype=torch.float32)
        together, buckets = world_size() * self.samples_per_pass, self.reader.plain.buckets[self.first :]
        alike = [np.flatnonzero(buckets == bucket) for bucket in np.unique(buckets)]
        parts = [some[first : first + together] for some in alike for first in range(0, len(some), together)]
        for rows in parts:  # equally many on every rank: a split network needs all of them
            mine = rows[rank() :: world_size()]
            if not len(mine):  # computed like the others, but not counted
                mine = rows[:1]
            keep = torch.ones(len(mine), dtype=torch.bool) if self.self_condition else None
            _, per_sample = diffusion_loss(
                network, self.batch(mine), self.null_condition, prediction=self.prediction, self_condition_keep=keep
            )
            if rank() < len(rows):
                losses[torch.from_numpy(mine).to(losses.device)] = per_sample
        all_reduce_sum(losses)
        # Converted to float64 on the CPU: Apple's GPUs have none.
        values, quarter = losses.cpu().double().numpy(), quarter_of(self.t)
        parts = [values, *(values[quarter == q] for q in range(QUARTERS))]
        whole, *by_t = [float(v.mean()) if len(v) and np.isfinite(v).all() else None for v in parts]
        return {"loss": whole, "loss_by_t": by_t}


class SampleGrid:
    """Grid of images of the first captions that are held out; without any, of the whole set. They are square, or of the
    set's size that is most like it."""

    def __init__(self, reader: Reader, config: TrainConfig, null_condition: Tensor) -> None:
        self.reader, self.null_condition, self.prediction = reader, null_condition, config.prediction
        first = len(reader.plain) - config.validation_records if config.validation_records else 0
        records = [reader.plain[i] for i in range(first, min(first + GRID_SIDE**2, len(reader.plain)))]
        self.text = reader.text_of(records).unpack(null_condition.dtype).to(null_condition.device)
        self.limit = latent_limit(reader.plain, reader.normalize)
        addresses = [philox(reader.algorithm.seed, "sample grid", i) for i in range(len(records))]
        plain = reader.plain
        shapes = [plain.shapes[n] for n in np.unique(plain.buckets)] if plain.shapes else [plain.latent_shape]
        shape = min(shapes, key=lambda shape: max(shape[1:]) / min(shape[1:]))
        noise = [draws.standard_normal(shape, dtype=np.float32) for draws in addresses]
        self.noise = torch.from_numpy(np.stack(noise)).to(null_condition.device)

    @torch.no_grad()
    def latents(self, network: nn.Module) -> Tensor:
        """Sample the images' stored latents (B, C, H, W) by 25 steps of DDIM with guidance 3. Values that are not
        finite, of a network that diverges, are replaced by 0: no codec decodes them."""
        denoise = Denoiser(network, self.prediction)
        guided = Guided(denoise, self.text, self.null_condition, GRID_GUIDANCE, clip=self.limit)
        drawn = ddim(guided, self.noise, self.reader.algorithm.schedule, GRID_STEPS)
        return self.reader.normalize.undo(drawn.float().cpu()).nan_to_num(0.0, 0.0, 0.0)


EVALUATIONS = "evaluations"
"""Folder of a run: judge.json, and a folder for each evaluation, by the images seen."""
EXPORT, VALUES, FAILED, LOG = "export", "values.json", "failed.json", "judge.log"
JUDGE_SECONDS = 3600.0
"""Time after which a training that waits for its judge ends it: a failure like any other."""
_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_", STATUS_VARIABLE)
_POLL = 0.1  # seconds


class Evaluations:
    """Scores of images that the EMA weights draw, by the judge's process; RUN/evaluations/IMAGES/ for each.

    export/ holds the weights until they are judged; values.json or failed.json, the last file, the outcome. They are
    those of the weights at that image, so a run that is resumed does not ask for them again. One process works at a
    time, for the rank that writes; whatever becomes of it, the training continues.
    """

    def __init__(self, run: Path, options: JudgeOptions, log: Log, boards: list[TensorBoard | WandB]) -> None:
        """Take over what an earlier call left. UserError if it was judged in another way."""
        self.folder, self.options, self.log, self.boards = run / EVALUATIONS, options, log, boards
        self.waiting: list[Path] = []
        self.running: tuple[Path, subprocess.Popen[bytes], int, float] | None = None
        """The evaluation's folder, its process, the length of its log before it, and when it began."""
        path = self.folder / "judge.json"
        if path.exists() and (pairs := compare(read_json(path), options.described)):
            raise made_otherwise(self.folder, pairs[:3])
        write_json(path, options.described)

    def resume(self, num_images: int) -> None:
        """Resume the evaluations up to `num_images` that have no outcome; log outcomes that the log has not."""
        for place in sorted(path for path in self.folder.iterdir() if path.name.isdecimal()):
            if int(place.name) <= num_images:
                self.ask(place)

    def ask(self, place: Path) -> None:
        """Have the weights in `place` judged, or log the outcome that is there."""
        if (place / VALUES).exists() or (place / FAILED).exists():
            self.conclude(place)
        elif is_complete(place / EXPORT):
            self.waiting.append(place)
        self.poll()

    def poll(self) -> None:
        """Log the outcome of a process that has ended, and start the next one."""
        if self.running is not None and self.running[1].poll() is not None:
            place, process, begins, _ = self.running
            self.running = None
            _close(process)
            self.conclude(place, _why(place, process.returncode, begins))
        while self.running is None and self.waiting:
            self._start(self.waiting.pop(0))

    def wait(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """Wait until all is judged, or until `stopping` says that the training has to end."""
        self.poll()
        while self.running is not None and not stopping():
            time.sleep(_POLL)
            place, _, _, began = self.running
            if time.monotonic() > began + JUDGE_SECONDS:
                self.close()
                self.conclude(place, f"took longer than {JUDGE_SECONDS:g} s")
            self.poll()

    def close(self) -> None:
        """End the process, if one works; what it has done stays for the next call."""
        if self.running is not None:
            self.running[1].kill()
            _close(self.running[1])
            self.running = None

    @property
    def failures(self) -> int:
        """The number of evaluations that failed."""
        return len(list(self.folder.glob(f"*/{FAILED}")))

    def _start(self, place: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHER)}
        with open(place / LOG, "ab") as log:
            begins = log.tell()  # earlier calls may have written to it
            try:
                process = subprocess.Popen(
                    [*self.options.command, str(place)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    start_new_session=True,  # Ctrl-C is the training's alone
                )
            except OSError as error:
                self.conclude(place, f"cannot be started: {error}")
                return
        self.running = (place, process, begins, time.monotonic())

    def conclude(self, place: Path, why: str | None = None) -> None:
        """Write the outcome to the log and the boards, once; keep the scores, not what they were made of.

        why: the reason of a failure, which is written down where no scores are there.
        """
        line: dict[str, Any] = {"num_images": int(place.name), "scores": None}
        if not (place / FAILED).exists():
            try:
                scores = read_json(place / VALUES)["scores"]
                line["scores"] = {name: _finite(score["value"]) for name, score in scores.items()}
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                write_json(place / FAILED, {"failed": why or f"{VALUES} cannot be read: {error}"})
        if (place / FAILED).exists():
            line |= read_json(place / FAILED)
        if int(place.name) not in self.log.scored:
            append_line(self.log.path, line)
            self.log.scored.add(int(place.name))
            for board in self.boards if line["scores"] else ():
                board.scores(int(place.name), {f"scores/{name}": value for name, value in line["scores"].items()})
            if "failed" in line:
                said = f"the judge of {place.name} failed: {line['failed']}; all it said: {place / LOG}"
                print(f"train: {said}", file=sys.stderr)
        for part in (EXPORT, checkpoint.FOLDER, "samples", "held_out_samples"):
            shutil.rmtree(place / part, ignore_errors=True)


def _finite(value: Any) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} is no score")
    return float(value)


def _why(place: Path, code: int, begins: int) -> str | None:
    """Return the last words of a process that failed; None for one that did not."""
    if code == 0:
        return None
    lines = (place / LOG).read_bytes()[begins:].decode(errors="replace").strip().splitlines()
    if code < 0:  # it had no time to say anything
        return f"was killed by signal {-code}" + ("; most often memory ran out" if code == -9 else "")
    return lines[-1].removeprefix("error: ") if lines else f"ended with exit code {code}"


def _close(process: "subprocess.Popen[bytes]") -> None:
    process.communicate()  # waits for it, and closes its input


def write_weights(place: Path, state: TrainState, config: TrainConfig, facts: dict[str, Any]) -> None:
    """Write `place`/export by the EMA weights, split over the ranks or not; all ranks have to call it.

    Nothing is done where an earlier call left it whole, or its outcome. facts: of the run's manifest.
    """
    there = any((place / name).exists() for name in (VALUES, FAILED))
    with contextlib.suppress(UserError):  # a damaged manifest: the others wait for the answer
        there = there or is_complete(place / EXPORT)
    if rank() == 0 and not there:
        shutil.rmtree(place / checkpoint.FOLDER, ignore_errors=True)  # of a process that was killed here
    if broadcast_from_rank0(int(there), state.device):
        return
    tensors = {name: tensor for name, tensor in state.tensors().items() if name.startswith("ema/")}
    checkpoint.save(place, state.num_images, tensors, {})
    if rank() == 0:
        saved = checkpoint.load(place / checkpoint.FOLDER / f"{state.num_images:012d}")
        sampling = ExportConfig(guidance_scale=GRID_GUIDANCE, sampling_steps=GRID_STEPS)
        stage = open_stage(place / EXPORT, stage="export", config={"num_images": state.num_images})
        info = info_of(config, facts, sampling, state.num_images, {})
        save_export(place / EXPORT, network_of(config, saved, "ema/"), info)
        stage.finish(counts={"num_images": state.num_images})
        shutil.rmtree(place / checkpoint.FOLDER)
