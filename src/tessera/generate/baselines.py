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

from tessera.config import UserError, to_dict
from tessera.devices import pick_device, world_size
from tessera.files import sha256_file
from tessera.generate.folder import draw_folder
from tessera.pretrained.load import quiet, without_bars
from tessera.prompts.read import load_prompts
from tessera.randomness import address
from tessera.stages import open_stage

INDEX = "model_index.json"
_PARTS = (".json", ".safetensors", ".txt", ".model")  # of a pipeline's folder: configurations, weights, tokenizers


@dataclass(frozen=True, kw_only=True)
class PeerConfig:
    """What to draw for every prompt, and how."""

    per_prompt: int = 4
    """Pictures of each prompt, 1 to 10000."""
    seed: int = 0
    """Picture k of prompt i draws all its noise from a generator of (seed, i, k), whatever the batch."""
    steps: int | None = None
    """Sampling steps, at least 1. None = the pipeline's own."""
    guidance_scale: float | None = None
    """None = the pipeline's own."""
    size: int | None = None
    """Side of the pictures in pixels, a multiple of 8 (Table 2 has peers at 256). None = the pipeline's own."""
    extended: bool = False
    """Draw each prompt's extended text in place of its short one."""
    batch_size: int = 4
    """Pictures drawn at once, at least 1."""

    def __post_init__(self):
        if not 1 <= self.per_prompt <= 10_000:
            raise UserError(f"per_prompt is {self.per_prompt}: give 1 to 10000 pictures for each prompt")
        if not 0 <= self.seed < 2**64:
            raise UserError(f"seed is {self.seed}: give a number in [0, 2**64)")
        for name in ("steps", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}: give at least 1")
        if self.size is not None and (self.size < 8 or self.size % 8):
            raise UserError(f"size is {self.size}: give a multiple of 8")


def generate_peer(
    out: Path, model: str, prompts: str | Path, config: PeerConfig = PeerConfig(), *, device: str | None = None
) -> bool:
    """Draws `config.per_prompt` pictures of every prompt with the pipeline `model`; goes on where it stopped.

    model: a repository of the Hub, or a folder with model_index.json; weights in safetensors, no code of theirs is run.
    Under torchrun the ranks share the prompts. Returns whether the folder is complete. Raises UserError for a model
    that is no text-to-image pipeline, or a folder that holds something else.
    """
    out = Path(out)
    loaded = load_prompts(prompts, config.extended)
    folder = _fetch(model)
    described = to_dict(config) | {
        "model": _identity(model, folder),
        "prompts": {"count": len(loaded.rows), "sha256": loaded.sha256},
    }
    shared = world_size() > 1
    stage = open_stage(out, stage="generate", config=described, shared=shared)
    if stage.done:
        return True
    peer = Peer.load(folder, model, device)

    def draw(texts: Sequence[str], addresses: Sequence[tuple[int, int]]) -> NDArray[np.uint8]:
        return peer.images(texts, addresses, config)

    if not draw_folder(out, loaded.rows, config.per_prompt, config.batch_size, draw):
        return False
    counts = {"prompts": len(loaded.rows), "images": len(loaded.rows) * config.per_prompt}
    stage.finish(counts, facts={"pipeline": type(peer.pipeline).__name__, "dtype": peer.dtype})
    return True


class Peer:
    """One diffusers pipeline, ready to draw."""

    def __init__(self, pipeline: Any, dtype: str):
        self.pipeline, self.dtype = pipeline, dtype
        self.accepts = inspect.signature(pipeline.__call__).parameters

    @classmethod
    def load(cls, folder: Path, model: str, device: str | None) -> "Peer":
        """The pipeline of a folder on `device`: float16 on a GPU, as these models are published, float32 elsewhere."""
        import torch
        from diffusers.pipelines.pipeline_utils import DiffusionPipeline

        chosen = pick_device(device)
        dtype = torch.float16 if chosen.type == "cuda" else torch.float32
        try:
            options = (
                {"torch_dtype": dtype} if dtype != torch.float32 else {}
            )  # each part keeps what it needs in float32
            with without_bars("diffusers", "transformers"):
                pipeline: Any = DiffusionPipeline.from_pretrained(folder, use_safetensors=True, **options)
        except (OSError, ValueError, AttributeError, KeyError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"model: {model} cannot be loaded as a diffusers pipeline ({reason})") from error
        accepts = inspect.signature(pipeline.__call__).parameters
        if not {"prompt", "generator", "output_type"} <= accepts.keys() or "image" in accepts:
            raise UserError(f"model: {model} is a {type(pipeline).__name__}, which draws no pictures of texts alone")
        for name in ("safety_checker", "watermark"):  # black squares and marks would be judged as pictures
            if getattr(pipeline, name, None) is not None:
                setattr(pipeline, name, None)
        pipeline.set_progress_bar_config(disable=True)
        return cls(pipeline.to(chosen), str(dtype).removeprefix("torch."))

    def images(
        self, texts: Sequence[str], addresses: Sequence[tuple[int, int]], config: PeerConfig
    ) -> NDArray[np.uint8]:
        """Pictures uint8 (B, H, W, 3), one for each text, its noise drawn at (seed, its address).

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
        return np.stack([np.asarray(picture.convert("RGB")) for picture in drawn])


def _fetch(model: str) -> Path:
    """The pipeline's folder on this machine."""
    if (Path(model) / INDEX).is_file():
        return Path(model)
    if Path(model).is_dir():
        raise UserError(f"model: {model} has no {INDEX}; give a folder that a diffusers pipeline was saved to")
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(model, use_safetensors=True))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"model: {model} is no folder, and cannot be had from the Hub ({reason})") from error


def _identity(model: str, folder: Path) -> dict[str, str]:
    """What the manifest calls the pipeline: its repository and revision, or its folder's name and content."""
    if not Path(model).is_dir():
        return {"name": model, "revision": folder.name}
    files = sorted(path for path in folder.rglob("*") if path.suffix in _PARTS)
    hashes = [[path.relative_to(folder).as_posix(), sha256_file(path)] for path in files]
    return {"name": folder.resolve().name, "sha256": hashlib.sha256(json.dumps(hashes).encode()).hexdigest()}
