"""Prompts to a folder of pictures in GenEval's layout, resumable prompt by prompt.

NNNNN/metadata.jsonl      the prompt's own object, with the text that was drawn added as "text"; written last
NNNNN/samples/0000.png    picture k
NNNNN/grid.png            all pictures of the prompt side by side, if there are several
"""

import hashlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError, nearest, to_dict
from tessera.devices import rank, set_threads, world_size
from tessera.files import atomic_path
from tessera.images import image_grid, write_png
from tessera.progress import progress
from tessera.prompts.read import Prompts, load_prompts
from tessera.stages import open_stage, read_manifest

if TYPE_CHECKING:
    from tessera.pretrained.text_encoders import TextEncoder

Draw = Callable[[Sequence[str], Sequence[tuple[int, int]]], NDArray[np.uint8]]
"""Texts and their addresses (prompt index, k) -> uint8 (B, S, S, 3)."""
Sampler = Literal["ddim", "ddpm", "dpmpp_2m"]


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """What to draw for every prompt, and how."""

    per_prompt: int = 2
    """Pictures of each prompt, 1 to 10000."""
    seed: int = 0
    """Picture k of prompt i is a function of (seed, i, k) and the settings below."""
    steps: int | None = None
    """Sampling steps, at least 1. None = the export's."""
    guidance_scale: float | None = None
    """w in uncond + w (cond - uncond), finite; 1 = off. None = the export's."""
    guidance_interval: tuple[float, float] | None = None
    """(low, high) in t, 0 = clean, 1 = noise: guidance acts there alone. None = everywhere."""
    extended: bool = False
    """Draw each prompt's extended text in place of its short one (paper section 4.1)."""
    sampler: Sampler = "ddim"
    batch_size: int = 32
    """Pictures drawn at once, at least 1; rounded down to whole prompts."""
    compute: Literal["fp32", "bf16"] = "fp32"
    """What the network computes in; the sampler's own arithmetic is fp32 either way."""
    compile: bool = False
    """Compile the network's blocks first: a minute at the start, then faster steps on a GPU."""
    threads: int | None = None
    """CPU threads, at least 1. None = torch's own choice. Not part of the manifest: it only changes the speed."""

    def __post_init__(self):
        if not 1 <= self.per_prompt <= 10_000:
            raise UserError(f"per_prompt is {self.per_prompt}: give 1 to 10000 pictures for each prompt")
        if not 0 <= self.seed < 2**64:
            raise UserError(f"seed is {self.seed}: give a number in [0, 2**64)")
        if self.steps is not None and self.steps < 1:
            raise UserError(f"steps is {self.steps}: give at least 1 sampling step")
        if self.guidance_scale is not None and not math.isfinite(self.guidance_scale):
            raise UserError(f"guidance_scale is {self.guidance_scale}: give a finite number; 1 turns guidance off")
        low, high = self.guidance_interval or (0, 1)
        if not 0 <= low <= high <= 1:
            raise UserError(f"guidance_interval is ({low}, {high}): give low and high in t, 0 <= low <= high <= 1")
        if self.sampler not in get_args(Sampler):
            known = get_args(Sampler)
            raise UserError(
                f"unknown sampler {self.sampler!r};{nearest(self.sampler, known)} known: {', '.join(known)}"
            )
        if self.compute not in ("fp32", "bf16"):
            raise UserError(f"compute is {self.compute!r}: give fp32 or bf16")
        if self.batch_size < 1:
            raise UserError(f"batch_size is {self.batch_size}: give at least 1")
        if self.threads is not None and self.threads < 1:
            raise UserError(f"threads is {self.threads}: give at least 1")


def generate(
    out: str | Path,
    export: str | Path,
    prompts: str | Path | Sequence[str],
    config: GenerateConfig = GenerateConfig(),
    *,
    device: str | None = None,
) -> bool:
    """Draws `config.per_prompt` pictures of every prompt into `out`; goes on where it stopped, does nothing when done.

    `prompts`: a file, "teaser" or "figure4", or a list of texts. `device`: "cuda", "mps" or "cpu"; None = the best
    there is. Batches are whole prompts in the file's order, so what is drawn together never depends on where an earlier
    call stopped, and the bytes of the pictures do not either. Under torchrun rank r of w draws batches r, r + w, ...;
    no rank waits for another, and the last one to finish completes the manifest. Returns whether it is complete.
    Raises UserError for a bad prompts file, a missing export or a folder that holds something else.
    """
    out, export = Path(out), Path(export)
    loaded = load_prompts(prompts, config.extended)
    shared = world_size() > 1
    described = _described(loaded, config)
    stage = open_stage(out, stage="generate", config=described, inputs={"export": export}, shared=shared)
    if stage.done:
        return True

    # torch is only imported once there is something to draw.
    from tessera.generate.pipeline import Pipeline
    from tessera.models.build import DTYPES

    set_threads(config.threads)
    pipeline = Pipeline.load(export, device, DTYPES[config.compute], compile=config.compile)

    def draw(texts: Sequence[str], addresses: Sequence[tuple[int, int]]) -> NDArray[np.uint8]:
        return pipeline.images(
            texts,
            addresses,
            seed=config.seed,
            steps=config.steps,
            guidance_scale=config.guidance_scale,
            guidance_interval=config.guidance_interval,
            sampler=config.sampler,
        )

    rows = loaded.rows
    if rank() == 0:
        _say_what_is_cut([text for _, text in rows], pipeline.text_encoder)
    if not draw_folder(out, rows, config.per_prompt, config.batch_size, draw):
        return False
    used = {
        "steps": pipeline.info.sampling_steps if config.steps is None else config.steps,
        "guidance_scale": pipeline.info.guidance_scale if config.guidance_scale is None else config.guidance_scale,
        "image_size": pipeline.info.image_size,
    }
    stage.finish(counts={"prompts": len(rows), "images": len(rows) * config.per_prompt}, facts=used)
    return True


def _say_what_is_cut(texts: Sequence[str], encoder: "TextEncoder") -> None:
    """One line on stderr where texts are longer than their encoder takes."""
    limit, lengths = encoder.max_tokens, encoder.count_tokens(texts)
    cut = [number for number, length in enumerate(lengths) if length > limit]
    if cut:
        first = f"the first is number {cut[0]}, of {lengths[cut[0]]} tokens"
        print(
            f"generate: {len(cut)} of {len(texts)} prompts are cut to the {limit} tokens that the text encoder reads; "
            f"{first}",
            file=sys.stderr,
        )


def fresh_folder(
    parent: Path, export: Path, prompts: str | Path | Sequence[str], config: GenerateConfig = GenerateConfig()
) -> Path:
    """A folder below `parent` for these pictures: the prompts' name and a digest of all that the pictures depend on.

    So the same call finds its folder again, and any other one gets a new one.
    """
    loaded = load_prompts(prompts, config.extended)
    facts = json.dumps([_described(loaded, config), read_manifest(export, "export").sha256], sort_keys=True)
    return parent / f"{loaded.name}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"


def _described(prompts: Prompts, config: GenerateConfig) -> dict[str, Any]:
    """What stands in the manifest: all that the pictures depend on, beside the export."""
    described = {name: value for name, value in to_dict(config).items() if name != "threads"}
    if config.compute == "fp32":  # as directories have it that were made before there was a choice
        del described["compute"]
    return described | {"prompts": {"count": len(prompts.rows), "sha256": prompts.sha256}}


def draw_folder(
    out: Path, rows: Sequence[tuple[dict[str, Any], str]], per_prompt: int, batch_size: int, draw: Draw
) -> bool:
    """Draws what `out` lacks of the prompts `rows`, (metadata, text) each; under torchrun, this rank's share of it.

    Returns whether every prompt has its pictures now.
    """
    finished = [_finished(out / f"{i:05d}", per_prompt) for i in range(len(rows))]
    per_batch = max(1, batch_size // per_prompt)
    own = list(range(0, len(rows), per_batch))[rank() :: world_size()]  # where this rank's batches start
    batches = [range(start, min(start + per_batch, len(rows))) for start in own]
    states = [finished[i] for members in batches for i in members]
    total, before = len(states) * per_prompt, sum(states) * per_prompt
    with progress("generate", total, completed=before) as bar:
        for members in batches:
            if all(finished[i] for i in members):
                continue
            pictures = _draw(draw, [rows[i][1] for i in members], members, per_prompt, batch_size)
            for i, drawn in zip(members, pictures):
                if not finished[i]:
                    _write_prompt(out / f"{i:05d}", *rows[i], drawn)
                    bar.advance(per_prompt)
    if world_size() > 1:
        folders = [out / f"{i:05d}" for i in range(len(rows))]
        if not all(_finished(folder, per_prompt) for folder in folders):
            return False
    return True


def _draw(draw: Draw, texts: list[str], members: range, per_prompt: int, batch_size: int) -> NDArray[np.uint8]:
    """uint8 (prompts, per_prompt, S, S, 3) of one batch; a prompt with more pictures than a batch holds is split."""
    rows = [(text, (i, k)) for text, i in zip(texts, members) for k in range(per_prompt)]
    drawn = []
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        drawn.append(draw([text for text, _ in part], [where for _, where in part]))
    pictures = np.concatenate(drawn)  # (prompts * per_prompt, S, S, 3)
    return pictures.reshape(len(members), per_prompt, *pictures.shape[1:])


def _finished(directory: Path, per_prompt: int) -> bool:
    # The metadata file is written last, so it alone says that the pictures are whole; somebody may have deleted some.
    samples = directory / "samples"
    return (directory / "metadata.jsonl").is_file() and all(
        (samples / f"{k:04d}.png").is_file() for k in range(per_prompt)
    )


def _write_prompt(directory: Path, metadata: dict[str, Any], text: str, pictures: NDArray[np.uint8]) -> None:
    (directory / "samples").mkdir(parents=True, exist_ok=True)
    (directory / "metadata.jsonl").unlink(missing_ok=True)  # there again if pictures were deleted
    for k, picture in enumerate(pictures):
        write_png(directory / "samples" / f"{k:04d}.png", picture)
    if len(pictures) > 1:
        write_png(directory / "grid.png", image_grid(pictures))
    line = json.dumps({**metadata, "text": text}, ensure_ascii=False)
    with atomic_path(directory / "metadata.jsonl", durable=False) as temporary:
        temporary.write_text(line + "\n", encoding="utf-8", newline="\n")
