"""Folders of images in GenEval's layout as the judges read them, and work on them prompt by prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError, nearest
from tessera.evaluate.scores import Extender, Protocol, library_versions
from tessera.files import read_json
from tessera.images import read_rgb
from tessera.prompts.geneval import RELATIONS
from tessera.stages import read_manifest


@dataclass(frozen=True)
class Samples:
    """A directory made by `tessera generate`, with every image in its place."""

    directory: Path
    extender: Extender | None
    """The maker of the extended texts that were drawn; None for the original prompts."""
    per_prompt: int
    """Images of each prompt."""
    lines: tuple[dict[str, Any], ...]
    """The prompts' metadata, in order; "text" is what was drawn."""

    @property
    def extended(self) -> bool:
        """True for images of the prompts' extended texts."""
        return self.extender is not None

    def image(self, prompt: int, k: int) -> Path:
        """Return the file of image k of a prompt."""
        return self.directory / f"{prompt:05d}" / "samples" / f"{k:04d}.png"

    def metadata(self, prompt: int) -> Path:
        """Return the file of a prompt's metadata."""
        return self.directory / f"{prompt:05d}" / "metadata.jsonl"

    def read(self, prompt: int, k: int) -> NDArray[np.uint8]:
        """Return the pixels (H, W, 3) of image k of a prompt; UserError if it is damaged."""
        return read_rgb(self.image(prompt, k), fix="generate it again")

    def item(self, prompt: int, k: int) -> dict[str, Any]:
        """Return the beginning of the item of image k of a prompt in scores.json."""
        file = self.image(prompt, k).relative_to(self.directory).as_posix()
        return {"prompt": prompt, "sample": k, "file": file}

    def protocol(self, *, settings: Mapping[str, Any], **fields: Any) -> Protocol:
        """Return the protocol of numbers over all images; settings, fields: what the judge adds."""
        fields |= {"extender": self.extender, "versions": library_versions()}
        return Protocol(**fields, images=len(self.lines) * self.per_prompt, settings=settings)


def read_samples(directory: Path) -> Samples:
    """Return the samples of `directory`, as the manifest of `generate` counts them.

    Raises UserError if `generate` did not make it, or if images are missing or there are further ones.
    """
    directory = Path(directory)
    manifest = read_manifest(directory, "generate")
    prompts, per_prompt = manifest.counts["prompts"], manifest.config["per_prompt"]
    samples = Samples(directory, None, per_prompt, ())
    metadata = [samples.metadata(i) for i in range(prompts)]
    wanted = [samples.image(i, k) for i in range(prompts) for k in range(per_prompt)] + metadata
    missing = [path for path in wanted if not path.is_file()]
    if missing:
        raise UserError(
            f"{directory}: {len(missing)} of {len(wanted)} files are missing, the first is "
            f"{missing[0].relative_to(directory)}; generate it again into a new directory"
        )
    there = {path for path in directory.glob("*/samples/*") if not path.name.startswith(".")}
    if further := sorted(there.difference(wanted)):
        raise UserError(
            f"{directory}: `tessera generate` did not draw {len(further)} of the files in it, the first is "
            f"{further[0].relative_to(directory)}; move them away"
        )
    lines = [read_json(path) for path in metadata]
    for path, line in zip(metadata, lines):
        if not isinstance(line, dict) or not isinstance(line.get("prompt"), str):
            raise UserError(f'{path}: must hold an object with a text "prompt"')
    extender = extender_of(directory, lines) if manifest.config.get("extended") else None
    return Samples(directory, extender, per_prompt, tuple(lines))


def read_square(path: Path, size: int | None = None) -> NDArray[np.uint8]:
    """Return the pixels (S, S, 3) of an image. Raises UserError if it is damaged, not square or not of side `size`."""
    pixels = read_rgb(path, fix="generate it again")
    height, width, _ = pixels.shape
    if height != width or height != (size or height):
        side = "one size" if size is None else f"{size} px"
        raise UserError(f"{path}: is {width} x {height} px; all samples must be squares of {side}")
    return pixels


def extender_of(directory: Path, lines: Sequence[Mapping[str, Any]]) -> Extender:
    """Return what made the extended texts of a directory by its prompts' metadata.

    Raises UserError where several extenders share a set: its numbers would have no name.
    """
    entries = [line.get("extended") or {} for line in lines]
    found = {tuple(str(entry.get(field)) for field in ("extender", "template_sha256", "template")) for entry in entries}
    if len(found) > 1:
        raise UserError(f"{directory}: its texts come from {len(found)} extenders; extend all prompts by one")
    first = entries[0] if entries else {}
    prompt = str(first.get("template_sha256") or first.get("template"))
    return Extender(model=str(first.get("extender")), prompt=prompt, seed=int(first.get("seed") or 0))


def check_clauses(path: Path, line: Mapping[str, Any], classes: Sequence[str], colors: Sequence[str]) -> None:
    """Raise UserError unless GenEval's rules can judge by the "include" and "exclude" of a prompt's metadata."""
    for field in ("include", "exclude"):
        clauses = line.get(field, [])
        if not isinstance(clauses, list) or not all(isinstance(clause, dict) for clause in clauses):
            raise UserError(f"{path}: {field} must be a list of objects {{class, count, ...}}")
        for number, clause in enumerate(clauses):
            where = f"{path}: {field}[{number}]"
            for name, known in (("class", classes), ("color", colors)):
                value = clause.get(name)
                if value not in known and (name == "class" or name in clause):
                    near = nearest(value, known) if isinstance(value, str) else ""
                    raise UserError(f"{where}: the judge knows no {name} {value!r};{near} known: {', '.join(known)}")
            count, position = clause.get("count"), clause.get("position", [RELATIONS[0], 0])
            if type(count) is not int or count < 1:
                raise UserError(f"{where}: the count must be a positive integer, not {count!r}")
            pair = position if isinstance(position, list) and len(position) == 2 else (None, None)
            if pair[0] not in RELATIONS or ("position" in clause and pair[1] not in range(number)):
                choices = f"[one of {', '.join(RELATIONS)}; the number of an earlier clause]"
                raise UserError(f"{where}: position {position!r} must be {choices}")
