"""The working folder of `tessera run`: its configuration, the checks before the work begins, and the time it takes."""

import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tessera.config import UserError, compare, from_dict, to_dict
from tessera.files import LOCK, TEMPORARY, make_directory, read_json, write_json
from tessera.presets.config import RunConfig
from tessera.stages import CONFIG, MANIFEST, SWEPT, is_complete, made_otherwise, read_manifest
from tessera.train.extension import check_more

LEARNING = "learning"
"""Folder of what checkpoints on the way draw."""
_BUDGET = re.compile(r"arms\.\d+\.train\.(num_images|optim\.cooldown_images|(checkpoint|keep|sample)_every_images)")
"""Fields of a configuration that may change in a folder."""
_WARMUP = "arms.{}.train.optim.warmup_images"


def as_begun(out: Path, config: RunConfig) -> RunConfig:
    """Return `config` with the warm-ups that the arms of the folder `out` began with, where another num_images is all
    else that changes: a warm-up is at most a quarter of that."""
    if not (out / CONFIG).exists():
        return config
    had, arms = read_json(out / CONFIG), list(config.arms)
    changed = {field for field, _, _ in compare(had, to_dict(config))}
    kept = [n for n in range(len(arms)) if {_WARMUP.format(n), f"arms.{n}.train.num_images"} <= changed]
    if not all(_BUDGET.fullmatch(field) for field in changed - {_WARMUP.format(n) for n in kept}):
        return config  # another one, which `check` says
    for n in kept:
        train, images = arms[n].train, had["arms"][n]["train"]["optim"]["warmup_images"]
        print(f"run: {arms[n].name} keeps the warm-up that it began with, {images} images", file=sys.stderr)
        arms[n] = replace(arms[n], train=replace(train, optim=replace(train.optim, warmup_images=images)))
    return replace(config, arms=tuple(arms))


def check(out: Path, config: RunConfig) -> None:
    """Raise UserError for a configuration with wrong types, which the arms could not read back, and for a folder of
    another configuration, of another version of tessera, or with files of somebody else."""
    from_dict(RunConfig, to_dict(config), "the preset")
    if (out / CONFIG).exists():
        if (out / "images" / MANIFEST).exists():
            read_manifest(out / "images", must_be_complete=False)
        pairs = compare(read_json(out / CONFIG), to_dict(config))
        pairs = [pair for pair in pairs if not _BUDGET.fullmatch(pair[0])]
        if pairs:
            raise made_otherwise(out, pairs[:5])
    elif out.exists():
        make_directory(out)
        # A killed call leaves its lock or an unfinished file in a folder without configuration.
        if any(entry.name != LOCK and not entry.name.startswith(TEMPORARY) for entry in out.iterdir()):
            raise UserError(f"{out}: has files in it that tessera did not make; choose a new or empty folder")


def check_shapes(config: RunConfig) -> None:
    """Raise UserError where an arm's network does not take the latents of the images or the texts, which encode and
    train would say after hours."""
    from tessera.pretrained.text_encoders import load_text_encoder
    from tessera.pretrained.vae import load_codec

    size, encode = config.collect.size, config.encode
    shape = load_codec(encode.latents, load=False, run_files=True).latent_shape(size)
    width = load_text_encoder(encode.text, load=False, run_files=True).width
    for arm in config.arms:
        model = arm.train.model
        wanted = (model.latent_channels, model.latent_size, model.latent_size)
        if shape != wanted:
            raise UserError(
                f"arm {arm.name}: images of {size} px are latents of {shape} with {encode.latents}, but train.model"
                f" takes {wanted}; change collect.size, encode.latents or train.model.latent_size"
            )
        if width != model.text_width:
            raise UserError(
                f"arm {arm.name}: text of {encode.text} is {width} wide, train.model takes {model.text_width}"
            )


def claim(out: Path, config: RunConfig) -> None:
    """Write the resolved configuration into a new folder; UserError as of `check`, now that the folder is locked.

    Where only the budget of images is another one, what was made by the old one after the training is removed; before
    that, UserError for an arm that cannot train on (`check_more`). What an export drew before it was swept
    is removed too.
    """
    check(out, config)
    if (out / CONFIG).exists() and compare(read_json(out / CONFIG), to_dict(config)):
        for arm in config.arms:
            if ((run := out / "runs" / arm.name) / MANIFEST).exists():
                check_more(run, arm.train)
        for name in ("export", "samples", "scores", LEARNING, "report"):
            shutil.rmtree(out / name, ignore_errors=True)
        write_json(out / CONFIG, to_dict(config))
    if not (out / CONFIG).exists():
        for entry in out.glob(f"{TEMPORARY}*"):
            entry.unlink()
        write_json(out / CONFIG, to_dict(config))
    _drop_swept(out, config)


def _drop_swept(out: Path, config: RunConfig) -> None:
    """Remove what an arm's export drew before `tessera sweep` gave it other sampling defaults, its scores and the
    report, all of which are then made anew."""
    for name in (arm.name for arm in config.arms):
        export = out / "export" / name
        if not is_complete(export) or SWEPT not in read_manifest(export).facts:
            continue
        folders = [path.parent for path in out.glob(f"samples/{name}/*/{MANIFEST}")]
        drawn_by = {read_manifest(folder, must_be_complete=False).inputs.get("export") for folder in folders}
        if drawn_by - {read_manifest(export).sha256}:
            print(f"run: {export} was swept; what it drew before is drawn and judged anew", file=sys.stderr)
            for made in (f"samples/{name}", f"scores/{name}", "report"):
                shutil.rmtree(out / made, ignore_errors=True)


class Clock:
    """Seconds spent in each stage, over all calls that it took: in timings/, gathered in stages.json."""

    def __init__(self, out: Path):
        self.folder = out / "timings"

    def do(self, stage: str, work: Callable[..., object], directory: Path, *args: Any, **kwargs: Any) -> None:
        """Call work(directory, ...), which fills `directory`; the time counts unless that was complete before."""
        if is_complete(directory):
            work(directory, *args, **kwargs)  # returns at once, or says what does not match
            return
        path = self._file(stage)
        before = read_json(path)["seconds"] if path.exists() else 0.0
        start = time.monotonic()
        try:
            work(directory, *args, **kwargs)
        finally:
            write_json(path, {"stage": stage, "seconds": round(before + time.monotonic() - start, 2)})

    def join(self, out: Path, names: Sequence[str]) -> None:
        """Write stages.json: the stages `names`, in the order of the work."""
        write_json(out / "stages.json", [read_json(path) for path in map(self._file, names) if path.exists()])

    def _file(self, stage: str) -> Path:
        return self.folder / f"{stage.replace(' ', '-')}.json"
