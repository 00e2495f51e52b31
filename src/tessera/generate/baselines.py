"""Other people's text-to-image models on the same prompts and seeds, for Tables 2 and 3 side by side.

Any diffusers text-to-image pipeline: Stable Diffusion 1.5, 2.1, XL, 3; PixArt-alpha; and so on. The folder is laid out
as `tessera.generate.folder` says.
"""

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError
from tessera.devices import pick_device, world_size
from tessera.files import sha256_file
from tessera.generate.folder import FolderConfig, counts, describe, draw_folder
from tessera.pretrained.load import quiet
from tessera.prompts.read import load_prompts
from tessera.randomness import address
from tessera.stages import open_stage

INDEX = "model_index.json"
_PARTS = (".json", ".safetensors", ".txt", ".model")  # of a pipeline's folder: configurations, weights, tokenizers


@dataclass(frozen=True, kw_only=True)
class BaselineConfig(FolderConfig):
    """The images that a diffusers pipeline draws, and their settings."""

    per_prompt: int = 4
    size: int | None = None
    """Side of the images in pixels, a multiple of 8 (Table 2 has models at 256). None = the pipeline's own."""
    batch_size: int = 4

    def __post_init__(self):
        super().__post_init__()
        if self.size is not None and (self.size < 8 or self.size % 8):
            raise UserError(f"size is {self.size}; give a multiple of 8")


def generate_baseline(
    out: Path, model: str, prompts: str | Path, config: BaselineConfig = BaselineConfig(), *, device: str | None = None
) -> bool:
    """Draw `config.per_prompt` images of every prompt with the pipeline `model`, or resume a folder.

    model: a repository of the Hub, or a folder with model_index.json; weights in safetensors, no code of theirs is run.
    Under torchrun the ranks share the prompts. Returns whether the folder is complete. Raises UserError for a model
    that is no text-to-image pipeline, or a folder that holds something else.
    """
    out = Path(out)
    loaded = load_prompts(prompts, config.extended)
    folder = _fetch(model)
    described = describe(config, loaded, model=_identity(model, folder))
    stage = open_stage(out, stage="generate", config=described, shared=world_size() > 1)
    if stage.done:
        return True
    baseline = Baseline.load(folder, model, device)
    if not draw_folder(out, loaded, config, lambda texts, addresses: baseline.images(texts, addresses, config)):
        return False
    stage.finish(counts(config, loaded), facts={"pipeline": type(baseline.pipeline).__name__, "dtype": baseline.dtype})
    return True


class Baseline:
    """A diffusers pipeline, ready to draw."""

    def __init__(self, pipeline: Any, dtype: str):
        self.pipeline, self.dtype = pipeline, dtype
        self.accepts = inspect.signature(pipeline.__call__).parameters

    @classmethod
    def load(cls, folder: Path, model: str, device: str | None) -> "Baseline":
        """Load a folder onto `device`: in float16 on a GPU, as these models are published, in float32 elsewhere."""
        import torch
        from diffusers.pipelines.pipeline_utils import DiffusionPipeline

        chosen = pick_device(device)
        dtype = torch.float16 if chosen.type == "cuda" else torch.float32
        options = {} if dtype == torch.float32 else {"torch_dtype": dtype}  # without it each part has its own dtype
        try:
            with quiet("diffusers", "transformers", reports=True):
                pipeline: Any = DiffusionPipeline.from_pretrained(folder, use_safetensors=True, **options)
        except (OSError, ValueError, AttributeError, KeyError) as error:
            raise UserError(f"model: {model} cannot be loaded as a diffusers pipeline ({_reason(error)})") from error
        accepts = inspect.signature(pipeline.__call__).parameters
        if not {"prompt", "generator", "output_type"} <= accepts.keys() or "image" in accepts:
            raise UserError(f"model: {model} is a {type(pipeline).__name__}, which draws no images from text alone")
        for name in ("safety_checker", "watermark"):  # black squares and marks would be judged as images
            if getattr(pipeline, name, None) is not None:
                setattr(pipeline, name, None)
        pipeline.set_progress_bar_config(disable=True)
        return cls(pipeline.to(chosen), str(dtype).removeprefix("torch."))

    def images(
        self, texts: Sequence[str], addresses: Sequence[tuple[int, int]], config: BaselineConfig
    ) -> NDArray[np.uint8]:
        """Draw uint8 (B, H, W, 3), one image for each text, its noise drawn at (seed, its address).

        Texts longer than the pipeline's text encoder takes are cut by the pipeline (77 tokens with CLIP).
        """
        import torch

        generators = [torch.Generator().manual_seed(address(config.seed, "peer", *where)) for where in addresses]
        given = {
            "num_inference_steps": config.steps,
            "guidance_scale": config.guidance_scale,
            "height": config.size,
            "width": config.size,
            "clean_caption": False if "clean_caption" in self.accepts else None,  # the prompt as it is
        }
        if config.size is not None and "use_resolution_binning" in self.accepts:
            given["use_resolution_binning"] = False  # PixArt would draw at a size of its own, then resize
        options = {name: value for name, value in given.items() if value is not None}
        unknown = sorted(options.keys() - self.accepts.keys())
        if unknown:
            raise UserError(f"model: a {type(self.pipeline).__name__} has no {', '.join(unknown)} to set; leave it out")
        with torch.inference_mode(), quiet("diffusers"):  # it repeats every long text that it cuts
            drawn = self.pipeline(prompt=list(texts), generator=generators, output_type="pil", **options).images
        return np.stack([np.asarray(image.convert("RGB")) for image in drawn])


def _fetch(model: str) -> Path:
    """Return the pipeline's folder on this machine."""
    if (Path(model) / INDEX).is_file():
        return Path(model)
    if Path(model).is_dir():
        raise UserError(f"model: {model} has no {INDEX}; give a folder that a diffusers pipeline was saved to")
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(model, use_safetensors=True))
    except (OSError, ValueError) as error:
        raise UserError(f"model: {model} is no folder, and no repository of the Hub ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """Return the first line of what the library says."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _identity(model: str, folder: Path) -> dict[str, str]:
    """Return the pipeline's name in the manifest: its repository and revision, or its folder's name and content."""
    if not Path(model).is_dir():
        return {"name": model, "revision": folder.name}
    files = sorted(path for path in folder.rglob("*") if path.suffix in _PARTS)
    hashes = [[path.relative_to(folder).as_posix(), sha256_file(path)] for path in files]
    return {"name": folder.resolve().name, "sha256": hashlib.sha256(json.dumps(hashes).encode()).hexdigest()}
