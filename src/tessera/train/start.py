"""Training from existing weights: an export of one's own, or of the published CAD-I (`tessera import-published`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tessera.config import UserError, compare, to_dict
from tessera.models.build import resize_positions
from tessera.models.dit import DiTConfig
from tessera.models.rin import RINConfig
from tessera.train.settings import TrainConfig
from tessera.weights import load_export

RESIZED = ("latent_size", "position_grid")
"""Fields of a network's config in which the start may differ: the step to another resolution."""


def starting_weights(export: Path, config: TrainConfig, facts: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of the directory `export`, fitted to the model of `config`; `facts`: of the sets (`check_sets`).

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
        "latent_codec": (info.latent_codec, facts["latent_codec"]),
        "text_encoder": (info.text_encoder, facts["text_encoder"]),
    }
    for name, (there, here) in expected.items():
        if there != here:
            raise UserError(f"{where}: {name} is {there} there, here {here}")
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


def _grid(config: DiTConfig) -> int:
    return config.position_grid or config.latent_size // config.patch_size


def _kind(config: DiTConfig | RINConfig) -> str:
    return "DiT" if isinstance(config, DiTConfig) else "RIN"
