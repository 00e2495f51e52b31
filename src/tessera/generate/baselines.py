"""Other people's text-to-image models on the same prompts and seeds, for Tables 2 and 3 side by side.

Any diffusers text-to-image pipeline: Stable Diffusion 1.5, 2.1, XL, 3; PixArt-alpha; and so on. The folder is laid out
as `tessera.generate.folder` says.
"""

import hashlib
import inspect
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError
from tessera.devices import pick_device, rank, world_size
from tessera.files import sha256_file
from tessera.generate.folder import FolderConfig, counts, describe, draw_folder
from tessera.pretrained.load import quiet
from tessera.prompts.read import load_prompts
from tessera.randomness import address
from tessera.stages import find_stage, open_stage

INDEX = "model_index.json"
_MOST = 1000  # steps
_UNLIMITED = 10**6
"""Tokens; tokenizers without a limit say more than that."""
_TO_THE_END = ("DDPMWuerstchenScheduler", "SCMScheduler")
"""Schedulers of Wuerstchen, Stable Cascade and Sana Sprint, whose last timestep is the clean end, without a call."""
_PARTS = (".json", ".safetensors", ".txt", ".model")  # of a pipeline's folder: configurations, weights, tokenizers


@dataclass(frozen=True, kw_only=True)
class BaselineConfig(FolderConfig):
    """The images that a diffusers pipeline draws, and their settings."""

    per_prompt: int = 4
    size: int | None = None
    """Side of the images in pixels, a multiple of 8 (Table 2 has models at 256). None = the pipeline's own."""
    spacing: Literal["trailing"] | None = None
    """Place of the scheduler's timesteps; "trailing" starts at the noisy end. None = the pipeline's own."""
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
    that is no text-to-image pipeline, settings that it does not have, steps that its scheduler cannot do, or a folder
    that holds something else.
    """
    out = Path(out)
    loaded = load_prompts(prompts, config.extended)
    folder = _fetch(model)
    described: dict[str, Any] = {
        "stage": "generate",
        "config": describe(config, loaded, model=_identity(model, folder)),
    }
    found = find_stage(out, **described)
    if found is not None and found.done:
        return True
    baseline = Baseline.load(folder, model, config, device)  # before anything is written
    stage = open_stage(out, **described, shared=world_size() > 1)
    if stage.done:
        return True
    if note := baseline.cut_note([text for _, text in loaded.rows]) if rank() == 0 else "":
        print(f"generate: {note}", file=sys.stderr)
    if not draw_folder(out, loaded, config, baseline.images):
        return False
    stage.finish(counts(config, loaded), facts=baseline.facts)
    return True


class Baseline:
    """A diffusers pipeline, ready to draw with the settings of `config`."""

    def __init__(self, pipeline: Any, config: BaselineConfig, dtype: str):
        self.pipeline, self.seed = pipeline, config.seed
        accepts = inspect.signature(pipeline.__call__).parameters
        given = {
            "num_inference_steps": config.steps,
            "guidance_scale": config.guidance_scale,
            "height": config.size,
            "width": config.size,
            "clean_caption": False if "clean_caption" in accepts else None,  # the prompt as it is
            # PixArt would draw at a size of its own, then resize.
            "use_resolution_binning": False if config.size and "use_resolution_binning" in accepts else None,
        }
        self.options = {name: value for name, value in given.items() if value is not None}
        kind, unknown = type(pipeline).__name__, sorted(self.options.keys() - accepts.keys())
        if unknown:
            raise UserError(f"model: a {kind} has no {', '.join(unknown)} to set; leave it out")
        self.facts: dict[str, Any] = {"pipeline": kind, "dtype": dtype}
        scheduler, default = getattr(pipeline, "scheduler", None), accepts.get("num_inference_steps")
        if config.spacing is not None:
            pipeline.scheduler = scheduler = _spaced(scheduler, config.spacing)
            if scheduler is None:
                raise UserError(f"spacing: the scheduler of a {kind} has none to set; leave it out")
        steps = config.steps or getattr(default, "default", None)
        if isinstance(steps, int) and hasattr(scheduler, "set_timesteps"):
            self.facts |= {"scheduler": type(scheduler).__name__, "network_calls": check_steps(scheduler, steps)}

    @classmethod
    def load(cls, folder: Path, model: str, config: BaselineConfig, device: str | None) -> "Baseline":
        """Load a folder onto `device`: in float16 on a GPU, as these models are published, in float32 elsewhere.

        Without the type, diffusers 0.42 loads its own parts in float32, and transformers 5 the text encoder in that of
        its file.
        """
        import torch
        from diffusers.pipelines.pipeline_utils import DiffusionPipeline

        chosen = pick_device(device)
        dtype = torch.float16 if chosen.type == "cuda" else torch.float32
        found: dict[Path, set[str | None]] = {}  # part -> variants of its files, NAME[.VARIANT].safetensors
        for path in folder.glob("*/*.safetensors"):
            *_, variant, _ = [None, *path.name.split(".")[1:]]
            found.setdefault(path.parent, set()).add(variant and variant.partition("-")[0])
        only = {variant for variants in found.values() if None not in variants for variant in variants}
        try:
            # Newer diffusers would call it `dtype`, which older ones do not know.
            silent = warnings.catch_warnings(action="ignore", category=FutureWarning)
            with quiet("diffusers", "transformers", reports=True), silent:
                options = {"torch_dtype": dtype, "variant": only.pop() if len(only) == 1 else None}
                pipeline: Any = DiffusionPipeline.from_pretrained(folder, use_safetensors=True, **options)
        except (OSError, ValueError, AttributeError, KeyError) as error:
            pickled = {path.parent for path in folder.glob("*/*.bin")} - found.keys()
            fix = "; pickled weights (.bin) are not read, save the pipeline as safetensors" if pickled else ""
            reason = f"{_reason(error)}{fix}"
            raise UserError(f"model: {model} cannot be loaded as a diffusers pipeline ({reason})") from error
        accepts = inspect.signature(pipeline.__call__).parameters
        if not {"prompt", "generator", "output_type"} <= accepts.keys() or "image" in accepts:
            raise UserError(f"model: {model} is a {type(pipeline).__name__}, which draws no images from text alone")
        for name in ("safety_checker", "watermark"):  # black squares and marks would be judged as images
            if getattr(pipeline, name, None) is not None:
                setattr(pipeline, name, None)
        pipeline.set_progress_bar_config(disable=True)
        return cls(pipeline.to(chosen), config, str(dtype).removeprefix("torch."))

    def cut_note(self, texts: Sequence[str]) -> str:
        """Return how many texts are longer than what the pipeline's tokenizers let through, or "".

        CLIP's read 77 tokens. Those of other encoders read as many as the pipeline says (max_sequence_length).
        """
        most = inspect.signature(self.pipeline.__call__).parameters.get("max_sequence_length")
        notes = []
        for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
            tokenizer: Any = getattr(self.pipeline, name, None)
            limit = getattr(tokenizer, "model_max_length", _UNLIMITED)
            if most is not None and isinstance(most.default, int) and "clip" not in type(tokenizer).__name__.lower():
                limit = min(limit, most.default)
            if tokenizer is None or limit >= _UNLIMITED:
                continue
            with quiet("transformers"):
                cut = sum(len(ids) > limit for ids in tokenizer(list(texts)).input_ids)
            if cut:
                notes.append(f"{cut} of {len(texts)} prompts are cut to the {limit} tokens of {name}")
        return "; ".join(notes)

    def images(self, texts: Sequence[str], addresses: Sequence[tuple[int, int]]) -> NDArray[np.uint8]:
        """Draw uint8 (B, H, W, 3), one image for each text, its noise drawn at (seed, its address).

        Texts longer than the pipeline's text encoder takes are cut by the pipeline (`cut_note`).
        """
        import torch

        generators = [torch.Generator().manual_seed(address(self.seed, "peer", *where)) for where in addresses]
        with torch.inference_mode(), quiet("diffusers"):  # it repeats every long text that it cuts
            drawn = self.pipeline(prompt=list(texts), generator=generators, output_type="pil", **self.options).images
        return np.stack([np.asarray(image.convert("RGB")) for image in drawn])


def check_steps(scheduler: Any, steps: int) -> int:
    """Return how often the network is called for `steps` of a diffusers scheduler; print it where it is not `steps`.

    PNDM makes one call more, Heun twice as many less one. Raises UserError, with numbers that work, for steps that the
    scheduler cannot do.
    """
    fault, kind = _fault(scheduler, steps), type(scheduler).__name__
    if fault:
        below = next((n for n in range(min(steps, _MOST) - 1, 0, -1) if not _fault(scheduler, n)), None)
        above = next((n for n in range(steps + 1, _MOST + 1) if not _fault(scheduler, n)), None)
        working = [f"{n:,}" for n in (below, above) if n is not None]
        other = _spaced(scheduler, "trailing")
        if other is not None and not _fault(other, steps):
            working.append("--spacing trailing")
        raise UserError(f"steps is {steps}: {kind} {fault}; what works: {' or '.join(working) or 'nothing near'}")
    calls = len(scheduler.timesteps) - (kind in _TO_THE_END)
    notes = [f"calls the network {calls} times for {steps} steps"] * (calls != steps)
    for note in (*notes, _mismatch(scheduler, steps)):
        if note and rank() == 0:
            print(f"generate: {kind} {note}", file=sys.stderr)
    return calls


def _spaced(scheduler: Any, spacing: str) -> Any | None:
    """Return the scheduler with its timesteps placed so; None where it knows no spacing, or has one that does nothing
    (LCM and TCD in diffusers 0.42)."""
    if "timestep_spacing" not in getattr(scheduler, "config", ()):
        return None
    found = {
        name: type(scheduler).from_config(scheduler.config, timestep_spacing=name) for name in (spacing, "leading")
    }
    for each in found.values():
        each.set_timesteps(10)
    first, second = (each.timesteps.tolist() for each in found.values())
    return found[spacing] if first != second else None


def _fault(scheduler: Any, steps: int) -> str:
    """Set a scheduler to `steps`; return what is wrong with them, or "".

    In diffusers 0.42 "leading" timesteps are T // steps apart and begin at 0, or at the offset of 1 that Stable
    Diffusion has. So 501 to 999 of 1000 begin at t = steps, one step at t = 1, and 1000 outside of the table.
    "linspace" puts a single step at t = 0. A start is wrong here if it is below the middle, or by a tenth of the
    timesteps and by two steps below the noisy end.
    """
    mu = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}
    try:
        scheduler.set_timesteps(steps, **mu)
    except (ValueError, IndexError, ZeroDivisionError, AssertionError) as error:
        return f"takes no such number ({_reason(error)})"
    if not hasattr(scheduler, "alphas_cumprod") or scheduler.config.get("use_flow_sigmas"):
        return ""  # flow matching has no table of times
    times, total = scheduler.timesteps.tolist(), len(scheduler.alphas_cumprod)
    by_sigma, spacing = hasattr(scheduler, "sigmas"), scheduler.config.get("timestep_spacing")
    if max(times) > total - 1:
        return f"begins at t = {max(times):g}, past its last timestep, {total - 1}"
    if max(times) < total - 1 - min(total / 2, max(2 * total / steps, total / 10)):
        return f"begins at t = {max(times):g} of {total - 1}, not at the noisy end"
    if by_sigma and scheduler.order == 1 and len(set(scheduler.sigmas.tolist()[:-1])) < steps:
        return f"repeats some of its {total} noise levels"
    return _mismatch(scheduler, steps) if spacing == "trailing" else ""


def _mismatch(scheduler: Any, steps: int) -> str:
    """Return how the steps of a scheduler miss its timesteps, or "".

    In diffusers 0.42 DDIM and PNDM move by T // steps, wherever their timesteps are: some noise stays, even with exact
    predictions. "leading" timesteps fit; for a pipeline's own "linspace", which no number fits, this is only printed.
    """
    spacing, total = scheduler.config.get("timestep_spacing"), scheduler.config.get("num_train_timesteps", 1)
    apart = {"trailing": total / steps, "linspace": (total - 1) / max(steps - 1, 1)}.get(spacing)
    if apart is None or apart == total // steps:
        return ""
    if hasattr(scheduler, "sigmas") or hasattr(scheduler, "previous_timestep"):  # these go to the next of the list
        return ""
    return f"moves by {total // steps} timesteps, but its {spacing} ones lie {apart:.4g} apart"


def _fetch(model: str) -> Path:
    """Return the pipeline's folder on this machine."""
    if (Path(model) / INDEX).is_file():
        if "TesseraPipeline" in (Path(model) / INDEX).read_text(encoding="utf-8"):
            raise UserError(f"model: {model} is a pipeline of tessera; give it as the export, without --model")
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
