"""The state that the steps of a run change (weights, optimizer, EMA, counts), and the weights that it starts from."""

import copy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tessera.config import UserError, blaming, compare, load_part, to_dict
from tessera.devices import is_fast_in_bf16, rank, world_size
from tessera.diffusion.objective import OBJECTIVES, Objective
from tessera.models.build import DTYPES, build_network, compile_blocks, compile_whole, compiler_fault, resize_positions
from tessera.models.dit import DiT, DiTConfig
from tessera.models.fp8 import fp8_twin, use_fp8
from tessera.models.rin import RIN, RINConfig
from tessera.randomness import address
from tessera.train import checkpoint
from tessera.train.config import RuntimeOptions, TrainConfig
from tessera.train.dataset_checks import same_network
from tessera.train.distributed import GradientExchange
from tessera.train.optim.master import EMA, MasterOptimizer, part_of
from tessera.weights.export import load_export

RESIZED = ("latent_size", "position_grid")
"""Fields of a network's config in which initial weights may differ: the step to another resolution."""
OWN = "objective"
"""The network's submodule of what the objective trains of its own."""
ENCODE_FLAGS = {"latent_codec": "--latents", "text_encoder": "--text"}
"""Networks that sets and initial weights must share, and the flag of `tessera encode` for each."""


class TrainState:
    """The network on its device, its optimizer and EMA, split over the ranks where `runtime` says so."""

    def __init__(
        self,
        network: DiT | RIN,
        config: TrainConfig,
        objective: Objective,
        *,
        device: torch.device,
        runtime: RuntimeOptions,
    ) -> None:
        """Take `network`, in fp32 with its initial weights, and change it in place: it gets the objective's parameters
        too."""
        faster = "bf16" if is_fast_in_bf16(device) else "fp32"
        self.compute = faster if config.compute == "auto" else config.compute
        self.device, self.dtype = device, DTYPES.get(self.compute, torch.bfloat16)  # FP8: in some layers of bf16
        self.parameter_count, self.shards, self.exchange = network.parameter_count, None, None
        self.objective, self.average = objective.to(device), None
        if objective.average_blocks:
            if (runtime.shard or runtime.shard_optimizer) and world_size() > 1:
                flags = "--shard or --shard-optimizer"
                raise UserError(f"objective: one that needs the whole average does not go with {flags}; leave that out")
            self.average = copy.deepcopy(network).requires_grad_(False)
            self.average.blocks = self.average.blocks[: objective.average_blocks]  # type: ignore[index]
            self.average.to(device, self.dtype)
            """The network with the averaged weights of `average_now`, cut off behind the blocks that are needed."""
        if any(True for _ in objective.parameters()):
            if runtime.shard and world_size() > 1:
                raise UserError("objective: one with parameters of its own does not go with --shard; leave that out")
            network.add_module(OWN, objective)
        self.network = network.to(device)
        if runtime.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        if runtime.shard and world_size() > 1:
            from tessera.train.optim.fsdp import Shards

            self.shards = Shards(self.network, self.dtype)
        split = "network" if self.shards is not None else None
        if runtime.shard_optimizer and world_size() > 1:
            if split is not None:
                raise UserError("shard: splits the optimizer too; leave out --shard or --shard-optimizer")
            split = "optimizer"
        if self.compute.startswith("fp8") and self.shards is not None:
            raise UserError("compute: FP8 and --shard do not go together; leave out one of them")
        if self.compute == "fp8":
            use_fp8(self.network, device)
        buffers = [buffer.clone() for buffer in objective.buffers()]
        self.optimizer = MasterOptimizer(self.network, config.optim, self.dtype, split)
        for buffer, whole in zip(objective.buffers(), buffers):
            buffer.data = whole  # in its own precision, such as running means
        self.first_network = self.network
        """The network of the first forward of self-conditioning; its parameters are the network's own."""
        if self.compute == "fp8-first":
            self.first_network = fp8_twin(self.network, device)
        if world_size() > 1 and self.shards is None:
            self.exchange = GradientExchange(self.optimizer)
        self.compiled = compiles(runtime, device, self.dtype, split=self.shards is not None)
        if self.compiled:
            for part in dict.fromkeys(filter(None, (self.network, self.first_network, self.average))):
                (compile_whole if runtime.compile == "whole" else compile_blocks)(part)
            self.optimizer.compile()
        self.ema = EMA(self.optimizer.weights, config.ema_decay)
        self.num_images = self.skipped = self.skipped_in_a_row = 0

    def average_now(self) -> None:
        """Give `average` the averaged weights."""
        assert self.average is not None
        averages = dict(zip(self.optimizer.names, self.optimizer.layout.views(self.ema.weights)))
        names, weights = zip(*self.average.named_parameters())
        torch._foreach_copy_([*weights], [averages[name] for name in names])  # pyright: ignore

    def save(self, run: Path, window: dict[str, Any] | None, keep: int, every: int | None) -> None:
        """Write a checkpoint, as `checkpoint.save`; all ranks have to. `window`: the log's sums, rank 0's."""
        meta = {"skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row, "window": window}
        checkpoint.save(run, self.num_images, self.tensors(), meta, keep, every)

    def load(self, directory: Path) -> dict[str, Any] | None:
        """Take over a checkpoint's directory. Return the log's sums."""
        saved = checkpoint.load(directory, self.tensors(), partial=self.optimizer.split == "optimizer")
        self.optimizer.load_state_dict({name: part_of(tensor) for name, tensor in saved.tensors.items()})
        self.num_images = saved.num_images
        self.skipped, self.skipped_in_a_row = saved.meta["skipped"], saved.meta["skipped_in_a_row"]
        return saved.meta["window"]

    def tensors(self) -> dict[str, Tensor]:
        """Return master/NAME, ema/NAME, optim/NAME/FIELD, of the tensors or parts that this rank steps, and the
        objective's buffers: the memory itself; copies for an optimizer before a step."""
        state = self.optimizer.state_dict()
        averages = self.optimizer.layout.views(self.ema.weights)
        state |= {f"ema/{name}": average for name, average in zip(self.optimizer.names, averages)}
        if self.shards is not None:
            split = self.shards.split
            state = {key: split(key.split("/")[1], value) if value.ndim else value for key, value in state.items()}
        return state | dict(self.objective.named_buffers())


def compiles(runtime: RuntimeOptions, device: torch.device, dtype: torch.dtype, *, split: bool) -> bool:
    """Return whether the blocks, which compute in `dtype`, are compiled: by default on GPUs where that can be done.

    split: the ranks hold parts of their weights, and gathering these within a block cannot be part of a compiled
    program. Raises UserError where compilation is requested all the same.
    """
    if split and runtime.compile:
        raise UserError("compile: blocks whose weights are split cannot be compiled; leave out --compile or --shard")
    if runtime.compile is not None or device.type != "cuda" or split:
        return bool(runtime.compile)
    fault = compiler_fault(device, dtype)
    if fault is not None and rank() == 0:
        print(f"train: continues without compiling the network, which is slower: {fault}", file=sys.stderr)
    return fault is None


def initial_network(model: DiTConfig | RINConfig, seed: int, weights: Mapping[str, Tensor] | None = None) -> DiT | RIN:
    """Build the network on the CPU in fp32, with random initial weights by the address of `seed`, or with `weights`."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(address(seed, "initial weights"))
        network = build_network(model)
    if weights is not None:
        network.load_state_dict(weights)
    return network


def load_objective(config: TrainConfig, features: int | None = None) -> Objective:
    """Return the objective of a configuration on the CPU, its parameters by the address of the seed. UserError for a
    part of the user's own that is none, and for a model that it does not fit. features: their width in the sets;
    None = not known yet."""
    kind = load_part(config.objective, OBJECTIVES, "objective")
    if not (isinstance(kind, type) and issubclass(kind, Objective)):
        raise UserError(
            f"objective {config.objective}: is no tessera.diffusion.objective.Objective; docs/extending.md shows one"
        )
    with blaming(config.objective, "objective"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(address(config.seed, "objective"))
        objective = kind(config.prediction, config.times, 1 + len(config.caption_mix))
        objective.fit(config.model, features)
        list(objective.parameters())  # there are none where its class calls no super().__init__
    return objective


def times_of(objective: Objective, name: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the objective's `times`, which raise UserError where a user's own, of that name, gives wrong ones."""

    def times(uniforms: np.ndarray) -> np.ndarray:
        with blaming(name, "objective"):
            t = np.asarray(objective.times(uniforms))
            if t.shape != uniforms.shape or not ((t >= 0) & (t <= 1)).all():
                raise UserError("times has to return a t in [0, 1) for each draw from U(0, 1)")
        return t

    return times


def weights_of_export(
    export: Path,
    config: TrainConfig,
    facts: Mapping[str, Any],
    content_hash: Callable[[str, str], str | None] | None = None,
) -> dict[str, Tensor]:
    """Return the weights of the directory `export`, fitted to the model of `config`.

    The export is one's own or of the published CAD-I (`tessera import-published`). At another resolution, RIN's learned
    positions are interpolated; DiT's are computed, and `position_grid` has to be that of the export. facts: of the sets
    (`check_sets`). content_hash: see `RuntimeOptions`. Raises UserError that names what else differs: another network,
    prediction, noise schedule, latents or texts.
    """
    (network, info), model = load_export(export), config.model
    where = f"{export}: cannot start from these weights"
    kinds = [type(config).__name__.removesuffix("Config") for config in (network.config, model)]
    if kinds[0] != kinds[1]:
        raise UserError(f"{where}: they are a {kinds[0]}'s, the model is a {kinds[1]}")
    theirs, ours = ({k: v for k, v in to_dict(c).items() if k not in RESIZED} for c in (network.config, model))
    for name in ("prediction", "noise_schedule", "latent_shift", "latent_scale"):
        theirs[name], ours[name] = to_dict(info.settings)[name], to_dict(config)[name]
    if pairs := compare(theirs, ours):
        said = "; ".join(f"{name} is {there} there, here {here}" for name, there, here in pairs)
        raise UserError(f"{where}: {said}")
    for name, flag in ENCODE_FLAGS.items():
        _check_network(where, name, flag, (to_dict(info.settings), facts), content_hash)
    weights = {name: tensor.float() for name, tensor in network.state_dict().items()}
    if isinstance(model, RINConfig):
        weights["interface_positions"] = resize_positions(weights["interface_positions"], model.grid_side**2)
        return weights
    there, here = (config.position_grid or config.grid_side for config in (network.config, model))  # type: ignore
    if there != here:
        raise UserError(
            f"{where}: their positions are spread over a grid of {there}, the model's over {here}; set position_grid "
            f"to {there}"
        )
    return weights


def _check_network(
    where: str,
    name: str,
    flag: str,
    sides: tuple[Mapping[str, Any], Mapping[str, Any]],
    content_hash: Callable[[str, str], str | None] | None,
) -> None:
    """Raise UserError unless both sides used one codec or text encoder, by whatever name."""
    same = same_network(*sides, name)
    if same is None and content_hash is not None:
        key = f"{name}_sha256"
        one, other = ({name: f[name], key: f.get(key) or content_hash(name, f[name])} for f in sides)
        same = same_network(one, other, name)
    there, here = (facts[name] for facts in sides)
    if not same:
        hidden = same is None and all("/" in model or "@" in model for model in (there, here))
        reason = "; comparing them needs both on this machine; or" if hidden else ", which is another network;"
        raise UserError(
            f"{where}: {name} is {there} there, here {here}{reason} encode the sets again with {flag} {there}"
        )
