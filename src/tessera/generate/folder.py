"""Prompts to a folder of images in GenEval's layout, resumable prompt by prompt.

NNNNN/metadata.jsonl      the prompt's own object, with the text that was drawn added as "text"; written last
NNNNN/samples/0000.png    image k
NNNNN/grid.png            all images of the prompt in one, if there are several
"""

import hashlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError, check_ranges, part_id, to_dict
from tessera.devices import rank, set_threads, world_size
from tessera.diffusion.sampler import SAMPLERS, get_sampler
from tessera.files import atomic_path
from tessera.images import image_grid, write_png
from tessera.progress import progress
from tessera.prompts.read import Prompts, load_prompts
from tessera.stages import open_stage, read_manifest, the_export

if TYPE_CHECKING:
    from tessera.generate.pipeline import Pipeline

Draw = Callable[[Sequence[str], Sequence[tuple[int, int]]], NDArray[np.uint8]]
"""Texts and their addresses (prompt index, k) -> uint8 (B, S, S, 3)."""


@dataclass(frozen=True, kw_only=True)
class FolderConfig:
    """The images of a folder, whatever draws them."""

    per_prompt: int
    """Images of each prompt, 1 to 10000."""
    seed: int = 0
    """Image k of prompt i is a function of (seed, i, k) and the other fields."""
    steps: int | None = None
    """Sampling steps, at least 1. None = the model's own."""
    guidance_scale: float | None = None
    """w in uncond + w (cond - uncond), finite; 1 = off. None = the model's own."""
    extended: bool = False
    """Draw each prompt's extended text instead of its short one (paper section 4.1)."""
    batch_size: int
    """Images drawn at once, at least 1; rounded down to whole prompts."""

    def __post_init__(self):
        check_ranges(self, per_prompt="[1, 10000]", seed="[0, 2**64)", steps="[1, inf)", batch_size="[1, inf)")
        if self.guidance_scale is not None and not math.isfinite(self.guidance_scale):
            raise UserError(f"guidance_scale is {self.guidance_scale}; give a finite number (1 = off)")


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(FolderConfig):
    """The images that an export draws, and their settings."""

    per_prompt: int = 2
    guidance_interval: tuple[float, float] | None = None
    """(low, high) in t, 0 = clean, 1 = noise: guidance acts there alone. None = the model's own."""
    sampler: str = "ddim"
    """A name of `tessera.diffusion.sampler.SAMPLERS`, or FILE.py:NAME of a user's own."""
    size: str | None = None
    """WIDTHxHEIGHT in pixels, of those that the network was trained at. None = its usual one, mostly the square."""
    batch_size: int = 32
    compute: Literal["fp32", "bf16"] = "fp32"
    """The network's number format; the sampler's own arithmetic is fp32 either way."""
    compile: bool = False
    """Compile the network's blocks first: a minute at the start, then faster steps on a GPU."""
    threads: int | None = None
    """CPU threads, at least 1. None = torch's own choice. Not part of the manifest: it only changes the speed."""

    def __post_init__(self):
        super().__post_init__()
        check_ranges(self, guidance_interval="[0, 1]", threads="[1, inf)")
        low, high = self.guidance_interval or (0, 1)
        if low > high:
            raise UserError(f"guidance_interval is ({low}, {high}); give low and high in t, low <= high")
        if ".py:" not in self.sampler:  # a user's file is read when it is needed
            get_sampler(self.sampler)


def generate(
    out: str | Path | None,
    export: str | Path,
    prompts: str | Path | Sequence[str],
    config: GenerateConfig = GenerateConfig(),
    *,
    device: str | None = None,
    pipeline: "Pipeline | None" = None,
) -> Path | None:
    """Draw `config.per_prompt` images of every prompt into `out`, resume a folder, or do nothing where it is done.

    export: or a folder that `save_pretrained` of a pipeline wrote.
    out: None = a folder below samples/ named after the prompts and a digest of all that the images depend on.
    prompts: a file, "teaser" or "figure4", or a list of texts. device: "cuda", "mps" or "cpu"; None = the best there
    is. pipeline: of that export, loaded before, for several folders; None = loaded here. Batches are whole prompts in
    the file's order, so neither what is drawn together nor the images' bytes depend on where an earlier call stopped.
    Under torchrun rank r of w draws batches r, r + w, ...; no rank waits for another, and the last one to finish
    completes the manifest. Returns the folder, or None where other ranks still draw. Raises UserError for a bad prompts
    file, a missing export or a folder that holds something else.
    """
    export, sampler = the_export(Path(export)), get_sampler(config.sampler)
    loaded = load_prompts(prompts, config.extended)
    described = describe(config, loaded, sampler=part_id(config.sampler, SAMPLERS))
    del described["threads"]
    if config.size is None:
        del described["size"]
    else:
        from tessera.weights.export import read_settings  # imports torch

        read_settings(export).check_size(config.size)
    out = _fresh_folder(loaded.name, described, export) if out is None else Path(out)
    stage = open_stage(out, stage="generate", config=described, inputs={"export": export}, shared=world_size() > 1)
    if stage.done:
        return out

    set_threads(config.threads)
    if pipeline is None:  # torch is only imported once there is something to draw
        from tessera.generate.pipeline import Pipeline
        from tessera.models.build import DTYPES

        pipeline = Pipeline.load(export, device, DTYPES[config.compute], compile=config.compile)
    info, scale = pipeline.info, config.guidance_scale
    used: dict[str, Any] = {
        "steps": info.sampling_steps if config.steps is None else config.steps,
        "guidance_scale": info.guidance_scale if scale is None else scale,
    }
    if (interval := config.guidance_interval or info.guidance_interval) is not None:
        used["guidance_interval"] = interval
    options = used | {"seed": config.seed, "sampler": sampler, "size": config.size}
    texts = [text for _, text in loaded.rows]
    cut = pipeline.cut_prompts(texts) if rank() == 0 else {}
    numbers = [number for number, text in enumerate(texts) if text in cut]
    if numbers:
        print(
            f"generate: {len(numbers)} of {len(texts)} prompts are cut to the {pipeline.text_encoder.max_tokens} tokens"
            f" that the text encoder reads; the first is number {numbers[0]}, of {cut[texts[numbers[0]]]} tokens",
            file=sys.stderr,
        )
    if note := pipeline.unlike_captions(texts) if rank() == 0 else "":
        seen = pipeline.info.captions
        fix = "; --extend says a single prompt as they do" if seen is not None and seen.examples else ""
        print(f"generate: {note}{fix}", file=sys.stderr)
    if not draw_folder(out, loaded, config, lambda texts, addresses: pipeline.images(texts, addresses, **options)):
        return None
    size = {"size": config.size or info.usual_size} if info.sizes else {"image_size": info.image_size}
    stage.finish(counts=counts(config, loaded), facts=used | size)
    return out


def describe(config: FolderConfig, prompts: Prompts, **more: Any) -> dict[str, Any]:
    """Return what the manifest tells of a folder: all that its images depend on, except the export."""
    return to_dict(config) | {"prompts": {"count": len(prompts.rows), "sha256": prompts.sha256}} | more


def counts(config: FolderConfig, prompts: Prompts) -> dict[str, int]:
    """Return the manifest's counts of a whole folder."""
    return {"prompts": len(prompts.rows), "images": len(prompts.rows) * config.per_prompt}


def _fresh_folder(name: str, described: dict[str, Any], export: Path) -> Path:
    """Return the folder of these images, named so that the same call finds it again, and no other one."""
    facts = json.dumps([described, read_manifest(export, "export").sha256], sort_keys=True)
    return Path("samples") / f"{name}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"


def draw_folder(out: Path, prompts: Prompts, config: FolderConfig, draw: Draw) -> bool:
    """Draw what is missing in `out`; under torchrun, this rank's share of it. Return whether every image is there. A
    thread writes each batch while the next one is drawn."""
    rows, per_prompt = prompts.rows, config.per_prompt
    folders = [out / f"{i:05d}" for i in range(len(rows))]
    finished = [_finished(folder, per_prompt) for folder in folders]
    per_batch = max(1, config.batch_size // per_prompt)
    starts = range(0, len(rows), per_batch)[rank() :: world_size()]  # of this rank's batches
    batches = [range(len(rows))[start : start + per_batch] for start in starts]
    states = [finished[i] for members in batches for i in members]

    def write(members: range, images: NDArray[np.uint8]) -> int:
        """Write the missing ones of a batch of prompts, (prompts, images, H, W, 3); return the number of images."""
        missing = [(i, drawn) for i, drawn in zip(members, images) if not finished[i]]
        for i, drawn in missing:
            _write_prompt(folders[i], *rows[i], drawn)
        return len(missing) * per_prompt

    with (
        progress("generate", len(states) * per_prompt, completed=sum(states) * per_prompt) as bar,
        ThreadPoolExecutor(1) as writer,
    ):
        written = writer.submit(int)  # the batch before: 0 images yet
        for members in batches:
            if all(finished[i] for i in members):
                continue
            # Whole prompts; one with more images than a batch holds is split.
            wanted = [(rows[i][1], (i, k)) for i in members for k in range(per_prompt)]
            parts = [wanted[start : start + config.batch_size] for start in range(0, len(wanted), config.batch_size)]
            images = np.concatenate([draw([text for text, _ in part], [place for _, place in part]) for part in parts])
            bar.advance(written.result())
            written = writer.submit(write, members, images.reshape(len(members), per_prompt, *images.shape[1:]))
        bar.advance(written.result())
    return world_size() == 1 or all(_finished(folder, per_prompt) for folder in folders)


def _finished(directory: Path, per_prompt: int) -> bool:
    # The metadata file is written last, so it alone says that the images are whole; somebody may have deleted some.
    files = [directory / "metadata.jsonl", *(directory / "samples" / f"{k:04d}.png" for k in range(per_prompt))]
    return all(file.is_file() for file in files)


def _write_prompt(directory: Path, metadata: dict[str, Any], text: str, images: NDArray[np.uint8]) -> None:
    (directory / "samples").mkdir(parents=True, exist_ok=True)
    (directory / "metadata.jsonl").unlink(missing_ok=True)  # there again if images were deleted
    for k, image in enumerate(images):
        write_png(directory / "samples" / f"{k:04d}.png", image)
    if len(images) > 1:
        write_png(directory / "grid.png", image_grid(images))
    with atomic_path(directory / "metadata.jsonl", durable=False) as temporary:
        line = json.dumps({**metadata, "text": text}, ensure_ascii=False)
        temporary.write_text(line + "\n", encoding="utf-8", newline="\n")
