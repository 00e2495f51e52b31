"""The export of a trained network: weights and the settings that sampling needs."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tessera.config import UserError, from_dict, to_dict
from tessera.files import atomic_path, read_json, write_json
from tessera.models.build import build_network
from tessera.models.dit import DiT, DiTConfig
from tessera.models.rin import RIN, RINConfig

CONFIG_FILE = "config.json"


WEIGHTS_FILE = "model.safetensors"


NULL_CONDITION = "null_condition"


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What an export's config.json says beside the network's shape."""

    noise_schedule: str
    """Name of the schedule it was trained with."""
    prediction: str
    """What the network's output is: "eps", "x0" or "v"."""
    latent_codec: str
    """Id of the codec between pixels and latents."""
    text_encoder: str
    """Id of the text encoder."""
    latent_codec_sha256: str | None = None
    """Content hash of the codec's files; None = it has none, or they were not seen."""
    text_encoder_sha256: str | None = None
    """Content hash of the text encoder's files; None likewise."""
    image_size: int
    """Side of the pictures in pixels."""
    latent_shift: tuple[float, ...] = (0.0,)
    """Normalised latents are (codec's latents - shift) * scale; one number, or one per channel."""
    latent_scale: tuple[float, ...] = (1.0,)
    """See latent_shift; > 0."""
    guidance_scale: float = 1.0
    """Default guidance; 1 = off."""
    sampling_steps: int = 250
    """Default number of sampling steps, at least 1."""
    clip_denoised: float | None = None
    """Default clamp of the predicted x0, in normalised latents; None = no limit."""
    arm: str = ""
    """The paper's arm it was trained as, e.g. "ta_ia"; "" = none."""
    num_images: int = 0
    """Training images it has seen."""
    inputs: tuple[tuple[str, str], ...] = ()
    """(name, sha256 of its manifest) of each directory it was trained from."""

    def __post_init__(self) -> None:
        for name in ("image_size", "sampling_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not all(scale > 0 for scale in self.latent_scale):
            raise UserError(f"latent_scale must be above 0, not {list(self.latent_scale)}")


@dataclass(frozen=True, kw_only=True, eq=False)
class ExportInfo(ExportSettings):
    """All that sampling needs beside the network."""

    null_condition: Tensor
    """Encoding of the empty caption, (1, D) float32; kept in model.safetensors."""

    @property
    def settings(self) -> ExportSettings:
        """The part that stands in config.json."""
        names = [field.name for field in dataclasses.fields(ExportSettings)]
        return ExportSettings(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True, kw_only=True)
class _ExportConfig:
    network: DiTConfig | RINConfig
    settings: ExportSettings


def save_export(directory: str | Path, network: DiT | RIN, info: ExportInfo) -> None:
    """Writes config.json and model.safetensors; each is there whole or not at all, config.json last."""
    directory = Path(directory)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    tensors[NULL_CONDITION] = torch.as_tensor(info.null_condition).detach().float().cpu().contiguous()  # (1, D)
    with atomic_path(directory / WEIGHTS_FILE) as path:
        save_file(tensors, path, metadata={"format": "pt"})
    write_json(directory / CONFIG_FILE, to_dict(_ExportConfig(network=network.config, settings=info.settings)))


def load_export(
    directory: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[DiT | RIN, ExportInfo]:
    """The network of an export on `device` in `dtype`, ready for inference, and its info.

    UserError: a file is missing, damaged or of another network.
    """
    config_path, weights_path = Path(directory) / CONFIG_FILE, Path(directory) / WEIGHTS_FILE
    if not config_path.is_file():
        raise UserError(f"{directory}: is not an export, it has no {CONFIG_FILE}; `tessera export` makes one")
    config = from_dict(_ExportConfig, read_json(config_path), where=str(config_path))
    tensors = _read_safetensors(weights_path)
    null_condition = tensors.pop(NULL_CONDITION, None)
    width = config.network.text_width
    if null_condition is None or null_condition.shape != (1, width):
        found = "missing" if null_condition is None else f"{tuple(null_condition.shape)}"
        raise UserError(f"{weights_path}: {NULL_CONDITION} must be (1, {width}), it is {found}; export the run again")
    with torch.device("meta"):
        network = build_network(config.network)
    _load_strictly(network, tensors, weights_path)
    settings = {field.name: getattr(config.settings, field.name) for field in dataclasses.fields(ExportSettings)}
    info = ExportInfo(null_condition=null_condition.float(), **settings)
    return network.to(device=device, dtype=dtype).requires_grad_(False).eval(), info


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; the weights must be in safetensors format under this name")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: is not a safetensors file or is damaged ({error}); make or fetch it again") from error
    # The file's tensors lie where its header ends: kernels round differently on such addresses, and it may be replaced.
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _names(names: Iterable[str]) -> str:
    """At most four of the names, sorted, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - 4} more" if len(ordered) > 4 else ""
    return ", ".join(ordered[:4]) + more


def _load_strictly(network: DiT | RIN, tensors: Mapping[str, Tensor], where: object) -> None:
    """Makes `tensors` the network's parameters. The network may be on the meta device.

    UserError unless the names and shapes are exactly the network's.
    """
    expected = network.state_dict()
    problems = []
    if missing := expected.keys() - tensors.keys():
        problems.append(f"missing {_names(missing)}")
    if extra := tensors.keys() - expected.keys():
        problems.append(f"unexpected {_names(extra)}")
    wrong = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected.keys() & tensors.keys()
        if tensors[name].shape != expected[name].shape
    ]
    if wrong:
        problems.append(f"of another shape {_names(wrong)}")
    if problems:
        raise UserError(f"{where}: these are not the weights of this network: {'; '.join(problems)}")
    network.load_state_dict(dict(tensors), assign=True)
    network.reset_buffers()
