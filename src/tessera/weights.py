"""Weights on disk: the export of a trained network, and the published weights of CAD-I.

An export is a folder with `config.json` (the network's shape and all that sampling needs to know) and
`model.safetensors` (its parameters and the null condition).
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tessera.config import UserError, from_dict, to_dict
from tessera.files import atomic_path, read_json, write_json
from tessera.models.build import build_network
from tessera.models.dit import DiT, DiTConfig
from tessera.models.rin import RIN, RINConfig
from tessera.repository import fetch_repository

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


# The published class's names and ours. A key is `module.` + the rest, or one of the single parameters.
_PUBLISHED_PARAMETERS = {
    "data_pos_embedding": "interface_positions",
    "latents": "latent_tokens",
    "text_registers": "text.registers",
    "coherence_positional_embedding": "coherence_position",
}
_PUBLISHED_MODULES = (
    (r"patch_extractor", "patch_embedding"),
    (r"data_ln", "patch_norm"),
    (r"(time|coherence)_embedder\.map_time\.0", r"\1.hidden"),
    (r"(time|coherence)_embedder\.map_time\.2", r"\1.out"),
    (r"map_text_tokens", "text.projection"),
    (r"linear_previous\.0", "previous.norm"),
    (r"linear_previous\.1\.0", "previous.mlp.up"),
    (r"linear_previous\.1\.3", "previous.mlp.down"),
    (r"ln_previous", "previous.out_norm"),
    (r"map_tokens_to_patches\.0", "out_norm"),
    (r"map_tokens_to_patches\.1", "out_projection"),
)
_PUBLISHED_BLOCKS = (
    (r"transformers_blocks\.(\d+)", r"text.blocks.\1"),
    (r"rin_blocks\.(\d+)\.retrieve_cond", r"blocks.\1.condition"),
    (r"rin_blocks\.(\d+)\.retriever_ca", r"blocks.\1.read"),
    (r"rin_blocks\.(\d+)\.processer_sa\.(\d+)", r"blocks.\1.compute.\2"),
    (r"rin_blocks\.(\d+)\.writer_ca", r"blocks.\1.write"),
)
_PUBLISHED_BLOCK_PARTS = {
    "layer_scale_1": "attention_scale",
    "layer_scale_2": "mlp_scale",
    "initial_ln": "attention_norm",
    "initial_to_ln": "attention_norm",
    "middle_ln": "mlp_norm",
    "sa.qkv": "attention.qkv",
    "sa.out": "attention.out",
    "ca.q": "attention.query",
    "ca.kv": "attention.key_value",
    "ca.out": "attention.out",
    "ffn.0": "mlp.up",
    "ffn.3": "mlp.down",
}
_PUBLISHED_CONSTANTS = re.compile(
    r"(.+\.attention_mask_dummy|(time|coherence)_embedder\.encode_time\.freqs|registers_coherence_mask|cond_mask)"
)


def published_name(key: str) -> str | None:
    """Our name of a parameter of the published CAD-I class; None if that class has no such parameter."""
    if key in _PUBLISHED_PARAMETERS:
        return _PUBLISHED_PARAMETERS[key]
    for pattern, name in _PUBLISHED_BLOCKS:
        if match := re.match(pattern + r"\.", key):
            part, _, kind = key[match.end() :].rpartition(".")
            if kind not in ("weight", "bias"):  # a parameter of the block itself
                part, kind = f"{part}.{kind}".lstrip("."), ""
            ours = _PUBLISHED_BLOCK_PARTS.get(part)
            if ours is None or bool(kind) == part.startswith("layer_scale"):
                return None
            return match.expand(name) + f".{ours}.{kind}".rstrip(".")
    for pattern, name in _PUBLISHED_MODULES:
        if match := re.fullmatch(pattern + r"(\.weight|\.bias)", key):
            return match.expand(name) + match.group(match.lastindex or 0)
    return None


def convert_published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors (parameters, or their gradients) under the published names -> under ours.

    Constants (dummy masks, frequency tables) are dropped. UserError names the keys that the published class does not
    have.
    """
    converted, unknown = {}, []
    for key, tensor in tensors.items():
        if _PUBLISHED_CONSTANTS.fullmatch(key):
            continue
        name = published_name(key)
        if name is None:
            unknown.append(key)
        elif name == "patch_embedding.weight" and tensor.ndim == 4:
            converted[name] = tensor.permute(0, 2, 3, 1).flatten(1)  # convolution (D, C, p, p) -> (D, p p C)
        else:
            converted[name] = tensor
    if unknown:
        raise UserError(f"not a published CAD-I state: unexpected {_names(unknown)}")
    return converted


def load_published_state(network: RIN, tensors: Mapping[str, Tensor], where: object = "published weights") -> None:
    """Gives `network` the published CAD-I class's state dict: 444 entries for L, 452 with the coherence token.

    Without `network.config.coherence` the coherence token's parameters are left out; every other name and shape must be
    right. UserError names those that are not.
    """
    converted = convert_published(tensors)
    if not network.config.coherence:
        extra = {name for name in converted if name.startswith("coherence")}
        if extra and len(extra) != 5:
            raise UserError(f"{where}: has only a part of the coherence token: {_names(extra)}")
        converted = {name: tensor for name, tensor in converted.items() if name not in extra}
    elif not any(name.startswith("coherence") for name in converted):
        raise UserError(f"{where}: has no coherence token; load it with coherence=False")
    _load_strictly(network, converted, where)


def published_config(data: Mapping[str, Any], coherence: bool = False, where: object = "config.json") -> RINConfig:
    """Our config for the published class's constructor arguments."""

    def read(name: str) -> int:
        value = data.get(name)
        if not isinstance(value, int):
            raise UserError(f"{where}: {name} must be an integer, not {value!r}; is this a published CAD-I?")
        return value

    fixed = {
        "concat_cond_token_to_latents": False,
        "use_cond_token": True,
        "use_cond_rin_block": True,
        "use_biases": True,
        "modulate_conditioning": False,
        "time_scaling": 1000.0,
        "noise_embedding_type": "positional",
        "data_positional_embedding_type": "learned",
        "data_mlp_multiplier": read("latent_mlp_multiplier"),
    }
    for name, value in fixed.items():
        if data.get(name, value) != value:
            raise UserError(f"{where}: {name} = {data[name]!r} is not supported, only {value!r}")
    return RINConfig(
        latent_channels=read("num_input_channels"),
        latent_size=read("data_size"),
        patch_size=read("path_size"),
        interface_width=read("data_dim"),
        num_latent_tokens=read("num_latents"),
        latent_width=read("latents_dim"),
        blocks=read("num_blocks"),
        layers_per_block=read("num_processing_layers"),
        read_write_heads=read("read_write_heads"),
        compute_heads=read("compute_heads"),
        mlp_ratio=read("latent_mlp_multiplier"),
        text_width=read("label_dim"),
        text_registers=read("num_text_registers"),
        coherence=coherence,
    )


def load_published(path_or_repo: str | Path, coherence: bool = False) -> tuple[RIN, dict[str, Any]]:
    """The published CAD-I of a local folder or a Hugging Face repository such as "Lucasdegeorge/CAD-I".

    Reads config.json (constructor arguments) and model.safetensors. coherence=True keeps the coherence token, which the
    published pipeline feeds at every prompt though the paper's model was trained without it. Returns the network in
    float32 on the CPU and metadata: "config" (as published), "tensors" (their number), "has_coherence", and what the
    network needs to be sampled.
    """
    folder = published_folder(path_or_repo)
    config_path, weights_path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    data = read_json(config_path)
    if not isinstance(data, dict):
        raise UserError(f"{config_path}: must hold the constructor arguments, not {type(data).__name__}")
    config = published_config(data, coherence, config_path)
    tensors = _read_safetensors(weights_path)
    with torch.device("meta"):
        network = RIN(config)
    load_published_state(network, tensors, weights_path)
    metadata = {
        "config": data,
        "tensors": len(tensors),
        "has_coherence": "coherence_positional_embedding" in tensors,
        "noise_schedule": "linear",
        "prediction": "eps",
        "latent_scale": 0.18215,
        "text_encoder": "google/flan-t5-xl",
    }
    return network.float().requires_grad_(False).eval(), metadata


def published_folder(path_or_repo: str | Path) -> Path:
    """The folder itself, or where the local cache has the two files of a Hugging Face repository; fetches them."""
    folder = Path(path_or_repo)
    return folder if folder.is_dir() else fetch_repository(str(path_or_repo), (CONFIG_FILE, WEIGHTS_FILE))
