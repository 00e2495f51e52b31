"""The export of a trained network: weights and the settings that sampling needs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tessera.config import UserError, check_ranges, from_dict, to_dict
from tessera.files import atomic_path, read_json, write_json
from tessera.hub import CONFIG_FILE
from tessera.models.build import build_network
from tessera.models.dit import DiT, DiTConfig
from tessera.models.rin import RIN, RINConfig
from tessera.pretrained.tensors import check_state, load_tensors
from tessera.stages import MANIFEST, SWEPT, read_manifest, reopen, such_as

WEIGHTS_FILE = "model.safetensors"
NULL_CONDITION = "null_condition"
METADATA = "tessera"
"""Key in the header of a single file."""


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """Sampling settings and the scores of what was drawn by them."""

    guidance_scale: float
    guidance_interval: tuple[float, float]
    sampling_steps: int
    scores: Mapping[str, float]
    """Metric -> value."""


@dataclass(frozen=True, kw_only=True)
class SweepTable:
    """The table that an export's sampling defaults were chosen from (`tessera sweep`)."""

    chosen_by: str
    """The metric whose best value counts."""
    images: int
    """Images drawn by each settings, of the same prompts from the same noise."""
    results_sha256: str
    """Hash of the sweep's results.json, which has the protocols and the intervals."""
    rows: tuple[SweepRow, ...]


@dataclass(frozen=True, kw_only=True)
class CaptionsSeen:
    """Lengths, words and examples of the captions that a network was trained on, and the size of their set."""

    tokens: tuple[int, int]
    """The 1st and 99th percentile of their lengths, in the text encoder's tokens; of several levels the widest."""
    vocabulary: tuple[str, ...] = ()
    """Their words, for a text encoder to which other words mean nothing; empty = it knows words by itself."""
    examples: tuple[str, ...] = ()
    """Some of them, of all levels: of held-out images where there are any."""
    images: int = 0
    """Images that they belong to; 0 = not known."""
    classes: int = 0
    """Classes of these images."""


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """The settings of an export's config.json, apart from the network's shape."""

    noise_schedule: str
    """Name of the schedule it was trained with."""
    prediction: str
    """The network's output: one of `tessera.diffusion.schedule.PREDICTIONS`."""
    latent_codec: str
    """Id of the codec between pixels and latents."""
    text_encoder: str
    """Id of the text encoder."""
    latent_codec_sha256: str | None = None
    """Content hash of the codec's files; None = it has none, or they were not seen."""
    text_encoder_sha256: str | None = None
    """Content hash of the text encoder's files; None likewise."""
    image_size: int
    """Side of the images in pixels, at least 1."""
    sizes: tuple[str, ...] = ()
    """Sizes that it was trained at, "WIDTHxHEIGHT" in pixels, where they are several; () = the square alone."""
    latent_shift: tuple[float, ...] = (0.0,)
    """Normalized latents are (codec's latents - shift) * scale; one number, or one per channel."""
    latent_scale: tuple[float, ...] = (1.0,)
    """See latent_shift; > 0."""
    guidance_scale: float = 1.0
    """Default guidance; 1 = off."""
    sampling_steps: int = 250
    """Default number of sampling steps, at least 1."""
    guidance_interval: tuple[float, float] | None = None
    """Default (low, high) in t between which guidance acts, in [0, 1]; None = everywhere."""
    sweep: SweepTable | None = None
    """The table from which the three were chosen; None = they were not measured."""
    clip_denoised: float | None = None
    """Default clamp of the predicted x0, in normalized latents; None = no limit."""
    arm: str = ""
    """The paper's arm it was trained as, e.g. "ta_ia"; "" = none."""
    num_images: int = 0
    """Training images it has seen."""
    captions: CaptionsSeen | None = None
    """None = not known."""
    credits: tuple[str, ...] = ()
    """Who made its training images, and under which license; () = not stated."""
    inputs: tuple[tuple[str, str], ...] = ()
    """(name, sha256 of its manifest) of each directory it was trained from."""

    def __post_init__(self) -> None:
        counts = {"image_size": "[1, inf)", "sampling_steps": "[1, inf)"}
        check_ranges(self, **counts, latent_scale="(0, inf)", guidance_interval="[0, 1]")

    @property
    def trained_sizes(self) -> tuple[str, ...]:
        """The sizes that the network was trained at, "WIDTHxHEIGHT" in pixels."""
        return self.sizes or (f"{self.image_size}x{self.image_size}",)

    @property
    def usual_size(self) -> str:
        """The size that is drawn where none is asked for: the square, or without it the one most like it."""
        sides = {size: sorted(map(int, size.split("x"))) for size in self.trained_sizes}
        return min(sides, key=lambda size: sides[size][1] / sides[size][0])

    def check_size(self, size: str) -> None:
        """Raise UserError for a size, "WIDTHxHEIGHT" in pixels, that the network was not trained at."""
        if size not in (known := self.trained_sizes):
            raise UserError(f"size: {size!r} is none that this model was trained at; give one of {', '.join(known)}")


@dataclass(frozen=True, kw_only=True, eq=False)
class ExportInfo(ExportSettings):
    """The settings and the null condition: everything that sampling needs besides the network."""

    null_condition: Tensor
    """Encoding of the empty caption, (1, D) float32; stored in model.safetensors."""

    @property
    def settings(self) -> ExportSettings:
        """The part that config.json holds."""
        return ExportSettings(**{name: value for name, value in vars(self).items() if name != NULL_CONDITION})


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """The content of config.json."""

    network: DiTConfig | RINConfig
    settings: ExportSettings


def save_export(directory: str | Path, network: DiT | RIN, info: ExportInfo) -> None:
    """Write config.json and model.safetensors; each is there whole or not at all, config.json last."""
    directory = Path(directory)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    tensors[NULL_CONDITION] = torch.as_tensor(info.null_condition).detach().float().cpu().contiguous()  # (1, D)
    with atomic_path(directory / WEIGHTS_FILE) as path:
        save_file(tensors, path, metadata={"format": "pt"})
    write_json(directory / CONFIG_FILE, to_dict(ExportConfig(network=network.config, settings=info.settings)))


def save_single_file(export: Path, path: Path) -> None:
    """Write a complete export as one safetensors file, for `load_export`.

    It has the tensors of model.safetensors by the same names, and in the header's metadata, under "tessera", the
    content of config.json. UserError for another directory, or a file of another name.
    """
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: a single file is one of safetensors; name it {path.with_suffix('.safetensors')}")
    read_manifest(export, "export")
    config = _read_config(export)
    tensors = dict(load_tensors(export / WEIGHTS_FILE, "weights"))
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt", METADATA: json.dumps(to_dict(config))})


def read_settings(directory: Path) -> ExportSettings:
    """Return the settings of an export, without its weights. UserError if it is none."""
    read_manifest(directory, "export", must_be_complete=False)
    return _read_config(directory).settings


def set_sampling(directory: Path, chosen: SweepRow, table: SweepTable) -> None:
    """Make `chosen` the sampling defaults of a complete export, with the table that it was chosen from.

    The export's manifest says so too: it is another export for whatever was drawn before. While it is changed, the
    manifest is an unfinished one, so a process that is killed here leaves an export that nobody takes for the old one.
    """
    manifest, config = read_manifest(directory, "export", must_be_complete=False), _read_config(directory)
    defaults = {name: getattr(chosen, name) for name in ("guidance_scale", "guidance_interval", "sampling_steps")}
    settings = replace(config.settings, **defaults, sweep=table)
    facts = manifest.facts | {SWEPT: {**to_dict(chosen), "results_sha256": table.results_sha256}}
    if manifest.complete and settings == config.settings and facts == manifest.facts:
        return
    stage = reopen(directory, manifest.config)
    write_json(directory / CONFIG_FILE, to_dict(replace(config, settings=settings)))
    stage.finish(counts=manifest.counts, rejects=manifest.rejects, facts=facts)


def _read_config(directory: Path) -> ExportConfig:
    """Return the content of config.json, or of a single file's header. UserError: missing, damaged, or no export's."""
    path = Path(directory) / CONFIG_FILE
    data = read_json(path) if path.is_file() else {}
    if Path(directory).is_file():
        path, data = Path(directory), _header(Path(directory))
    if isinstance(data, dict) and "network" not in data:  # a working folder has a config.json too
        near = such_as(Path(directory), "export")
        raise UserError(f"{directory}: is not an export; give a directory made by `tessera export`{near}")
    return from_dict(ExportConfig, data, where=str(path))


def _header(path: Path) -> Any:
    """Return the configuration in a single file's header; {} without one."""
    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {}).get(METADATA, "{}"))
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path}: is damaged, or no safetensors file ({error}); write it again") from error


def load_export(
    directory: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[DiT | RIN, ExportInfo]:
    """Load the network of an export on `device` in `dtype`, ready for inference, and its info. UserError: a file is
    missing, damaged or of another network. directory: of `tessera export`, or its single file."""
    weights_path = Path(directory) if Path(directory).is_file() else Path(directory) / WEIGHTS_FILE
    if (Path(directory) / MANIFEST).exists():  # there is none where the export is part of a pipeline's folder
        read_manifest(Path(directory), "export")
    config = _read_config(Path(directory))
    tensors = dict(load_tensors(weights_path, "weights"))
    null_condition, width = tensors.pop(NULL_CONDITION, None), config.network.text_width
    if null_condition is None or null_condition.shape != (1, width):
        found = "missing" if null_condition is None else tuple(null_condition.shape)
        raise UserError(f"{weights_path}: {NULL_CONDITION} must be (1, {width}), it is {found}; export the run again")
    with torch.device("meta"):
        network = build_network(config.network)
    load_strictly(network, tensors, weights_path)
    info = ExportInfo(null_condition=null_condition.clone().float(), **vars(config.settings))
    return network.to(device=device, dtype=dtype).requires_grad_(False).eval(), info


def load_strictly(network: DiT | RIN, tensors: Mapping[str, Tensor], where: object) -> None:
    """Make copies of `tensors` the network's parameters. The network may be on the meta device. UserError unless the
    names and shapes are exactly the network's."""
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    check_state(tensors, shapes, where, "this network")
    # A file's tensors lie where its header ends: kernels round differently on such addresses, and it may be replaced.
    network.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, assign=True)
    network.reset_buffers()
