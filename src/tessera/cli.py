"""The command `tessera`: one verb per stage, each on directories, and `run` which chains them.

Torch and the stages are imported inside the verbs, so that `tessera --help` answers at once. Exit codes: 0 done, 2 bad
input or stopped by Ctrl-C (the same command goes on from there), 1 a defect of tessera itself.
"""

import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from tessera.config import UserError

Pattern = Literal["all", "half", "quarter", "ninth", "sixteenth"]


def run(
    preset: Annotated[str, "positional"],
    out: Path | None = None,
    images: Path | None = None,
    captions: Path | None = None,
    single_class: str | None = None,
    resume: bool = False,
) -> None:
    """All stages, from pictures to a model and a report.

    Example: tessera run miniature --out out/miniature

    Args:
        preset: miniature, miniature-paper, miniature-cad, miniature-smoke, my-pictures, or FILE.py:FUNCTION.
        out: Working folder; out/PRESET by default. Running again goes on where the last call stopped.
        images: Your folder of pictures, a folder for each class (preset my-pictures).
        captions: A csv, tsv, jsonl or parquet file with captions for them; default: "An image of <class-name>".
        single_class: The class of a folder without class folders.
        resume: Fail if there is nothing to go on with.
    """
    from tessera.presets import load_run_preset
    from tessera.run import run as run_all

    config = load_run_preset(preset, images=images, with_captions=captions is not None, single_class=single_class)
    name = preset.rpartition(":")[2]
    page = run_all(out or Path("out") / name, config, images=images, captions=captions, resume=resume)
    print(f"Report: {page}")


def collect(
    source: Annotated[str, "positional"],
    out: Path,
    size: int | None = None,
    single_class: str | None = None,
    num_images: int = 8000,
    seed: int = 0,
) -> None:
    """Pictures to square crops in class folders: the miniature world, or a folder of yours.

    Example: tessera collect photos/ --out images --size 256

    Args:
        source: "miniature", or a folder with a folder of pictures for each class.
        out: Directory to make.
        size: Side of the crops in pixels; 32 for the miniature, 256 for a folder by default.
        single_class: The class of a folder without class folders.
        num_images: Pictures of the miniature.
        seed: Seed of the miniature.
    """
    from tessera.curate.collect import MINIATURE, CollectConfig
    from tessera.curate.collect import collect as collect_all
    from tessera.miniature import WorldConfig

    if source == MINIATURE:
        side = size or 32
        world = WorldConfig(num_images=num_images, size=side, seed=seed)
        collect_all(out, CollectConfig(size=side, world=world))
    else:
        folder = Path(source)
        config = CollectConfig(source=folder.resolve().name, size=size or 256, single_class=single_class)
        collect_all(out, config, folder)
    _say(out)


def augment(
    images: Annotated[Path, "positional"],
    out: Path,
    pattern: Pattern = "all",
    half_view: Literal["aligned", "centre"] = "aligned",
    seed: int = 0,
    write_images: bool = False,
) -> None:
    """The CutMix recipe of a set: which pictures are mixed, and where (paper section 3.2).

    Example: tessera augment images --out recipe --pattern all

    Args:
        images: Directory made by collect.
        out: Directory to make.
        pattern: half, quarter, ninth, sixteenth, or all four in equal parts.
        half_view: half shows the base's left (top) half beside the partner's right (bottom) half, or both centres.
        seed: Seed of the draws.
        write_images: Write the mixed pictures out too.
    """
    from tessera.curate.augment import AugmentConfig
    from tessera.curate.augment import augment as augment_all

    config = AugmentConfig(pattern=pattern, half_view=half_view, seed=seed)
    augment_all(out, images, config, write_images=write_images)
    _say(out)


def caption(
    images: Annotated[Path, "positional"],
    out: Path,
    captioner: Literal["aio", "scene", "import"] = "aio",
    recipe: Path | None = None,
    file: Path | None = None,
    seed: int = 0,
) -> None:
    """Captions of a set, or of its CutMix pictures (paper section 3.1).

    Example: tessera caption images --out captions/plain --captioner scene

    Args:
        images: Directory made by collect.
        out: Directory to make.
        captioner: aio ("An image of <class-name>"), scene (the miniature's ground truth), import (a file).
        recipe: Directory made by augment: caption its mixed pictures.
        file: For import: csv, tsv, jsonl or parquet with columns key (or file_name) and text (or caption).
        seed: Seed of the phrasings.
    """
    from tessera.curate.caption import CaptionConfig
    from tessera.curate.caption import caption as caption_all

    caption_all(out, images, CaptionConfig(captioner=captioner, seed=seed), recipe=recipe, captions_file=file)
    _say(out)


def encode(
    images: Annotated[Path, "positional"],
    captions: Annotated[Path, "positional"],
    out: Path,
    recipe: Path | None = None,
    latents: str = "pixel-unshuffle:4",
    text: str = "words:64",
    text_encoding: Literal["int8", "fp16", "none"] = "int8",
) -> None:
    """Pictures and captions to the encoded records that training reads.

    Example: tessera encode images captions/plain --out encoded/plain

    Args:
        images: Directory made by collect.
        captions: Directory made by caption.
        out: Directory to make.
        recipe: Directory made by augment, for captions of mixed pictures.
        latents: Image codec.
        text: Text encoder.
        text_encoding: How token embeddings are stored.
    """
    from tessera.curate.encode import EncodeConfig
    from tessera.curate.encode import encode as encode_all

    config = EncodeConfig(latents=latents, text=text, text_encoding=text_encoding)
    encode_all(out, images, captions, config, recipe=recipe)
    _say(out)


def train(
    preset: Annotated[str, "positional"],
    plain: Path,
    out: Path,
    augmented: Path | None = None,
    num_images: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    resume: bool = False,
) -> None:
    """Trains one arm of a preset on encoded sets (Algorithm 1); running again goes on from the last checkpoint.

    Example: tessera train miniature:ta_ia --plain encoded/plain --augmented encoded/mixed --out runs/ta_ia

    Args:
        preset: PRESET:ARM, for example miniature:ta_ia, or FILE.py:FUNCTION that returns a TrainConfig.
        plain: Directory made by encode.
        out: Run directory to make.
        augmented: Directory made by encode from a recipe.
        num_images: Samples to see in all, in place of the preset's.
        seed: Seed, in place of the preset's.
        device: cuda, mps or cpu; the best there is by default.
        resume: Fail if there is no run to go on with.
    """
    from tessera.presets import load_train_preset
    from tessera.train.loop import train as train_all

    config = load_train_preset(preset, num_images=num_images, seed=seed)
    train_all(out, plain, augmented, config, resume=resume, device=device)
    _say(out)


def export(
    run: Annotated[Path, "positional"],
    out: Path,
    weights: Literal["ema", "online"] = "ema",
    guidance_scale: float = 3.0,
    steps: int = 250,
    clip_denoised: float | None = None,
) -> None:
    """A finished run to usable weights.

    Example: tessera export runs/ta_ia --out export/ta_ia --steps 25

    Args:
        run: Directory made by train.
        out: Directory to make.
        weights: The averaged weights or the last ones.
        guidance_scale: Default guidance w: uncond + w (cond - uncond).
        steps: Default number of sampling steps.
        clip_denoised: Largest absolute value of the predicted latents; no limit by default.
    """
    from tessera.train.export import ExportConfig
    from tessera.train.export import export as export_all

    config = ExportConfig(
        weights=weights, guidance_scale=guidance_scale, sampling_steps=steps, clip_denoised=clip_denoised
    )
    export_all(out, run, config)
    _say(out)


def prompts(images: Annotated[Path, "positional"], out: Path, per_task: int = 20, seed: int = 0) -> None:
    """The judge's prompts over the miniature: GenEval's six tasks, short and extended.

    Example: tessera prompts images --out prompts

    Args:
        images: Directory made by collect from the miniature.
        out: Directory to make.
        per_task: Prompts of each task.
        seed: Seed of the draws.
    """
    from tessera.evaluate.prompts import PromptConfig
    from tessera.evaluate.prompts import prompts as prompts_all

    prompts_all(out, images, PromptConfig(per_task=per_task, seed=seed))
    _say(out)


def import_published(
    source: Annotated[str, "positional"],
    out: Path,
    null_condition: Path | None = None,
    coherence: bool = False,
    guidance_scale: float = 9.0,
    steps: int = 250,
    clip_denoised: float = 3.3,
) -> None:
    """The published CAD-I weights to an export that generate takes.

    Example: tessera import-published Lucasdegeorge/CAD-I --out export/cad_i --null-condition null.npy

    Args:
        source: A folder with config.json and model.safetensors, or a Hugging Face repository.
        out: Directory to make.
        null_condition: .npy file with what google/flan-t5-xl makes of the empty text, (1, 2048).
        coherence: Keep the coherence token, as the published pipeline does.
        guidance_scale: Default guidance w: uncond + w (cond - uncond).
        steps: Default number of sampling steps.
        clip_denoised: Largest absolute value of the predicted latents.
    """
    from tessera.generate.published import ImportConfig
    from tessera.generate.published import import_published as import_all

    config = ImportConfig(
        coherence=coherence, guidance_scale=guidance_scale, sampling_steps=steps, clip_denoised=clip_denoised
    )
    import_all(out, source, config, null_condition=null_condition)
    _say(out)


def generate(
    export: Annotated[Path, "positional"],
    prompts: str | None = None,
    prompt: str | None = None,
    out: Path | None = None,
    per_prompt: int | None = None,
    extended: bool = False,
    steps: int | None = None,
    guidance_scale: float | None = None,
    sampler: Literal["ddim", "ddpm", "dpmpp_2m"] = "ddim",
    seed: int = 0,
    batch_size: int = 32,
    device: str | None = None,
) -> None:
    """Pictures of one prompt, or of every prompt of a file in GenEval's folder layout; under torchrun, on many GPUs.

    Example: tessera generate export/ta_ia --prompt "a red circle" or, for a file, --prompts FILE --out samples/ta_ia

    Args:
        export: Directory made by export.
        prompts: A .txt file with a prompt in each line, or .jsonl with "prompt"; or teaser, figure4: the paper's.
        prompt: One prompt; prints where its pictures are.
        out: Directory to make; a fresh one below samples/ by default.
        per_prompt: Pictures of each prompt; 2 for a file, 1 for a prompt by default.
        extended: Draw the extended text of each prompt.
        steps: Sampling steps; the export's by default.
        guidance_scale: Guidance w; the export's by default.
        sampler: How the noise is taken away.
        seed: Picture k of prompt i is a function of (seed, i, k).
        batch_size: Pictures drawn at once.
        device: cuda, mps or cpu; the best there is by default.
    """
    from tessera.generate.folder import GenerateConfig, fresh_folder
    from tessera.generate.folder import generate as generate_all

    source = prompts if prompt is None else [prompt]
    if source is None or (prompts is not None and prompt is not None):
        raise UserError('give either --prompt TEXT, or --prompts with a file, "teaser" or "figure4"')
    config = GenerateConfig(
        per_prompt=per_prompt if per_prompt is not None else 2 if prompt is None else 1,
        extended=extended,
        steps=steps,
        guidance_scale=guidance_scale,
        sampler=sampler,
        seed=seed,
        batch_size=batch_size,
    )
    out = out or fresh_folder(Path("samples"), export, source, config)
    if not generate_all(out, export, source, config, device=device):
        return  # another rank completes it
    if prompt is None:
        _say(out)
    else:
        for picture in sorted((out / "00000" / "samples").iterdir()):
            print(picture)


def evaluate(samples: Annotated[Path, "positional"], out: Path) -> None:
    """Judges pictures of the miniature: six tasks, colours, seams, with intervals beside the judge's own accuracy.

    Example: tessera evaluate samples/ta_ia --out scores/ta_ia

    Args:
        samples: Directory made by generate from the judge's prompts.
        out: Directory to make.
    """
    from tessera.evaluate.miniature import EvaluateConfig
    from tessera.evaluate.miniature import evaluate as evaluate_all

    evaluate_all(out, samples, EvaluateConfig())
    _say(out)


def report(workspace: Annotated[Path, "positional"], out: Path | None = None) -> None:
    """One self-contained HTML page about a working folder.

    Example: tessera report out/miniature

    Args:
        workspace: Folder made by run.
        out: Directory to make; WORKSPACE/report by default.
    """
    from tessera.evaluate.report import report as report_all

    report_all(out or workspace / "report", workspace)
    print(f"Report: {(out or workspace / 'report') / 'index.html'}")


VERBS: tuple[Callable[..., None], ...] = (
    run,
    collect,
    augment,
    caption,
    encode,
    train,
    export,
    import_published,
    prompts,
    generate,
    evaluate,
    report,
)


def _say(out: Path) -> None:
    """What a directory holds, by its manifest."""
    from tessera.files import read_manifest

    manifest = read_manifest(out)
    counts = ", ".join(f"{number} {name}" for name, number in manifest.counts.items())
    print(f"{out}: {counts}")
    if manifest.rejects:
        print(f"{len(manifest.rejects)} rejected; the reasons stand in {out / 'manifest.json'}")


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the command; ends the process."""
    args = list(sys.argv[1:] if args is None else args)
    if args in (["--version"], ["-V"]):
        import tessera

        print(tessera.__version__)
        sys.exit(0)
    try:
        from tessera.runtime import stopping

        with stopping():
            _app().cli(args=args, prog="tessera", description=_description())
    except UserError as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("stopped; nothing that was done is lost, the same command goes on from here", 2, "")
    except OSError as error:
        if error.errno == errno.ENOSPC:
            _fail(f"no space left on the disk ({error.filename or 'while writing'}); make room, then run it again", 2)
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}", 2)
    except Exception as error:
        if os.environ.get("TESSERA_DEBUG") == "1":
            raise
        _fail(f"{type(error).__name__}: {error} (a defect of tessera; TESSERA_DEBUG=1 shows where)", 1)
    sys.exit(0)


def _app() -> Any:
    import tyro

    app = tyro.extras.SubcommandApp()
    for verb in VERBS:
        app.command(_positional(verb))
    return app


def _positional(verb: Callable[..., None]) -> Callable[..., None]:
    """Marks the parameters annotated "positional" for tyro, so that this module is read without it."""
    import tyro

    for name, hint in list(verb.__annotations__.items()):
        if getattr(hint, "__metadata__", None) == ("positional",):
            verb.__annotations__[name] = tyro.conf.Positional[hint.__origin__]
    return verb


def _description() -> str:
    purpose = "Train your own text-to-image model on a small, curated, labelled image set."
    return f"{purpose} Start with: tessera run miniature"


def _fail(message: str, code: int, prefix: str = "error: ") -> NoReturn:
    print(f"{prefix}{message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
