"""The continuation of a run to more images than it was planned for."""

import shutil
from pathlib import Path

from tessera.config import UserError, compare, to_dict
from tessera.stages import MANIFEST, Manifest, hash_as_input, made_otherwise, read_manifest, reopen
from tessera.train import checkpoint
from tessera.train.config import TrainConfig
from tessera.train.validation import EVALUATIONS

BUDGET = {"optim.cooldown_images", "checkpoint_every_images", "keep_every_images", "sample_every_images"}
"""Fields that may differ together with num_images when a run is extended."""
BUSY = "another process is training in this directory"


def check_budget(out: Path, config: TrainConfig) -> None:
    """Raise UserError where `out` is a run of fewer images than `config`, which --extend would continue."""
    if not (out / MANIFEST).exists():
        return
    run = read_manifest(out, must_be_complete=False)
    had, wanted = run.config.get("num_images", 0), config.num_images
    if run.stage == "train" and had < wanted and _only_budgets_differ(run, config):
        raise UserError(
            f"{out}: is a run of {had} images, not {wanted}; give --extend to continue it, or choose another --out"
        )


def extends(out: Path, config: TrainConfig, inputs: dict[str, Path]) -> bool:
    """Return whether `config` differs from that of the run `out` in num_images alone, or in its cooldown and
    checkpoints too. UserError as of `check_more`. Other differences are left to `find_stage`, which names them."""
    run = read_manifest(out, "train", must_be_complete=False)
    same_inputs = {name: hash_as_input(name, path) for name, path in inputs.items()} == run.inputs
    if not _only_budgets_differ(run, config) or not same_inputs:
        return False
    check_more(out, config)
    return True


def reopen_for_more(out: Path, config: TrainConfig) -> None:
    """Make a run that `config` extends unfinished, without the scores after its last checkpoint, which may be of a
    cooldown that is taken back."""
    found = checkpoint.latest(out)
    for place in (out / EVALUATIONS).glob("[0-9]" * 12):
        if found is None or place.name > found.name:
            shutil.rmtree(place)
    reopen(out, to_dict(config))


def check_more(out: Path, config: TrainConfig) -> None:
    """Raise UserError where the run `out`, of a configuration that differs in budgets alone, cannot be continued by
    that of `config`: a finished one to fewer images, or after its learning rate or augment_prob moved to an end; an
    unfinished one whose cooldown has begun, or to no more images than it has seen; any one where the same num_images
    have another cooldown or checkpoints."""
    run = read_manifest(out, "train", must_be_complete=False)
    had, wanted = run.config["num_images"], config.num_images
    budgets = [pair for pair in compare(run.config, to_dict(config)) if pair[0] in {"num_images", *BUDGET}]
    if not budgets:
        return
    if wanted == had:
        raise made_otherwise(out, budgets)
    if not run.complete:
        found = checkpoint.latest(out)
        seen = int(found.name) if found is not None else 0
        depends = config.optim.decay != "constant" or config.augment_prob_end is not None
        if seen >= wanted and not depends:
            raise UserError(
                f"{out}: has seen {seen} images, and num_images is {wanted}; give a larger number, such as"
                f" --num-images {seen + config.batch_size}"
            )
        before = min(had - run.config["optim"]["cooldown_images"], wanted - config.optim.cooldown_images)
        if seen and (seen > before or depends):
            raise UserError(
                f"{out}: has seen {seen} images by a rate that depends on their number, {had}; let it end with"
                f" --num-images {had} first, or train in another directory"
            )
        return
    seen, moved = run.counts["num_images"], None
    if wanted < seen:
        raise UserError(f"{out}: has seen {seen} images, more than num_images {wanted}; give a larger number")
    if seen < had:
        moved = "it ended before its time, as its loss on held-out records fell no more (stop_after_no_gain)"
    elif config.optim.decay != "constant":
        moved = f"its learning rate has fallen to its end (optim.decay is {config.optim.decay})"
    elif config.augment_prob_end is not None:
        moved = "its augment_prob has moved to augment_prob_end"
    if moved is not None:
        raise UserError(f"{out}: cannot be extended, {moved}; export it and start another run from that with --init")
    if not (out / checkpoint.FOLDER / f"{had:012d}").is_dir():
        raise UserError(f"{out}: cannot be extended, its last checkpoint is missing; train again in another directory")


def _only_budgets_differ(run: Manifest, config: TrainConfig) -> bool:
    changed = {field for field, _, _ in compare(run.config, to_dict(config))}
    return changed - BUDGET == {"num_images"}
