"""Stage directories: manifest.json, and the opening of a directory for a stage's work.

A directory's `manifest.json` records what made it (stage, configuration, hashes of the inputs' manifests). It holds no
times and no absolute paths, so equal work gives equal bytes on any machine.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tessera
from tessera.config import UserError, compare
from tessera.devices import rank
from tessera.files import (
    LOCK,
    TEMPORARY,
    json_text,
    make_directory,
    read_json,
    remove_unfinished,
    sha256_file,
    write_json,
)

MANIFEST = "manifest.json"
CONFIG = "config.json"
"""File with the configuration, in a working folder of `tessera run` and in a run of `tessera train`."""
COMMAND = "command.txt"
"""File with the command line of a working folder, without --out, --num-images and what only one call is about."""
SWEPT = "sampling"
"""The fact of an export that says which sampling defaults `tessera sweep` has chosen since."""
FORMAT = 1
"""Version of the manifest and of the files that it describes; a directory of another one is refused."""

# The command that makes each input, for the message about a missing one.
_VERBS = {"images": "collect", "recipe": "augment", "captions": "caption", "plain": "encode", "augmented": "encode"}
_VERBS |= {"tau": "tau", "run": "train", "init": "export", "export": "export", "samples": "generate"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of a directory's manifest.json."""

    stage: str
    complete: bool
    config: dict[str, Any]
    """Resolved configuration, from `tessera.config.to_dict`."""
    inputs: dict[str, str]
    """SHA-256 of each input directory's manifest.json, by the input's name."""
    counts: dict[str, int]
    """Number of things made, by their name, e.g. {"records": 2048}."""
    rejects: dict[str, str]
    """Reason for each input item left out, by its key."""
    facts: dict[str, Any]
    """Values that later stages need, e.g. ids and shapes."""
    sha256: str
    """Hash of manifest.json itself."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A directory that a stage is filling, or has filled."""

    directory: Path
    done: bool
    """True: everything is there, made with this configuration from these inputs."""
    head: dict[str, Any]
    """stage, config and inputs, as the manifest has them."""

    def finish(
        self,
        counts: Mapping[str, int],
        rejects: Mapping[str, str] | None = None,
        facts: Mapping[str, Any] | None = None,
        joint: Sequence[str] = (),
    ) -> None:
        """Mark the directory complete and remove what killed workers left: the last write of a stage.

        joint: files that another process may be writing too, when two see at once that everything is there.
        """
        assert not self.done, f"{self.directory} was complete already"
        remove_unfinished(self.directory, spare=(MANIFEST, *joint))
        _write_manifest(self.directory, self.head, complete=True, counts=counts, rejects=rejects, facts=facts)


def open_stage(
    directory: Path,
    *,
    stage: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, Path] | None = None,
    shared: bool = False,
    patience: float = 120,
) -> Stage:
    """Open `directory` for the work of `stage` with `config` (from `to_dict`) on the directories `inputs`.

    A new or empty directory is started; one made by the same stage, configuration and inputs is resumed, or is `.done`.
    Anything else is a UserError: nothing that someone else made is written over. `shared`: other processes fill it at
    the same time, so unfinished files stay, because they may be theirs. Of torchrun's ranks, rank 0 starts it and the
    others wait `patience` seconds for that; of an array job's tasks, whichever comes first starts it.
    """
    directory = Path(directory)
    head = _head(stage, config, inputs)
    if shared and rank() > 0:
        last = time.monotonic() + patience
        while not (directory / MANIFEST).exists():
            if time.monotonic() > last:
                raise UserError(f"{directory}: rank 0 did not start it within {patience:g} s; see what rank 0 says")
            time.sleep(0.05)
    if not (directory / MANIFEST).exists():
        _start(directory, head, shared)
    found = _find(directory, head)
    if not found.done and not shared:
        remove_unfinished(directory)
    return found


def is_complete(directory: Path) -> bool:
    """Return whether a stage has finished `directory`."""
    return (directory / MANIFEST).exists() and read_manifest(directory, must_be_complete=False).complete


def find_stage(
    directory: Path, *, stage: str, config: Mapping[str, Any], inputs: Mapping[str, Path] | None = None
) -> Stage | None:
    """Return the stage in `directory`, compared with this call as `open_stage` does, or None; write nothing."""
    head = _head(stage, config, inputs)
    return _find(Path(directory), head) if (Path(directory) / MANIFEST).exists() else None


def reopen(directory: Path, config: Mapping[str, Any]) -> Stage:
    """Make a directory unfinished again, to be continued with `config`; all else that its manifest says stays."""
    found = read_manifest(directory, must_be_complete=False)
    head = {"stage": found.stage, "config": dict(config), "inputs": found.inputs}
    kept = {"counts": found.counts, "rejects": found.rejects, "facts": found.facts}
    _write_manifest(directory, head, complete=False, **kept)
    return Stage(directory, False, head)


def _head(stage: str, config: Mapping[str, Any], inputs: Mapping[str, Path] | None) -> dict[str, Any]:
    hashes = {name: _input_hash(name, Path(path), stage) for name, path in (inputs or {}).items()}
    # Compared in the form that the file gives back: tuples are lists there.
    return json.loads(json.dumps({"stage": stage, "config": dict(config), "inputs": hashes}, allow_nan=False))


def _find(directory: Path, head: dict[str, Any]) -> Stage:
    """Return the stage in `directory`; UserError if it is another one than `head` describes."""
    found = read_manifest(directory, must_be_complete=False)
    if found.stage != head["stage"]:
        raise UserError(
            f"{directory}: was made by `tessera {found.stage}`, not `tessera {head['stage']}`; choose another --out"
        )
    pairs = compare(found.config, head["config"])
    others = compare(found.inputs, head["inputs"])
    pairs += [(f"input {name}", a.strip('"')[:12], b.strip('"')[:12]) for name, a, b in others]
    if pairs:
        raise made_otherwise(directory, pairs)
    return Stage(directory, found.complete, head)


def read_manifest(
    directory: Path, stage: str | tuple[str, ...] | None = None, *, must_be_complete: bool = True
) -> Manifest:
    """Return the manifest of `directory`.

    Raises UserError for a directory without one, of another format, unfinished, or made by a stage other than `stage`.
    """
    path = Path(directory) / MANIFEST
    stages = (stage,) if isinstance(stage, str) else stage or ()
    if not path.exists():
        state = "is a file" if path.parent.is_file() else "there is no such directory"
        state = "has no manifest.json" if path.parent.is_dir() else state
        made = f"made by {' or '.join(f'`tessera {name}`' for name in stages)}" if stages else "made by tessera"
        raise UserError(f"{directory}: {state}; give a directory {made}{such_as(path.parent, *stages)}")
    data = read_json(path)
    fields = [field.name for field in dataclasses.fields(Manifest) if field.name != "sha256"]
    if not isinstance(data, dict) or "tool" not in data or any(name not in data for name in fields):
        raise UserError(f"{path}: is not a manifest of tessera; delete the directory and make it again")
    if data.get("format") != FORMAT:
        raise UserError(
            f"{directory}: was made by another version of tessera (format {data.get('format')}, this version reads"
            f" {FORMAT}); delete it and make it again with `tessera {data['stage']}`"
        )
    manifest = Manifest(**{name: data[name] for name in fields}, sha256=sha256_file(path))
    if stages and manifest.stage not in stages:
        wanted = " or ".join(f"`tessera {name}`" for name in stages)
        near = such_as(path.parent, *stages)
        if (manifest.stage, *stages) == ("train", "export") and not near:
            near = f", which turns this run into one: tessera export {directory} --out DIR"
        raise UserError(f"{directory}: was made by `tessera {manifest.stage}`; give a directory made by {wanted}{near}")
    if must_be_complete and not manifest.complete:
        place = run_folder(path.parent)
        verb = manifest.stage if place is None else f"run PRESET --out {place}"
        raise UserError(f"{directory}: is unfinished; run `tessera {verb}` again to resume it")
    return manifest


def run_folder(directory: Path) -> Path | None:
    """Return the working folder of `tessera run` that a stage's directory lies in; None where it lies in none."""
    for folder in list(Path(directory).resolve().parents)[:4]:
        with contextlib.suppress(UserError, OSError):
            if read_json(folder / CONFIG).keys() >= {"arms", "collect"}:
                return Path(os.path.relpath(folder))
    return None


def find_exports(folder: Path) -> list[Path]:
    """Return the finished exports in their usual places below `folder`, and below out/ of it."""
    places = ("export", "export/*", "*/export/*", "out/*/export/*")
    found = dict.fromkeys(path.parent for place in places for path in sorted(folder.glob(f"{place}/{MANIFEST}")))
    return [path for path in found if is_complete(path) and read_manifest(path).stage == "export"]


def the_export(given: Path, *, or_last: bool = False) -> Path:
    """Return `given`, or the one export below it if it is a folder without a manifest, such as one made by `tessera
    run`, or by `save_pretrained` of a pipeline. or_last: of several the last one, which is a UserError with their names
    otherwise."""
    if (given / "model_index.json").is_file():
        return given / "transformer"
    if (given / MANIFEST).exists() or not given.is_dir():
        return given
    found = [path for path in find_exports(given) if path.parent.name == "export"]
    if len(found) > 1 and not or_last:
        raise UserError(f"{given}: has several exports; give one of {', '.join(map(str, found))}")
    return found[-1] if found else given


def such_as(folder: Path, *stages: str) -> str:
    """Return ", such as PATH" for a directory of these stages in its usual place below `folder` or below the working
    folder that `folder` lies in (runs/ta: export/ta before others), or ""."""
    places = ("*", "captions/*", "encoded/*", "runs/*", "export/*", "samples/*/*")
    found = [path for place in places for path in sorted(folder.glob(f"{place}/{MANIFEST}"))]
    for root in list(folder.parents)[:3]:
        near = [path for place in places[1:] for path in sorted(root.glob(f"{place}/{MANIFEST}"))]
        found += sorted(near, key=lambda path: path.parent.name != folder.name)
    for path in found:
        with contextlib.suppress(UserError):
            if read_manifest(path.parent).stage in stages:
                return f", such as {path.parent}"
    return ""


def _input_hash(name: str, path: Path, stage: str) -> str:
    if not (path / MANIFEST).exists():
        verb = _VERBS.get(name)
        fix = f"make it first with `tessera {verb}`" if verb else "give a directory made by tessera"
        state = "has no manifest.json" if path.is_dir() else "is a file" if path.is_file() else "does not exist"
        raise UserError(f"{path}: {state}, and `tessera {stage}` needs it as its {name}; {fix}")
    return hash_as_input(name, path)


def hash_as_input(name: str, directory: Path) -> str:
    """Return the hash of a finished directory's manifest.json, by which stages know their input `name`; of initial
    weights as it was before any sweep of them, which changes only how they are drawn with."""
    manifest = read_manifest(directory)
    if name != "init" or SWEPT not in manifest.facts:
        return manifest.sha256
    data = read_json(directory / MANIFEST)
    del data["facts"][SWEPT]
    return hashlib.sha256(json_text(data).encode()).hexdigest()


def _start(directory: Path, head: dict[str, Any], shared: bool) -> None:
    make_directory(directory)
    entries = [entry for entry in directory.iterdir() if entry.name != LOCK]
    if shared and (directory / MANIFEST).exists():
        return  # another process started it first
    if not all(entry.name.startswith(TEMPORARY) for entry in entries):
        raise UserError(f"{directory}: has files in it that tessera did not make; choose a new or empty directory")
    for entry in () if shared else entries:
        entry.unlink()
    _write_manifest(directory, head, complete=False)


def made_otherwise(directory: Path, pairs: Sequence[tuple[str, str, str]]) -> UserError:
    """Return the error for a directory of another configuration; `pairs` are those of `tessera.config.compare`."""
    fields = "; ".join(f"{field}: the directory has {a}, this call has {b}" for field, a, b in pairs)
    return UserError(f"{directory}: was made otherwise: {fields} (choose another --out, or delete the directory)")


def _write_manifest(directory: Path, head: dict[str, Any], complete: bool, **rest: Mapping[str, Any] | None) -> None:
    made = {name: dict(rest.get(name) or {}) for name in ("counts", "rejects", "facts")}
    tool = {"name": "tessera", "version": tessera.__version__}
    write_json(directory / MANIFEST, {"format": FORMAT, "tool": tool, **head, "complete": complete, **made})
