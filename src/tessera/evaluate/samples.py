"""Folders of images in GenEval's layout as the judges read them, and work on them prompt by prompt."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError
from tessera.evaluate.scores import Extender
from tessera.files import read_json
from tessera.images import read_rgb
from tessera.stages import read_manifest


@dataclass(frozen=True)
class Samples:
    """A directory made by `tessera generate`, with every image in its place."""

    directory: Path
    extended: bool
    """Drawn from the prompts' extended texts."""
    per_prompt: int
    """Images of each prompt."""
    lines: tuple[dict[str, Any], ...]
    """The prompts' metadata, in order; "text" is what was drawn."""

    def image(self, prompt: int, k: int) -> Path:
        """Return the file of image k of a prompt."""
        return self.directory / f"{prompt:05d}" / "samples" / f"{k:04d}.png"


def read_samples(directory: Path) -> Samples:
    """Return the samples of `directory`. Raises UserError if `generate` did not make it, or images are missing."""
    directory = Path(directory)
    manifest = read_manifest(directory, "generate")
    prompts, per_prompt = manifest.counts["prompts"], manifest.config["per_prompt"]
    samples = Samples(directory, bool(manifest.config.get("extended", False)), per_prompt, ())
    wanted = [samples.image(i, k) for i in range(prompts) for k in range(per_prompt)]
    wanted += [directory / f"{i:05d}" / "metadata.jsonl" for i in range(prompts)]
    missing = [path for path in wanted if not path.is_file()]
    if missing:
        raise UserError(
            f"{directory}: {len(missing)} of {len(wanted)} files are missing, the first is "
            f"{missing[0].relative_to(directory)}; generate it again into a new directory"
        )
    lines = [read_json(directory / f"{i:05d}" / "metadata.jsonl") for i in range(prompts)]
    for i, line in enumerate(lines):
        if not isinstance(line, dict) or not isinstance(line.get("prompt"), str):
            raise UserError(f'{directory / f"{i:05d}" / "metadata.jsonl"}: must hold an object with a text "prompt"')
    return Samples(directory, samples.extended, per_prompt, tuple(lines))


def read_square(path: Path, size: int | None = None) -> NDArray[np.uint8]:
    """Return the pixels (S, S, 3) of an image. Raises UserError if it is damaged, not square or not of side `size`."""
    pixels = read_rgb(path, fix="generate it again")
    height, width, _ = pixels.shape
    if height != width or height != (size or height):
        side = "one size" if size is None else f"{size} px"
        raise UserError(f"{path}: is {width} x {height} px; all samples must be squares of {side}")
    return pixels


def extender(samples: Samples) -> Extender | None:
    """Return what made the extended texts that were drawn; None for the original prompts.

    Raises UserError where several extenders share a set: its numbers would have no name.
    """
    return extender_of(samples.directory, samples.lines) if samples.extended else None


def extender_of(directory: Path, lines: Iterable[Mapping[str, Any]]) -> Extender:
    """Return what made the extended texts of a directory by its prompts' metadata; UserError where several did."""
    entries = [line.get("extended") or {} for line in lines]
    found = {tuple(str(entry.get(field)) for field in ("extender", "template_sha256", "template")) for entry in entries}
    if len(found) > 1:
        raise UserError(f"{directory}: its texts come from {len(found)} extenders; extend all prompts by one")
    first = entries[0] if entries else {}
    prompt = str(first.get("template_sha256") or first.get("template"))
    return Extender(model=str(first.get("extender")), prompt=prompt, seed=int(first.get("seed") or 0))
