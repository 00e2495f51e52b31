"""tau: from which noise on nothing shows that an image is a CutMix, for each pattern and each image (not the paper's).

The paper has one tau. Here a small network (`models.seam_network`) learns on a set's own latents, noised to t, to tell
mixes from plain images by the cells next to a border; plain images get the box of a mix, as if something had been
pasted in. The t from which on it cannot tell is the least noise at which the mix is shown in training. This is Ambient
Diffusion Omni's annotation of low-quality images (Daras et al. 2025, arXiv:2506.10038), with borders in place of blur.

Each record is read once to learn from, in sets below 1,000 records several times, and each augmented one again for its
answer. The directory holds seams.parquet (`encoded.seams`) and, in the manifest's facts, the AUC of each pattern at
each t.
"""

from collections import Counter
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tessera.config import UserError, check_ranges, to_dict
from tessera.curate.index import read_recipe
from tessera.cutmix import CROP, inside_box, near_seam
from tessera.devices import pick_device, usual_defaults
from tessera.diffusion.schedule import add_noise, get_schedule
from tessera.encoded.seams import TIMES, Seams, write_seams
from tessera.encoded.store import EncodedStore, check_roles, open_encoded
from tessera.metrics.shares import auc
from tessera.models.seam_network import SeamNetwork
from tessera.progress import progress
from tessera.randomness import address, philox
from tessera.stages import find_stage, open_stage, read_manifest

UNSURE = 0.6
"""A border counts as hidden from the t on from which the network's mean probability that the image is mixed stays below
this: the mean over noises and times nearby or, for a pattern, over its images."""
REACH = 1
"""Cells on either side of a border that are seen."""
NOISES = 8
"""Noise levels of each record that is learned from."""
ASKED, NEAR = 2, 2
"""Noises by which an answer at one t is averaged, and number of TIMES on either side whose answers are added."""
PLAIN = 128
"""Plain images, at most, with whose answers those of a pattern are compared."""
STEPS, RECORDS = 4000, 8
"""Most steps of learning, and fewest records of a set in each."""
FEWEST_STEPS = 125
"""Fewest steps of learning: those of 1,000 records. Smaller sets are gone through again until there are as many."""
RATE = 5e-3


@dataclass(frozen=True, kw_only=True)
class TauConfig:
    """The latents and noise of the training that the answers are for, as in `train.config.TrainConfig`."""

    noise_schedule: str = "linear"
    latent_shift: tuple[float, ...] = (0.0,)
    latent_scale: tuple[float, ...] = (1.0,)
    seed: int = 0
    """Address of initial weights, noise and boxes, 0 or more."""

    @classmethod
    def of(cls, training: Any) -> "TauConfig":
        """Return that of a `train.config.TrainConfig`; all its seeds have the same answers."""
        return cls(**{name: getattr(training, name) for name in ("noise_schedule", "latent_shift", "latent_scale")})

    def __post_init__(self) -> None:
        check_ranges(self, seed="[0, inf)", latent_scale="(0, inf)")


@usual_defaults
def tau(out: Path, plain: Path, augmented: Path, recipe: Path, config: TauConfig, *, device: str | None = None) -> None:
    """Make `out`, the seams of the encoded set `augmented`, which was made by `recipe`; `plain` is its other half.

    Raises UserError for sets that do not belong together, and a recipe without borders.
    """
    inputs = {"plain": Path(plain), "augmented": Path(augmented), "recipe": Path(recipe)}
    made: Any = {"stage": "tau", "config": to_dict(config), "inputs": inputs}
    found = find_stage(out, **made)
    if found is not None and found.done:
        return
    stores = open_encoded(inputs["plain"]), open_encoded(inputs["augmented"])
    check_roles(*stores)
    seams, size = _borders(stores[1], inputs["recipe"])
    if stores[0].latent_shape != stores[1].latent_shape:
        raise UserError(f"{plain}: latents are {stores[0].latent_shape}, those of {augmented} {stores[1].latent_shape}")
    for name in ("latent_shift", "latent_scale"):
        if (count := len(made["config"][name])) not in (1, channels := stores[0].latent_shape[0]):
            fix = "give the preset that is to be trained on it, or --fit"
            raise UserError(f"{name}: {count} numbers for {plain}, whose latents have {channels} channels; {fix}")
    stage = open_stage(out, **made)
    judge = Judge(config, stores[0].latent_shape, size, pick_device(device))
    with progress("tau", steps_and_passes(*stores)[1] * sum(map(len, stores)) + len(stores[1])) as bar:
        some = judge.learn(*stores, seams.boxes, bar.advance)
        answers = judge.answers(stores[1], seams.boxes, bar.advance)  # (n, times)
    patterns = np.array(seams.patterns)
    facts: dict[str, Any] = {}
    for name, count in sorted(Counter(seams.patterns).items()):
        own = patterns == name
        others = judge.of_plain(some, seams.boxes[own], name)
        curve = [round(auc(answers[own, i], others[:, i]), 4) for i in range(len(TIMES))]
        facts[name] = {"auc": curve, "min_t": hidden_from(answers[own].mean(0)), "images": count}
    seams.min_t[:] = [hidden_from(row) for row in smooth(answers)]
    write_seams(out, seams)
    stage.finish({"records": len(seams.keys)}, facts={"times": list(TIMES), "patterns": facts})


def summary(out: Path) -> str:
    """Return a line for each pattern of the directory `out`."""
    found = read_manifest(out, "tau").facts["patterns"].items()
    return "\n".join(f"{name}: hidden from t = {each['min_t']:g}, {each['images']:,} images" for name, each in found)


def steps_and_passes(*stores: Sized) -> tuple[int, int]:
    """Return the number of steps of learning in which both sets are gone through once, and how often they are."""
    steps = max(1, min(STEPS, min(map(len, stores)) // RECORDS))
    return steps, -(-FEWEST_STEPS // steps)


def smooth(answers: np.ndarray) -> np.ndarray:
    """Return answers (n, times), each the mean over the times up to NEAR away: of few noises, single ones are too often
    above a limit."""
    columns = [answers[:, max(0, i - NEAR) : i + NEAR + 1].mean(1) for i in range(answers.shape[1])]
    return np.stack(columns, 1)


def hidden_from(values: np.ndarray) -> float:
    """Return the smallest of TIMES from which on `values` (times,) stay below UNSURE; 1 if the last one does not."""
    seen = np.flatnonzero(values >= UNSURE)
    return float((*TIMES, 1.0)[seen[-1] + 1]) if len(seen) else TIMES[0]


def _borders(augmented: EncodedStore, recipe: Path) -> tuple[Seams, int]:
    """Return the borders of the set's records, min_t still 0, and the side of their images in pixels."""
    made = augmented.manifest.inputs.get("recipe") if augmented.manifest else None
    if made != read_manifest(recipe, "augment").sha256:
        raise UserError(f"{recipe}: is not the recipe that {augmented.directory} was encoded with; give that one")
    placed = {row.key: row.placement for row in read_recipe(recipe).rows}
    keys = augmented.keys()
    placements = [placed[key] for key in keys]
    if all(each.pattern == CROP for each in placements):
        raise UserError(f"{recipe}: mixes nothing (pattern crop), so there is no border; train with an augment_min_t")
    boxes = np.array([each.box for each in placements], np.int32)
    return Seams(keys, [each.pattern for each in placements], boxes, np.zeros(len(keys))), placements[0].size


class Judge:
    """The network, and the latents that it sees."""

    def __init__(self, config: TauConfig, shape: tuple[int, ...], size: int, device: torch.device) -> None:
        """Take the shape (C, S, S) of latents of images of `size` px."""
        self.seed, self.size, self.cells, self.device = config.seed, size, shape[-1], device
        self.schedule = get_schedule(config.noise_schedule)
        self.shift, self.scale = (
            torch.tensor(values)[:, None, None] for values in (config.latent_shift, config.latent_scale)
        )
        self.power = 1.0
        """Mean square of the latents."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(address(config.seed, "tau/network"))
            self.network = SeamNetwork(shape[0]).to(device)

    def learn(self, plain: EncodedStore, augmented: EncodedStore, boxes: np.ndarray, advance: Any) -> Tensor:
        """Learn from the records of both sets. Return latents of the first plain ones, at most PLAIN."""
        steps, passes = steps_and_passes(plain, augmented)
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=RATE, weight_decay=0.01)
        some = []
        for step, (pair, shown) in enumerate(self._pairs(plain, augmented, boxes, steps, passes)):
            if step == 0:
                self.power = float(pair[0].square().mean())
            if step < steps and sum(map(len, some)) < PLAIN:
                some.append(pair[0])
            clean = torch.cat(pair).repeat(NOISES, 1, 1, 1)
            frames = [each.repeat(NOISES, 1, 1) for each in self._frames(shown)]
            rng = philox(self.seed, "tau/learn", step)
            t = (np.repeat(np.arange(NOISES), len(clean) // NOISES) + rng.random(len(clean))) / NOISES
            odds = self._odds(clean, t, frames, rng)
            kinds = torch.cat([torch.full((len(each),), float(kind)) for kind, each in enumerate(pair)])
            mixed = kinds.repeat(NOISES).to(self.device)
            weights = torch.where(mixed > 0, 0.5 / mixed.sum(), 0.5 / (1 - mixed).sum())  # both kinds count alike
            loss = F.binary_cross_entropy_with_logits(odds, mixed, weights, reduction="sum")
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1, (step + 1) / 10) * (1 - step / (steps * passes))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            advance(sum(map(len, pair)))
        return torch.cat(some)[:PLAIN]

    @torch.no_grad()
    def answers(self, store: EncodedStore, boxes: np.ndarray, advance: Any) -> np.ndarray:
        """Return the probability that each record of `store` is mixed, at each of TIMES (n, times)."""
        found, at = [], 0
        for part, clean in enumerate(self._read(store, -(-len(store) // 64), "asked")):
            found.append(self._ask(clean, boxes[at : at + len(clean)], "tau/ask", part))
            at += len(clean)
            advance(len(clean))
        return np.concatenate(found)

    @torch.no_grad()
    def of_plain(self, clean: Tensor, boxes: np.ndarray, pattern: str) -> np.ndarray:
        """Return the same (n, times) of plain latents (n, C, S, S), with boxes of a pattern."""
        drawn = philox(self.seed, f"tau/boxes/{pattern}").integers(len(boxes), size=len(clean))
        return self._ask(clean, boxes[drawn], f"tau/ask/{pattern}", 0)

    def _ask(self, clean: Tensor, boxes: np.ndarray, purpose: str, part: int) -> np.ndarray:
        rng, frames, columns = philox(self.seed, purpose, part), self._frames(boxes), []
        for t in TIMES:
            asked = [self._odds(clean, np.full(len(clean), t), frames, rng).sigmoid() for _ in range(ASKED)]
            columns.append(torch.stack(asked).mean(0).double().cpu().numpy())
        return np.stack(columns, 1)

    def _frames(self, boxes: np.ndarray) -> list[Tensor]:
        """Return the cells next to the borders of boxes (B, 4), and those within the boxes, (B, S, S) bool each."""
        each = [(tuple(box), self.size, self.cells) for box in boxes.tolist()]
        near, inside = (np.stack(cells) for cells in zip(*((near_seam(*at, REACH), inside_box(*at)) for at in each)))
        return [torch.from_numpy(cells).to(self.device) for cells in (near, inside)]

    def _odds(self, clean: Tensor, t: np.ndarray, frames: list[Tensor], rng: np.random.Generator) -> Tensor:
        """Return the network's log-odds (B,) for latents (B, C, S, S) noised to t (B,)."""
        noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
        alpha_bar = self.schedule(torch.from_numpy(t)).float()
        x = add_noise(clean, noise, alpha_bar) / (alpha_bar * self.power + 1 - alpha_bar).sqrt()[:, None, None, None]
        return self.network(x.to(self.device), alpha_bar.to(self.device), *frames)

    def _pairs(
        self, plain: EncodedStore, augmented: EncodedStore, boxes: np.ndarray, steps: int, passes: int
    ) -> Iterator[tuple[tuple[Tensor, Tensor], np.ndarray]]:
        """Yield the latents of both sets, a pass in `steps` of equal size, and their boxes (n, 4), the plain ones'
        first: in each pass those of other mixes."""
        borrowed = philox(self.seed, "tau/boxes")
        for _ in range(passes):
            places, at = (boxes[borrowed.integers(len(boxes), size=len(plain))], boxes), [0, 0]
            for pair in zip(self._read(plain, steps, "plain"), self._read(augmented, steps, "augmented")):
                shown = [own[first : first + len(x)] for own, first, x in zip(places, at, pair)]
                at = [first + len(x) for first, x in zip(at, pair)]
                yield pair, np.concatenate(shown)

    def _read(self, store: EncodedStore, parts: int, purpose: str) -> Iterator[Tensor]:
        """Yield the set's normalized latents (n, C, S, S), drawn from their posteriors, in `parts` of equal size."""
        batches, ahead, rows = store.latents(), [], 0
        for part in range(parts):
            wanted = len(store) * (part + 1) // parts - len(store) * part // parts
            while rows < wanted:
                ahead.append(next(batches))
                rows += len(ahead[-1][0])
            mean, std = (np.concatenate(kind) for kind in zip(*ahead))
            ahead, rows = [(mean[wanted:], std[wanted:])], rows - wanted
            drawn = philox(self.seed, f"tau/posterior/{purpose}", part).standard_normal(
                mean[:wanted].shape, dtype=np.float32
            )
            latents = mean[:wanted].astype(np.float32) + std[:wanted].astype(np.float32) * drawn
            yield (torch.from_numpy(latents) - self.shift) * self.scale
