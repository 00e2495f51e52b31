"""run: chains every stage, from images to report, in one working folder; arms train in parallel.

    command.txt  emoji/  images/  recipe/  prompts/  captions/NAME/  encoded/NAME/  tau/ARM/  runs/ARM/  export/ARM/
    samples/ARM/SET/  scores/ARM/SET/  few_prompts/  learning/ARM/NUMBER/  report/index.html  stages.json  logs/ARM.log

Each arm (train, export, generate, evaluate, and few images by checkpoints on the way) is a process of its own with its
own share of the cores. A stage that is complete is not done again, so running the same command resumes wherever the
last one stopped.
"""

import functools
import itertools
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tessera.config import UserError, from_dict
from tessera.files import exclusive_lock, read_json, write_text
from tessera.jobs import Job, run_jobs, work
from tessera.presets.config import Arm, RunConfig
from tessera.presets.working_folder import LEARNING, Clock, as_begun, check, check_shapes, claim
from tessera.randomness import philox
from tessera.stages import COMMAND, CONFIG, MANIFEST, is_complete, read_manifest

if TYPE_CHECKING:
    from tessera.prompts.miniature import PromptConfig
    from tessera.report.sections.opening import Budget

BUSY = "another tessera run is working in this folder"
PROMPTS = Path("prompts", "prompts.jsonl")
CAPTIONS_KIND = "captions"
FEW_PROMPTS = Path("few_prompts", "prompts.jsonl")
CAPTION_PROMPTS = Path("caption_prompts", "prompts.jsonl")
"""Captions that are drawn, next to a judge's prompts."""
JUDGE = "judge"
LEARNING_PROMPTS = 4
"""Prompts of each task that are drawn by checkpoints on the way."""
CLASS_PROMPTS = 6
"""The same where there are no tasks."""
_ARM_VERBS = ("tau", "train", "export", "generate", "evaluate", "learn")
CHECKPOINTS = 5
"""At most so many checkpoints are drawn from, evenly over the training."""


def run(
    out: Path,
    config: RunConfig,
    *,
    images: Path | None = None,
    captions: Path | None = None,
    resume: bool = False,
    skip_missing: bool = False,
    seconds: float | None = None,
    command: str | None = None,
) -> Path:
    """Do all stages of `config` in the working folder `out` and return the report's path.

    images: the user's folder, for a preset without a world. captions: a file of captions for it. resume: fail if there
    is nothing to resume. skip_missing: images without a caption are left out. seconds: after so long in training the
    arms save what they have, and the report is one so far. command: the command line of this call, for the report.
    Raises UserError for bad input, KeyboardInterrupt when stopped: nothing done is lost.
    """
    out = Path(out)
    if resume and not (out / CONFIG).exists():
        raise UserError(f"{out}: there is nothing to resume; leave out --resume to start")
    config = as_begun(out, config)
    check(out, config)  # before the lock, which would make the folder
    if not is_complete(out / "report"):
        check_shapes(config)
    if captions is not None:
        from tessera.curate.caption.file import check_captions

        check_captions(captions)
    with exclusive_lock(out, BUSY):
        (check if (out / CONFIG).exists() else claim)(out, config)
        clock = Clock(out)
        try:
            _curate(out, config, clock, images, captions, skip_missing)
        except UserError:
            if not (out / "images").exists():  # a mistyped folder must not hold `out` against the right one
                (out / CONFIG).unlink(missing_ok=True)
                shutil.rmtree(clock.folder, ignore_errors=True)
            raise
        claim(out, config)  # only now, as changed images are an error: it removes what another budget made
        if command is not None:
            write_text(out / COMMAND, f"{command}\n")
        left = _train_arms(out, config, seconds)
        names = ["emoji", "collect", "augment", "prompts", "judge"]
        names += [f"{verb} {name}" for name in _sets(config) for verb in ("caption", "encode")]
        clock.join(out, names + [f"{verb} {arm.name}" for verb in _ARM_VERBS for arm in config.arms])
        from tessera.report.run_page import report, report_so_far

        arms = [arm.name for arm in config.arms]
        if left:
            if not list(out.glob(f"runs/*/{MANIFEST}")):
                raise UserError(f"{out}: no training has begun within --budget; run it again with more time")
            page = report_so_far(out)
            print(f"run: the time is over; run the same command to resume {', '.join(left)}", file=sys.stderr)
            return page
        clock.do("report", report, out / "report", out, arms, budget=budget_that_draws())
        print(*read_manifest(out / "report").facts["said"], sep="\n", file=sys.stderr)
    return out / "report" / "index.html"


def budget_that_draws() -> "Budget":
    """Return the budget of the preset `miniature`, which is known to draw."""
    from tessera.presets.miniature import miniature
    from tessera.report.sections.opening import Budget

    return Budget(preset="miniature", num_images=min(arm.train.num_images for arm in miniature().arms))


def _curate(
    out: Path, config: RunConfig, clock: "Clock", source: Path | None, captions_file: Path | None, skip_missing: bool
) -> None:
    """Make the images, the recipe, the prompts and every encoded set that an arm trains on."""
    from tessera.curate.augment import augment
    from tessera.curate.caption.caption import caption
    from tessera.curate.collect.collect import collect
    from tessera.curate.encode import encode, with_default_compute

    images, skip = out / "images", {"skip_missing": skip_missing}
    if config.emoji is not None:
        from tessera.curate.emoji.draw import CAPTIONS, draw_emoji

        source = out / "emoji"
        clock.do("emoji", draw_emoji, source, config.emoji)
        captions_file = source / CAPTIONS
    clock.do("collect", collect, images, config.collect, source)
    if any(arm.augmented for arm in config.arms):
        clock.do("augment", augment, out / "recipe", images, config.augment)
    for name, (arm, augmented) in _sets(config).items():
        recipe = out / "recipe" if augmented else None
        texts = out / "captions" / name
        file = captions_file if arm.captioner == "import" else None
        words = config.captions(arm)
        clock.do(f"caption {name}", caption, texts, images, words, recipe=recipe, captions_file=file, **skip)
        place = out / "encoded" / name
        encoding = with_default_compute(config.encode, place)
        clock.do(f"encode {name}", encode, place, images, texts, encoding, recipe=recipe, **skip)
    _make_prompts(out, config, clock)
    if config.judge is not None:
        clock.do("judge", make_judge, out / JUDGE, config)


def make_judge(out: Path, config: RunConfig) -> None:
    """Train the judge of a run on drawings, into the directory `out`."""
    from tessera.curate.emoji.cut_outs import cut_outs
    from tessera.evaluate.drawings.judge import train_judge

    assert config.judge is not None
    assert config.emoji is not None
    train_judge(out, functools.partial(cut_outs, config.judge.concepts, config.emoji.styles), config.judge)


def prompt_writer(
    images: Path, config: RunConfig, drawings: Path | None = None, recipe: Path | None = None
) -> Callable[[Path, "PromptConfig"], None]:
    """Return what makes the judge's prompts of a run: call it with their directory and how many are asked.

    drawings: of `draw_emoji`, where the run is on those; recipe: of their CutMix images, whose pairs are not asked for.
    """
    if config.judge is None or drawings is None:
        from tessera.prompts.miniature import prompts

        return lambda out, asked: prompts(out, images, asked)
    from tessera.curate.emoji.draw import CAPTIONS
    from tessera.curate.emoji.judged import EmojiCaptions, pairs_in_mixes
    from tessera.prompts.drawings import drawing_prompts

    names, told = config.judge.concepts, EmojiCaptions(drawings / CAPTIONS)
    together = () if recipe is None else pairs_in_mixes(images, recipe)
    return lambda out, asked: drawing_prompts(out, images, names, told, asked, together)


def _make_prompts(out: Path, config: RunConfig, clock: "Clock") -> None:
    """Make the judge's prompts, and take captions that an arm was trained on."""
    if config.prompts is not None:
        few = replace(config.prompts, per_task=min(LEARNING_PROMPTS, config.prompts.per_task))
        recipe = out / "recipe" if any(arm.augmented for arm in config.arms) else None
        write = prompt_writer(out / "images", config, out / "emoji", recipe)
        for place, asked in ((out / "prompts", config.prompts), (out / FEW_PROMPTS.parent, few)):
            clock.do("prompts", write, place, asked)
    if config.draws_captions:
        _choose_captions(out, config)


def _choose_captions(out: Path, config: RunConfig) -> None:
    """Write the captions that are drawn: of held-out images, then of others."""
    from tessera.curate.caption.table import read_levels
    from tessera.curate.index import read_images
    from tessera.report.gallery import HELD_OUT, TRAINED_ON

    levels = read_levels(out / "captions" / _encoded_set(config.arms[0], False))
    lines = []
    for held_out in (True, False):  # those that no training saw come first
        keys: dict[str, list[str]] = {}
        unseen = set(_held_out_keys(out, config, config.arms[0]))
        for row in read_images(out / "images"):
            if (row.key in unseen) == held_out:
                keys.setdefault(row.class_name, []).append(row.key)
        told = {line["prompt"] for line in lines}
        found = captions_to_draw(keys, list(levels.values()), config.class_prompts)
        tag = HELD_OUT if held_out else TRAINED_ON
        lines += [{"prompt": text, "key": key, "tag": tag} for text, key in found.items() if text not in told]
    del lines[config.class_prompts :]
    lines = [json.dumps(line, ensure_ascii=False) for line in lines]
    path, text = out / _captions_file(config), "\n".join(lines) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def _captions_file(config: RunConfig) -> Path:
    return PROMPTS if config.prompts is None else CAPTION_PROMPTS


def _fitted_to_set(out: Path, config: RunConfig, arm: Arm) -> Arm:
    """Return an arm of a run on own images with its held-out records and, where images have captions of several levels
    and the preset mixes none, all levels in equal parts."""
    from tessera.encoded.store import open_encoded

    if not config.held_out_share:
        return arm
    train = replace(arm.train, validation_records=len(_held_out_keys(out, config, arm)))
    levels = open_encoded(out / "encoded" / _encoded_set(arm, False)).levels
    if len(levels) > 1 and not train.caption_mix:
        train = replace(train, caption_mix=dict.fromkeys(levels, 1 / len(levels)))
    return replace(arm, train=train)


def _held_out_keys(out: Path, config: RunConfig, arm: Arm) -> list[str]:
    """Return the keys of the images that `arm` does not train on: the last records of its plain set."""
    from tessera.encoded.store import open_encoded

    store = open_encoded(out / "encoded" / _encoded_set(arm, False))
    count = arm.train.validation_records or config.held_out(len(store))
    return store.keys(len(store) - count) if count else []


def captions_to_draw(
    keys: Mapping[str, Sequence[str]], levels: Sequence[Mapping[str, str]], count: int
) -> dict[str, str]:
    """Return up to `count` different captions, each with the key of its image: one of each class, then a second of
    each, those of many images first.

    keys: class -> its images. levels: key -> caption, for each level of captions; they take turns.
    """
    largest = sorted(keys, key=lambda name: (-len(keys[name]), name))
    captioned = [[key for key in sorted(keys[name]) if any(key in level for level in levels)] for name in largest]
    shuffled = [philox(0, f"run/prompts/{name}").permutation(own) for name, own in zip(largest, captioned)]
    texts: dict[str, str] = {}
    for key in (key for row in itertools.zip_longest(*shuffled) for key in row if key is not None):
        of_key = levels[len(texts) % len(levels)]
        if key in of_key and len(texts) < count:
            texts.setdefault(of_key[key], key)
    return texts


def _encoded_set(arm: Arm, augmented: bool) -> str:
    return f"{'augmented' if augmented else 'plain'}-{arm.captioner}"


def _sets(config: RunConfig) -> dict[str, tuple[Arm, bool]]:
    """Return name of each encoded set -> (an arm that trains on it, True for the augmented one)."""
    return {_encoded_set(arm, kind): (arm, kind) for arm in config.arms for kind in (False, True)[: 1 + arm.augmented]}


def _train_arms(out: Path, config: RunConfig, seconds: float | None) -> list[str]:
    """Run the arms' processes; return the names of those that are not done when the time is over."""
    jobs = [
        Job(
            name=arm.name,
            what=f"arm {arm.name}",
            module="tessera.run",
            args=(str(out), arm.name),
            logs=out / "logs",
            images=arm.train.num_images,
            trained=functools.partial(is_trained, out / "runs" / arm.name, arm.train.num_images),
        )
        for arm in config.arms
    ]
    return run_jobs(jobs, config.parallel, seconds=seconds)


def is_trained(run: Path, num_images: int) -> bool:
    """Return whether the run has finished with at least `num_images` images."""
    return is_complete(run) and read_manifest(run).config["num_images"] >= num_images


def run_arm(
    out: Path,
    config: RunConfig,
    arm: Arm,
    plain: Path,
    augmented: Path | None,
    prompts: Path,
    kinds: Sequence[str] | None = None,
    images: Path | None = None,
    recipe: Path | None = None,
    judge: Path | None = None,
    scored: str = "scores",
) -> None:
    """Train, export, generate and evaluate one arm in `out`, in this process.

    plain, augmented: encoded sets; `augmented` is None for an arm without. prompts: a prompts file. kinds: names
    in `config.sample_sets()` to draw; None = all. images: what the encoded sets were made of, to look for copies among
    the drawn images: by the judge or, without one, by their pixels; None = nobody looks. recipe: of `augmented`.
    judge: of drawings; None = `out`/judge. scored: folder of the scores in `out`.
    """
    from tessera.devices import set_threads
    from tessera.encoded.store import open_encoded
    from tessera.generate.folder import generate
    from tessera.pretrained.training import networks_of_training
    from tessera.train.config import RuntimeOptions
    from tessera.train.export import export
    from tessera.train.loop import train

    set_threads(arm.train.threads)  # for what comes before the training too: arms are made side by side
    clock, name = Clock(out), arm.name
    trained, exported = out / "runs" / name, out / "export" / name
    more = (trained / MANIFEST).exists()
    stores = [open_encoded(path) for path in (plain, augmented) if path is not None]
    names, draws = (config.encode.latents, config.encode.text), arm.train.sample_every_images is not None
    encode_text, decode = networks_of_training(stores, *names, None, draws=draws, run_files=True)
    options: dict[str, Any] = {"runtime": RuntimeOptions(encode_text=encode_text, decode=decode), "extend": more}
    if arm.train.needs_seams and augmented is not None and recipe is not None:
        from tessera.curate.tau import TauConfig, tau

        options["tau"] = out / "tau" / name
        clock.do(f"tau {name}", tau, options["tau"], plain, augmented, recipe, TauConfig.of(arm.train))
    clock.do(f"train {name}", train, trained, plain, augmented, arm.train, **options)
    clock.do(f"export {name}", export, exported, trained, config.export)
    for kind, settings in config.sample_sets().items():
        if kinds is not None and kind not in kinds:
            continue
        samples, asked = out / "samples" / name / kind, out / CAPTION_PROMPTS if kind == CAPTIONS_KIND else prompts
        clock.do(f"generate {name}", generate, samples, exported, asked, settings)
        scores = out / scored / name / kind
        if config.evaluate is not None:
            from tessera.evaluate.miniature.evaluate import evaluate

            clock.do(f"evaluate {name}", evaluate, scores, samples, config.evaluate, training=images)
        elif config.judge is not None and kind != CAPTIONS_KIND:
            from tessera.evaluate.drawings.evaluate import evaluate_drawings

            clock.do(f"evaluate {name}", evaluate_drawings, scores, samples, judge or out / JUDGE, 1)
        elif images is not None:
            from tessera.evaluate.copies.evaluate import evaluate_copies
            from tessera.pretrained.features.pixels import Pixels
            from tessera.report.sections.nearest_pairs import COPIES

            scores, cache = out / scored / name / COPIES, {"cache": out / scored / "features"}
            try:
                clock.do(f"evaluate {name}", evaluate_copies, scores, samples, images, Pixels(), name=name, **cache)
            except UserError as error:  # of a single image, say, or of equal ones: no reason to go without the rest
                print(f"evaluate {name}: looks for no copies: {error}", file=sys.stderr)


def _run_arm_named(out: Path, name: str) -> None:
    config = from_dict(RunConfig, read_json(out / CONFIG), str(out / CONFIG))
    arm = _fitted_to_set(out, config, next(arm for arm in config.arms if arm.name == name))
    augmented = out / "encoded" / _encoded_set(arm, True) if arm.augmented else None
    plain = out / "encoded" / _encoded_set(arm, False)
    run_arm(out, config, arm, plain, augmented, out / PROMPTS, images=out / "images", recipe=out / "recipe")
    _draw_checkpoints(out, config, arm)


def _draw_checkpoints(out: Path, config: RunConfig, arm: Arm) -> None:
    """Draw few prompts by the checkpoints that the arm kept, from the same noise, and judge them."""
    from tessera.generate.folder import generate
    from tessera.train.checkpoint import found
    from tessera.train.export import export

    clock, run, verb = Clock(out), out / "runs" / arm.name, f"learn {arm.name}"
    kept = [int(path.name) for path in found(run)]
    count = min(CHECKPOINTS, len(kept))
    settings = replace(config.export, weights="ema") if config.export.weights == "best" else config.export
    for images in [kept[(n + 1) * len(kept) // count - 1] for n in range(count)]:  # the last one is among them
        place = out / LEARNING / arm.name / f"{images:012d}"
        clock.do(verb, export, place / "export", run, settings, num_images=images)
        drawn = replace(config.generate, per_prompt=1, extended=config.prompts is not None)
        prompts: Any = out / FEW_PROMPTS
        if config.prompts is None:
            lines = (out / PROMPTS).read_text(encoding="utf-8").splitlines()[:CLASS_PROMPTS]
            prompts = [json.loads(line)["prompt"] for line in lines]
        clock.do(verb, generate, place / "samples", place / "export", prompts, drawn)
        if config.evaluate is not None:
            from tessera.evaluate.miniature.evaluate import evaluate

            judge = replace(config.evaluate, judge_renders=0)  # its accuracy is in the scores of all prompts
            clock.do(verb, evaluate, place / "scores", place / "samples", judge)
        elif config.judge is not None:
            from tessera.evaluate.drawings.evaluate import evaluate_drawings

            clock.do(verb, evaluate_drawings, place / "scores", place / "samples", out / JUDGE, 1)


if __name__ == "__main__":
    sys.exit(work(functools.partial(_run_arm_named, Path(sys.argv[1]), sys.argv[2])))
