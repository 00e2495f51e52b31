"""Measurements besides the training loss: the loss on held-out records, and grids of sampled images.

Both have addresses: held-out record i always gets the same t, posterior draw and noise, image k the same initial noise.
So two measurements differ by the weights alone.
"""

import numpy as np
import torch
from torch import Tensor, nn

from tessera.devices import rank, world_size
from tessera.diffusion.guidance import Guided
from tessera.diffusion.loss import Denoiser, diffusion_loss
from tessera.diffusion.sampler import ddim
from tessera.models.rin import RINConfig
from tessera.randomness import philox
from tessera.records import Batch
from tessera.train.algorithm1 import latent_limit
from tessera.train.config import TrainConfig
from tessera.train.distributed import all_reduce_sum
from tessera.train.loader import Reader, draw_latents
from tessera.train.logs import QUARTERS, quarter_of

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
        together = world_size() * self.samples_per_pass
        for first in range(0, self.count, together):  # equally often on every rank: a split network needs all of them
            rows = np.arange(first, min(first + together, self.count))
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
    """Grid of images of the first captions that are held out; without any, of the whole set."""

    def __init__(self, reader: Reader, config: TrainConfig, null_condition: Tensor) -> None:
        self.reader, self.null_condition, self.prediction = reader, null_condition, config.prediction
        first = len(reader.plain) - config.validation_records if config.validation_records else 0
        records = [reader.plain[i] for i in range(first, min(first + GRID_SIDE**2, len(reader.plain)))]
        self.text = reader.text_of(records).unpack(null_condition.dtype).to(null_condition.device)
        self.limit = latent_limit(reader.plain, reader.normalize)
        addresses = [philox(reader.algorithm.seed, "sample grid", i) for i in range(len(records))]
        noise = [draws.standard_normal(records[0].latent_mean.shape, dtype=np.float32) for draws in addresses]
        self.noise = torch.from_numpy(np.stack(noise)).to(null_condition.device)

    @torch.no_grad()
    def latents(self, network: nn.Module) -> Tensor:
        """Sample the images' stored latents (B, C, H, W) by 25 steps of DDIM with guidance 3. Values that are not
        finite, of a network that diverges, are replaced by 0: no codec decodes them."""
        denoise = Denoiser(network, self.prediction)
        guided = Guided(denoise, self.text, self.null_condition, GRID_GUIDANCE, clip=self.limit)
        drawn = ddim(guided, self.noise, self.reader.algorithm.schedule, GRID_STEPS)
        return self.reader.normalize.undo(drawn.float().cpu()).nan_to_num(0.0, 0.0, 0.0)
