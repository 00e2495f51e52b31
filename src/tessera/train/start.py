"""Training from existing weights: an export of one's own, or of the published CAD-I (`tessera import-published`)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tessera.config import UserError, compare, to_dict
from tessera.models.build import resize_positions
from tessera.models.dit import DiTConfig
from tessera.models.rin import RINConfig
from tessera.train.config import TrainConfig
from tessera.train.dataset_checks import same_network
from tessera.weights.export import load_export

RESIZED = ("latent_size", "position_grid")
"""Fields of a network's config in which the start may differ: the step to another resolution."""

ENCODE_FLAGS = {"latent_codec": "--latents", "text_encoder": "--text"}
"""What sets and weights must have been made with alike, and the flag of `tessera encode` for it."""


def starting_weights(
    export: Path,
    config: TrainConfig,
    facts: Mapping[str, Any],
    content_hash: Callable[[str, str], str | None] | None = None,
) -> dict[str, Tensor]:
    """The weights of the directory `export`, fitted to the model of `config`; `facts`: of the sets (`check_sets`).
    content_hash: see `Means`.

    At another resolution, RIN's learned positions are interpolated; DiT's are computed, and `position_grid` has to say
    over which grid. UserError names what else differs: another network, prediction, noise schedule, latents or texts.
    """
    network, info = load_export(export)
    where = f"{export}: cannot start from these weights"
    ours, theirs = to_dict(config.model), to_dict(network.config)
    if type(config.model) is not type(network.config):
        raise UserError(f"{where}: they are a {_kind(network.config)}'s, the model is a {_kind(config.model)}")
    pairs = compare(
        {k: v for k, v in theirs.items() if k not in RESIZED}, {k: v for k, v in ours.items() if k not in RESIZED}
    )
    if pairs:
        raise UserError(
            f"{where}: " + "; ".join(f"{name} is {theirs} there, here {ours}" for name, theirs, ours in pairs)
        )
    expected = {
        "prediction": (info.prediction, config.prediction),
        "noise_schedule": (info.noise_schedule, config.noise_schedule),
        "latent_shift": (info.latent_shift, config.latent_shift),
        "latent_scale": (info.latent_scale, config.latent_scale),
    }
    for name, (there, here) in expected.items():
        if there != here:
            raise UserError(f"{where}: {name} is {there} there, here {here}")
    for name in ENCODE_FLAGS:
        _check_network(where, name, to_dict(info.settings), facts, content_hash)
    weights = {name: tensor.float() for name, tensor in network.state_dict().items()}
    if isinstance(config.model, DiTConfig):
        assert isinstance(network.config, DiTConfig)
        if _grid(config.model) != _grid(network.config):
            raise UserError(
                f"{where}: their positions are spread over a grid of {_grid(network.config)}, the model's over "
                f"{_grid(config.model)}; set position_grid to {_grid(network.config)}"
            )
    else:
        patches = (config.model.latent_size // config.model.patch_size) ** 2
        weights["interface_positions"] = resize_positions(weights["interface_positions"], patches)
    return weights


def _check_network(
    where: str,
    name: str,
    there: Mapping[str, Any],
    here: Mapping[str, Any],
    content_hash: Callable[[str, str], str | None] | None,
) -> None:
    """UserError unless both sides used one codec or text encoder, by whatever name."""
    same = same_network(there, here, name)
    if same is None and content_hash is not None:
        key = f"{name}_sha256"
        seen = [{name: f[name], key: f.get(key) or content_hash(name, f[name])} for f in (there, here)]
        same = same_network(seen[0], seen[1], name)
    if same:
        return
    again = f"encode the sets again with {ENCODE_FLAGS[name]} {there[name]}"
    said = f"{where}: {name} is {there[name]} there, here {here[name]}"
    if same is None and all("/" in facts[name] or "@" in facts[name] for facts in (there, here)):
        raise UserError(f"{said}; whether these are the same cannot be told without both on this machine; or {again}")
    raise UserError(f"{said}, which is another network; {again}")


def _grid(config: DiTConfig) -> int:
    return config.position_grid or config.latent_size // config.patch_size


def _kind(config: DiTConfig | RINConfig) -> str:
    return "DiT" if isinstance(config, DiTConfig) else "RIN"
