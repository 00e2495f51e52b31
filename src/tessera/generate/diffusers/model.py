"""A network in diffusers' terms, for its pipeline and the Hub's tools; and the Hub's files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from tessera.config import UserError, from_dict, to_dict
from tessera.files import sha256_file
from tessera.hub import fetch_repository
from tessera.models.build import build_network
from tessera.models.dit import DiT
from tessera.models.rin import RIN
from tessera.records import DenoiserState, TextEncoding
from tessera.stages import Stage
from tessera.weights.export import CONFIG_FILE, WEIGHTS_FILE, ExportConfig, ExportInfo, load_export, save_export

INDEX_FILE = "model_index.json"
"""diffusers' list of a pipeline's parts."""
PART = "transformer"
"""Folder of the network in a saved pipeline."""
SAMPLER_OF = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "FlowMatchEulerDiscreteScheduler": "euler",
    "FlowMatchHeunDiscreteScheduler": "heun",
}
"""diffusers' scheduler -> our sampler whose steps are the same."""
_HUB_FILES = ["config.json", "model.safetensors", INDEX_FILE, "README.md", f"{PART}/*.json", f"{PART}/*.safetensors"]


class TesseraTransformer(ModelMixin, ConfigMixin):
    """A DiT or RIN (`.denoiser`, a plain module) with its export's settings, in diffusers' terms.

    network, settings: the two parts of an export's config.json.
    """

    null_condition: Tensor
    _repeated_blocks: ClassVar[list[str]] = ["DiTBlock", "RINBlock"]
    """Classes that `pipe.transformer.compile_repeated_blocks()` compiles."""

    @register_to_config
    def __init__(self, network: dict[str, Any], settings: dict[str, Any]):
        super().__init__()
        config = from_dict(ExportConfig, {"network": network, "settings": settings})
        self.settings = config.settings
        self.denoiser: DiT | RIN = build_network(config.network)
        self.register_buffer("null_condition", torch.zeros(1, config.network.text_width))  # (1, D)

    @classmethod
    def wrap(cls, network: DiT | RIN, info: ExportInfo) -> "TesseraTransformer":
        """Wrap this very network; only the null condition is copied."""
        with torch.device("meta"):
            wrapper = cls(**to_dict(ExportConfig(network=network.config, settings=info.settings)))
        wrapper.denoiser = network
        parameter = next(network.parameters())
        wrapper.null_condition = torch.as_tensor(info.null_condition).to(parameter.device, parameter.dtype)  # (1, D)
        return wrapper.eval()

    @property
    def info(self) -> ExportInfo:
        """The settings and null condition that sampling needs."""
        return ExportInfo(null_condition=self.null_condition.detach().float().cpu(), **vars(self.settings))

    def forward(
        self, x: Tensor, alpha_bar: Tensor, text: TextEncoding, state: DenoiserState | None = None
    ) -> tuple[Tensor, DenoiserState]:
        """Call the network."""
        return self.denoiser(x, alpha_bar, text, state)

    def placed(self) -> DiT | RIN:
        """Return the network, moved to where it runs if the pipeline leaves it on the CPU between calls."""
        hook: Any = getattr(self, "_hf_hook", None)
        if hook is not None:  # what accelerate does before `forward`
            hook.pre_forward(self)
        return self.denoiser

    def save_pretrained(
        self, save_directory: str | Path, safe_serialization: bool = True, variant: str | None = None, **_: Any
    ) -> None:
        """Write an export: config.json and model.safetensors, in the dtype that the weights have now, and the manifest
        by which the verbs know it."""
        only_safetensors(safe_serialization, variant)
        folder = Path(save_directory)
        save_export(folder, self.denoiser, self.info)
        hashes = {name: sha256_file(folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE)}
        head = {"stage": "export", "config": {"saved_from": "a pipeline", **hashes}, "inputs": {}}
        Stage(folder, False, head).finish(counts={"parameters": self.denoiser.parameter_count})

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        subfolder: str | None = None,
        torch_dtype: torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        device_map: Mapping[str, Any] | str | None = None,
        quantization_config: Any = None,
        variant: str | None = None,
        **options: Any,
    ) -> "TesseraTransformer":
        """Load a folder or a Hub repository. The options of diffusers that do not concern an export are accepted."""
        if quantization_config is not None:
            raise UserError("quantization_config: tessera's networks are not quantized; give dtype=torch.bfloat16")
        only_safetensors(True, variant)
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            folder = fetch(str(pretrained_model_name_or_path), **options)
        device = device_map.get("", "cpu") if isinstance(device_map, Mapping) else device_map or "cpu"
        network, info = load_export(folder / (subfolder or ""), device, dtype or torch_dtype or torch.float32)
        return cls.wrap(network, info)


def only_safetensors(safe_serialization: bool, variant: str | None) -> None:
    """Raise UserError where diffusers is asked for pickled weights, or for one of several files of weights."""
    if not safe_serialization:
        raise UserError("safe_serialization: weights are written as safetensors only, leave it True")
    if variant is not None:
        raise UserError(f"variant: {variant!r}, but there is one file of weights; choose its precision by dtype")


def no_scheduler(kind: str, noise_schedule: str) -> str:
    """Return in words why a scheduler of diffusers is not taken, and what draws in its place."""
    fits = kind in SAMPLER_OF and kind.startswith("FlowMatch") == (noise_schedule == "flow")
    wrong = f"{kind} cannot hold this model's noise schedule, {noise_schedule}"
    reason = "the pipeline brings its own samplers" if fits else wrong
    give = SAMPLER_OF[kind] if fits else "euler" if noise_schedule == "flow" else "ddim"
    return f'scheduler: {reason}; leave it out and call the pipeline with sampler="{give}"'


def fetch(repo: str, **options: Any) -> Path:
    """Fetch the model's files of a Hub repository into the local cache, and return their folder.

    options: of diffusers, of which those are used that huggingface_hub knows (revision, token, cache_dir, ...).
    """
    known = {"revision", "token", "cache_dir", "local_files_only", "force_download"}
    return fetch_repository(
        repo, _HUB_FILES, **{name: options[name] for name in known if options.get(name) is not None}
    )
