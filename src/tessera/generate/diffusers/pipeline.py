"""A trained model as a diffusers pipeline: for the Hub, and for programs that know diffusers.

Only the network and the null condition are in its files; codec and text encoder are named by id, and loaded for the
first image. Encoding, sampling and decoding are `tessera.generate.pipeline`'s.

A folder of `save_pretrained`:

model_index.json      diffusers' list of the parts
tessera_pipeline.py   names this class, for `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`
transformer/          an export (config.json, model.safetensors, manifest.json), which `tessera generate` reads too; and
                      tessera_transformer.py, which names the network's class
README.md             the model card

B = images of a call, (C, h, w) = shape of one image's latents, H, W = height and width in pixels.
"""

import copy
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from huggingface_hub import create_repo
from PIL import Image
from torch import Tensor

from tessera.config import UserError
from tessera.devices import pick_device, usual_defaults
from tessera.files import atomic_path, read_json, write_json
from tessera.generate.diffusers.card import model_card
from tessera.generate.diffusers.model import (
    INDEX_FILE,
    PART,
    TesseraTransformer,
    fetch,
    no_scheduler,
    only_safetensors,
)
from tessera.generate.pipeline import Pipeline
from tessera.weights.export import CONFIG_FILE, load_export

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
_CODE = '''"""What diffusers runs with trust_remote_code=True: takes {name} from the installed tessera."""

import importlib

try:
    {name} = importlib.import_module("{module}").{name}
except ImportError as error:
    raise ImportError('this model needs tessera: pip install "tessera-t2i[hub]"') from error
'''

StepCallback = Callable[["TesseraPipeline", int, float, dict[str, Tensor]], Any]


class _Stopped(BaseException):  # no Exception, or a user's own sampler would be blamed for it
    def __init__(self, latents: Tensor):
        self.latents = latents


class TesseraPipeline(DiffusionPipeline):
    """Prompts to images. `tessera.load_pipeline` makes one; `pipe.to(...)` moves it."""

    model_cpu_offload_seq = PART
    _exclude_from_cpu_offload: ClassVar[list[str]] = [PART]
    """Sequential offloading moves single layers, which a network whose parts share tables does not allow: it stays."""

    def __init__(self, transformer: TesseraTransformer):
        super().__init__()
        self.register_modules(transformer=transformer)
        self._drawer: Pipeline | None = None
        self._interrupt = False

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "scheduler":
            raise UserError(no_scheduler(type(value).__name__, self.transformer.settings.noise_schedule))
        super().__setattr__(name, value)

    @property
    def interrupt(self) -> bool:
        """The callback's wish, `pipe._interrupt = True`, to stop after that step."""
        return self._interrupt

    @usual_defaults
    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        callback_on_step_end: StepCallback | None = None,
        sampler: str = "ddim",
        guidance_interval: tuple[float, float] | None = None,
        latents: Tensor | None = None,
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Draw images of the prompts, `num_images_per_prompt` of the first, then of the second, and so on.

        negative_prompt       replaces the null condition in guidance; one for all prompts, or one for each
        num_inference_steps   at least 1; None = the export's, the paper has 250
        guidance_scale        w in uncond + w (cond - uncond), finite; 1 = off; None = the export's
        height, width         pixels, of a size that the model was trained at; both None = its usual one,
                              otherwise None = the square's side
        generator             for start noise, and the noise `ddpm` adds; of a list, each draws for one image, which
                              then does not depend on the others; None = torch's own
        output_type           "pil": list of images; "np": float32 (B, H, W, 3) in [0, 1]; "pt": float32 (B, 3, H, W) in
                              [0, 1]; "latent": normalized latents, float32 (B, C, h, w)
        callback_on_step_end  callback(pipe, step, t, {"latents": x0}) after each step: step from 0, t in (0, 1] where
                              it began, x0 (B, C, h, w) the estimate of the final latents, to look at. Where it sets
                              `pipe._interrupt = True`, sampling stops and the estimate is the result.
        sampler               a name of `tessera.diffusion.sampler.SAMPLERS`, or FILE.py:NAME of a user's own
        guidance_interval     (low, high) in t: guidance acts there alone; None = the export's, which is
                              everywhere unless it was chosen; (0, 1) = everywhere
        latents               start noise (B, C, h, w) instead of drawn noise

        A prompt longer than the text encoder takes is cut, with a warning. Raises UserError for wrong arguments.
        """
        prompts = _texts("prompt", prompt)
        _check_whole("num_images_per_prompt", num_images_per_prompt)
        negatives = None if negative_prompt is None else _texts("negative_prompt", negative_prompt)
        if negatives is not None and len(negatives) not in (1, len(prompts)):
            many = f"{len(negatives)} for {len(prompts)} prompts"
            raise UserError(f"negative_prompt: {many}, give one, or one for each prompt")
        if output_type not in OUTPUT_TYPES:
            raise UserError(f"output_type: unknown {output_type!r}; known: {', '.join(OUTPUT_TYPES)}")
        drawer = self._prepare_drawer()
        info = drawer.info
        shape = _shape_at(drawer, width, height)
        steps = info.sampling_steps if num_inference_steps is None else num_inference_steps
        _check_whole("num_inference_steps", steps)
        guidance = info.guidance_scale if guidance_scale is None else guidance_scale
        if isinstance(guidance, bool) or not isinstance(guidance, int | float):
            raise UserError(f"guidance_scale: {guidance!r} is not a number, give for example 3.0 (1 = off)")
        rows = [text for text in prompts for _ in range(num_images_per_prompt)]
        noise, generators = _start_noise(drawer, (len(rows), *shape), generator, latents)
        _warn_of_cuts(drawer, [*prompts, *(negatives or [])])
        if note := drawer.unlike_captions(prompts):
            warnings.warn(note, stacklevel=4)  # the line that calls the pipeline, behind two decorators
        text, negative = drawer.encode(rows), None  # (B, L, D)
        if negatives is not None and guidance != 1:
            each = negatives * len(prompts) if len(negatives) == 1 else negatives
            negative = drawer.encode([text for text in each for _ in range(num_images_per_prompt)])  # (B, L, D)

        self._interrupt = False
        progress_bar: Any = self.progress_bar  # diffusers decorates it with something that hides its arguments
        with progress_bar(total=steps) as bar:

            def after_step(step: int, total: int, x0: Tensor) -> None:
                bar.update()
                if callback_on_step_end is None:
                    return
                seen = x0.clone()
                result = callback_on_step_end(self, step - 1, 1 - (step - 1) / total, {"latents": seen})
                if isinstance(result, Mapping) and result.get("latents", seen) is not seen:
                    raise UserError("callback_on_step_end: latents cannot be changed, return them as they came")
                if self._interrupt:
                    raise _Stopped(x0)

            try:
                options: dict[str, Any] = {"guidance_scale": guidance, "guidance_interval": guidance_interval}
                options |= {"sampler": sampler, "generator": generators, "callback": after_step, "negative": negative}
                final = drawer.sample(text, noise, steps=steps, **options)
            except _Stopped as stopped:
                final = stopped.latents
        images = _as_output(drawer, final, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _prepare_drawer(self) -> Pipeline:
        """Return encoder, sampler and decoder around the network, where it runs now."""
        info, device = self.transformer.info, self._execution_device
        if self._drawer is None or self._drawer.info.settings != info.settings:
            self._drawer = Pipeline(self.transformer.denoiser, info, device=device)
        drawer = copy.copy(self._drawer)
        drawer.network, drawer.info, drawer.device = self.transformer.placed(), info, torch.device(device)
        drawer.offload = bool(getattr(self, "_all_hooks", ()))  # what enable_model_cpu_offload leaves
        return drawer

    def save_pretrained(
        self,
        save_directory: str | Path,
        safe_serialization: bool = True,
        variant: str | None = None,
        push_to_hub: bool = False,
        *,
        repo_id: str | None = None,
        scores: Mapping[str, Any] | str | Path | None = None,
        data: str | None = None,
        license: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        **upload: Any,
    ) -> Any:
        """Write the folder described at the top of this module.

        scores: {name: number or {"value", "low", "high"}}, or the path of a scores.json; data: what it was trained on;
        license: its id. All three are for the model card. push_to_hub: publishes the folder as `repo_id`
        (the folder's name by default); upload: commit_message, create_pr, subfolder.
        """
        only_safetensors(safe_serialization, variant)
        folder = Path(save_directory)
        network, info = self.transformer.denoiser, self.transformer.info
        card = model_card(network, info, repo_id=repo_id, scores=scores, data=data, license=license)
        super().save_pretrained(folder)
        index = read_json(folder / INDEX_FILE)
        for place, key, kind in ((folder, "_class_name", type(self)), (folder / PART, PART, TesseraTransformer)):
            # diffusers looks for a class that it does not know in a file of this name, and runs it when it may.
            index[key] = [f"tessera_{'pipeline' if place == folder else PART}", kind.__name__]
            with atomic_path(place / f"{index[key][0]}.py") as path:
                path.write_text(
                    _CODE.format(name=kind.__name__, module=kind.__module__), encoding="utf-8", newline="\n"
                )
        index.pop("_name_or_path", None)  # where it was loaded from
        write_json(folder / INDEX_FILE, index)
        with atomic_path(folder / "README.md") as path:
            path.write_text(card, encoding="utf-8")
        if push_to_hub:
            repo_id = create_repo(repo_id or folder.name, private=private, token=token, exist_ok=True).repo_id
            return self._upload_folder(folder, repo_id, token=token, **upload)
        return None

    def push_to_hub(self, repo_id: str, commit_message: str | None = None, **options: Any) -> Any:
        """Publish weights and model card as the Hub repository `repo_id`; options: see `save_pretrained`."""
        with tempfile.TemporaryDirectory() as folder:
            return self.save_pretrained(
                folder, push_to_hub=True, repo_id=repo_id, commit_message=commit_message, **options
            )

    @classmethod
    @usual_defaults
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> "TesseraPipeline":
        """Load a folder of `save_pretrained` or a Hub repository; the options are those of diffusers, but for a
        scheduler, for which it raises UserError."""
        if kwargs.get("device_map") is None:
            kwargs["low_cpu_mem_usage"] = False  # an export's loader never needs it; asked for, it warns
        scheduler = kwargs.pop("scheduler", None)
        pipe = super().from_pretrained(str(pretrained_model_name_or_path), **kwargs)
        if scheduler is not None:
            pipe.scheduler = scheduler
        return pipe

    @classmethod
    def load_config(cls, *arguments: Any, **options: Any) -> Any:
        """Read model_index.json, with this class and its network's for the folder's files, none of which is run."""
        config: Any = super().load_config(*arguments, **options)
        if isinstance(config, dict) and _class_of(config) == cls.__name__:
            config |= {"_class_name": cls.__name__, PART: [TesseraTransformer.__module__, TesseraTransformer.__name__]}
        return config

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str:
        """Fetch the files of a Hub repository into the local cache, and return their folder.

        diffusers' own refuses parts whose class is in a package it does not know.
        """
        return str(fetch(pretrained_model_name, **kwargs))


def _texts(name: str, given: Any) -> list[str]:
    """Return one or several texts as a list. Raises UserError for anything else."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list | tuple):
        raise UserError(f"{name}: give a string or a list of strings, not {type(given).__name__}")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"{name}: number {number} of the list is {type(text).__name__}, not a string")
    if not texts:
        raise UserError(f"{name}: the list is empty, give at least one string")
    return list(texts)


def _check_whole(name: str, value: Any) -> None:
    """Check that a number is whole and at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{name}: {value!r} is not a whole number of at least 1")


def _shape_at(drawer: Pipeline, width: int | None, height: int | None) -> tuple[int, ...]:
    """Return the shape of one image's latents at a size that the network was trained at; both None = its usual one,
    otherwise None = the square's side."""
    side = drawer.info.image_size
    size = f"{side if width is None else width}x{side if height is None else height}"
    return drawer.shape_at(None if width is None and height is None else size)


def _start_noise(
    drawer: Pipeline, shape: tuple[int, ...], generator: Any, latents: Tensor | None
) -> tuple[Tensor, torch.Generator | list[torch.Generator]]:
    """Return start noise of `shape` (B, C, h, w), `latents` or drawn, and the generator of a sampler's noise."""
    from diffusers.utils.torch_utils import randn_tensor

    if generator is None:  # from torch's own generator, as elsewhere in diffusers
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    several = isinstance(generator, list | tuple)
    every = list(generator) if several else [generator]
    if several and len(every) != shape[0]:
        raise UserError(f"generator: {len(every)} generators for {shape[0]} images, give one, or one for each")
    if not all(isinstance(one, torch.Generator) for one in every):
        raise UserError(f"generator: {type(every[0]).__name__} is not a torch.Generator, nor a list of them")
    drawn = every if several else every[0]
    if latents is None:
        return randn_tensor(shape, generator=drawn, device=drawer.device, dtype=torch.float32), drawn
    if not isinstance(latents, Tensor) or latents.shape != shape:
        found = tuple(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
        raise UserError(f"latents: {found}, but the start noise of these images is a tensor {shape}")
    return latents, drawn


def _warn_of_cuts(drawer: Pipeline, texts: Sequence[str]) -> None:
    """Warn once for each text that the encoder cuts."""
    for text, tokens in drawer.cut_prompts(texts).items():
        start = f"{text[:40]}..." if len(text) > 40 else text
        limit = drawer.text_encoder.max_tokens
        message = f"prompt cut: {start!r} has {tokens} tokens, the text encoder reads the first {limit}"
        warnings.warn(message, stacklevel=5)  # the line that calls the pipeline, behind two decorators


def _class_of(index: Any) -> Any:
    """Return the pipeline's class of a model_index.json, by name or as [file, name]."""
    kind = index.get("_class_name") if isinstance(index, dict) else None
    return kind[-1] if isinstance(kind, list) and kind else kind


def _as_output(drawer: Pipeline, latents: Tensor, output_type: str) -> Any:
    if output_type == "latent":
        return latents.clone()  # (B, C, h, w); a tensor of inference mode could not be used for training
    images = drawer.decode(latents)  # (B, H, W, 3)
    if output_type == "pil":
        return [Image.fromarray(image) for image in images]
    values = images.astype(np.float32) / np.float32(255)
    return values if output_type == "np" else torch.from_numpy(values).permute(0, 3, 1, 2).contiguous()  # (B, 3, H, W)


@usual_defaults
def load_pipeline(
    path_or_repo: str | Path, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> TesseraPipeline:
    """Load the model of an export (its folder or single file), of a folder of `save_pretrained`, or of a Hub repository
    with the files of either folder.

    device: None = the best there is. dtype of the weights: None = float32.
    """
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise UserError(f"dtype: {dtype!r} is not a floating torch dtype, give for example torch.bfloat16")
    chosen = pick_device(device)
    folder = Path(path_or_repo)
    if not folder.exists():
        folder = fetch(str(path_or_repo))
    if (folder / INDEX_FILE).is_file():
        kind = _class_of(read_json(folder / INDEX_FILE))
        if kind != TesseraPipeline.__name__:
            raise UserError(f"{folder / INDEX_FILE}: is of a {kind}, not of a {TesseraPipeline.__name__}")
        folder = folder / PART
    elif (folder / CONFIG_FILE).is_file() and "path_size" in read_json(folder / CONFIG_FILE):
        raise UserError(f"{folder}: holds published CAD-I weights; `tessera import-published` makes an export of them")
    return TesseraPipeline(TesseraTransformer.wrap(*load_export(folder, chosen, dtype or torch.float32)))
