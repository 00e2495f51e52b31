"""What is looked at beside the training loss: the loss on held-out records, and grids of pictures.

Both have addresses: record i of the held-out ones always meets the same t, posterior draw and noise, picture k the same
starting noise. So two measurements differ by the weights alone.
"""

import numpy as np
import torch
from torch import Tensor

from tessera.devices import rank, world_size
from tessera.diffusion.guidance import Guided
from tessera.diffusion.loss import as_denoiser, diffusion_loss
from tessera.diffusion.sampler import ddim
from tessera.diffusion.schedule import get_schedule
from tessera.models.rin import RINConfig
from tessera.randomness import philox
from tessera.records import Batch
from tessera.train.algorithm1 import latent_limit
from tessera.train.config import TrainConfig
from tessera.train.distributed import add_up
from tessera.train.loader import Reader, draw_latents
from tessera.train.logs import QUARTERS, quarter_of

VALIDATION = "validation "  # before a purpose, of draws that training does not make
GRID_SIDE = 4
GRID_STEPS = 25
GRID_GUIDANCE = 3.0


class HeldOut:
    """The records at the end of the plain set that are not trained on."""

    def __init__(self, reader: Reader, config: TrainConfig, size: int, device: torch.device, dtype: torch.dtype):
        """`size`: samples per forward pass."""
        self.reader, self.config, self.size, self.device, self.dtype = reader, config, size, device, dtype
        self.count = config.validation_records
        self.first = len(reader.plain) - self.count
        self.t = (np.arange(self.count) + 0.5) / self.count
        """Time of each record: evenly over [0, 1]; records lie in shuffled order."""

    def batch(self, rows: np.ndarray) -> Batch:
        """The held-out records `rows` (counted from 0) with their times and noise."""
        records = [self.reader.plain[self.first + int(row)] for row in rows]
        latents, noise = draw_latents(records, self.config.seed, rows.tolist(), VALIDATION)
        t = torch.from_numpy(self.t[rows])
        alpha_bar = get_schedule(self.config.noise_schedule)(t)
        text = self.reader.text_of(records)
        batch = Batch(
            latents=self.reader.normalise(latents),
            text=text.unpack(self.dtype),
            t=t.float(),
            alpha_bar=alpha_bar.float(),
            noise=noise,
            dropped=torch.zeros(len(rows), dtype=torch.bool),
            numbers=torch.from_numpy(rows),
        )
        return batch.to(self.device)

    @torch.no_grad()
    def loss(self, network: torch.nn.Module, null_condition: Tensor) -> dict[str, float | list[float | None] | None]:
        """The mean loss, and by quarters of t, over all ranks; a RIN always gets its own latent tokens first.

        None: a quarter without records, or a loss that is not finite. Whether that ends the run, its steps say.
        """
        losses = torch.zeros(self.count, device=self.device)
        turns = -(-self.count // (world_size() * self.size))  # as many on every rank: a split network needs all of them
        for turn in range(turns):
            rows = np.arange(self.count)[turn * world_size() * self.size :][: world_size() * self.size]
            mine = rows[rank() :: world_size()]
            if not len(mine):  # computed like the others, and left out
                mine = rows[:1]
            keep = torch.ones(len(mine), dtype=torch.bool) if isinstance(self.config.model, RINConfig) else None
            _, per_sample = diffusion_loss(
                network,
                self.batch(mine),
                null_condition,
                prediction=self.config.prediction,
                self_condition_keep=keep,
            )
            if rank() < len(rows):
                losses[torch.from_numpy(mine).to(self.device)] = per_sample
        add_up([losses])
        # Not in float64 before it is on the CPU: Apple's GPUs have none.
        values, quarter = losses.cpu().double().numpy(), quarter_of(self.t)
        return {"loss": _mean(values), "loss_by_t": [_mean(values[quarter == q]) for q in range(QUARTERS)]}


def _mean(values: np.ndarray) -> float | None:
    """None where there are none, or one is not finite."""
    return float(values.mean()) if len(values) and np.isfinite(values).all() else None


class Grid:
    """Pictures of the first held-out captions (without held-out records: of the set's first captions)."""

    def __init__(self, reader: Reader, config: TrainConfig, device: torch.device, dtype: torch.dtype):
        self.config, self.normalise, self.device = config, reader.normalise, device
        first = len(reader.plain) - config.validation_records if config.validation_records else 0
        records = [reader.plain[i] for i in range(first, min(first + GRID_SIDE**2, len(reader.plain)))]
        self.captions = [record.caption for record in records]
        self.text = reader.text_of(records).unpack(dtype).to(device)
        self.limit = latent_limit(reader.plain, reader.normalise)
        seeds = [philox(config.seed, "sample grid", i) for i in range(len(records))]
        noise = np.stack([seed.standard_normal(records[0].latent_mean.shape, dtype=np.float32) for seed in seeds])
        self.noise = torch.from_numpy(noise).to(device)

    @torch.no_grad()
    def latents(self, network: torch.nn.Module, null_condition: Tensor) -> Tensor:
        """Stored latents (B, C, H, W) of the pictures, by 25 steps of DDIM with guidance 3; of a network that diverges,
        0 where they are not finite, which no codec decodes."""
        denoise = as_denoiser(network, self.config.prediction)
        guided = Guided(denoise, self.text, null_condition, GRID_GUIDANCE, clip=self.limit)
        drawn = ddim(guided, self.noise, get_schedule(self.config.noise_schedule), GRID_STEPS)
        return self.normalise.undo(drawn.float().cpu()).nan_to_num(0.0, 0.0, 0.0)
