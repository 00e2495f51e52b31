"""The verbs from usable weights to images."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from tessera.cli.options import Device, GuidanceScale, Out, Steps
from tessera.cli.output import say, say_files
from tessera.config import UserError
from tessera.stages import find_exports, the_export


def import_published(
    source: Annotated[str, "positional", "A folder with config.json and model.safetensors, or a repository."],
    out: Out,
    null_condition: Annotated[Path | None, "Encoding of the empty text by google/flan-t5-xl, .npy, (1, 2048)."] = None,
    coherence: Annotated[bool, "Keep the coherence token, as the published pipeline does."] = False,
    guidance_scale: GuidanceScale = 9.0,
    steps: Steps = 250,
    clip_denoised: Annotated[float, "Largest absolute value of the predicted latents."] = 3.3,
) -> None:
    """Turn the published CAD-I weights into an export that generate takes.

    Example: tessera import-published Lucasdegeorge/CAD-I --out export/cad_i --null-condition null.npy
    """
    from tessera.weights import import_published as stage

    config = stage.ImportConfig(
        coherence=coherence, guidance_scale=guidance_scale, sampling_steps=steps, clip_denoised=clip_denoised
    )
    stage.import_published(out, source, config, null_condition=null_condition)
    say(out)


def generate(
    export: Annotated[Path | None, "positional", "Directory made by export, or by run."] = None,
    prompt: Annotated[str | None, "positional", "One prompt; prints where its images are."] = None,
    prompts: str | None = None,
    model: Annotated[str | None, "Instead of an export, a diffusers pipeline: a repository or a folder."] = None,
    out: Annotated[Path | None, "Directory to make; a fresh one below samples/ by default."] = None,
    per_prompt: Annotated[int | None, "Images of each prompt; 4 for a file, 1 for a prompt by default."] = None,
    extended: Annotated[bool, "Draw the extended text of each prompt."] = False,
    extend: Annotated[bool, "Draw a single prompt as the training's captions would say it, by rules."] = False,
    steps: Annotated[int | None, "Sampling steps; the export's by default."] = None,
    guidance_scale: Annotated[float | None, "Guidance w; the export's by default."] = None,
    guidance_interval: tuple[float, float] | None = None,
    sampler: Annotated[str, "ddim, ddpm, dpmpp_2m, euler, heun, or your own: FILE.py:FUNCTION."] = "ddim",
    size: Annotated[
        str | None, "WIDTHxHEIGHT, of the sizes it was trained at; for --model the side, in pixels."
    ] = None,
    spacing: Literal["trailing"] | None = None,
    seed: Annotated[int, "Image k of prompt i is a function of (seed, i, k)."] = 0,
    batch_size: Annotated[int | None, "Images drawn at once; 32, or 4 with --model, by default."] = None,
    compute: Literal["fp32", "bf16"] = "fp32",
    compile: Annotated[bool, "Compile the network first: a minute at the start, then faster steps on a GPU."] = False,
    device: Device = None,
) -> None:
    """Draw images of one prompt, or of every prompt of a file in GenEval's folder layout; under torchrun, on many GPUs.

    Example: tessera generate export/ta_ia "a red circle" or, for a file, --prompts FILE --out samples/ta_ia

    Args:
        prompts: A .txt file with a prompt in each line; csv, tsv, json, jsonl or parquet with a column prompt, text
            or caption (another one: FILE:COLUMN); teaser, figure4 or geneval;
            coco:FILE or coco-30k:FILE (COCO's captions_*.json), dpg:FILE (csv); or a directory made by caption,
            prompts or extend-prompts.
        guidance_interval: Low and high t (0 clean, 1 noise) between which guidance acts; the export's by default,
            which is everywhere unless `tessera sweep` chose it.
        spacing: For --model: timesteps that start at the noisy end, where the pipeline's scheduler has such a spacing;
            its own by default.
        compute: Number format of the network. bf16 is several times faster on a GPU, twice on a CPU that has it;
            images differ a little.
    """
    given: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale, "seed": seed, "extended": extended}
    sizes = {"per_prompt": per_prompt, "batch_size": batch_size}
    given |= {name: value for name, value in sizes.items() if value is not None}
    if model is not None:
        if export is not None or prompts is None or out is None:
            raise UserError("--model needs --prompts and --out, without an export or a single prompt")
        if extend:
            raise UserError("--extend is in the style of an export's captions: leave it out with --model")
        if guidance_interval is not None or sampler != "ddim" or compile or compute != "fp32":
            raise UserError(
                "--model has its own sampler: leave out --sampler, --guidance-interval, --compute and --compile"
            )
        from tessera.generate.baselines import BaselineConfig, generate_baseline

        if generate_baseline(
            out, model, prompts, BaselineConfig(size=_side(size), spacing=spacing, **given), device=device
        ):
            say(out)
        return
    if export is None or spacing is not None:
        raise UserError("give an export, or --model with a diffusers pipeline, which alone takes --spacing")
    if prompt is None and prompts is None and not export.exists():
        export, prompt = _any_export(str(export)), str(export)
    export, source = the_export(export), prompts if prompt is None else [prompt]
    if extend:
        if prompt is None:
            raise UserError("--extend is for a single prompt; for a file: tessera extend-prompts, then --extended")
        source = [_in_style(export, prompt, seed)]
    if source is None or (prompts is not None and prompt is not None):
        raise UserError('give either a prompt, or --prompts with a file, "teaser" or "figure4"')
    from tessera.generate.folder import GenerateConfig
    from tessera.generate.folder import generate as generate_all

    given = {"per_prompt": 4 if prompt is None else 1} | given
    config = GenerateConfig(
        guidance_interval=guidance_interval, sampler=sampler, size=size, compute=compute, compile=compile, **given
    )
    made = generate_all(out, export, source, config, device=device)
    if made is None:
        return  # another rank completes it
    if prompt is None:
        say(made)
    else:
        say_files(sorted((made / "00000" / "samples").iterdir()))


def _in_style(export: Path, prompt: str, seed: int) -> str:
    """Return the prompt in the style of the captions that an export was trained on. UserError where it has none."""
    from tessera.prompts.style import extend_in_style
    from tessera.weights.export import read_settings

    seen = read_settings(export).captions
    if seen is None or not seen.examples:
        raise UserError(f"{export}: holds no captions of its training, which --extend needs; export the run again")
    text = extend_in_style(prompt, seen.examples, seed)
    print(f"generate: draws {text!r}", file=sys.stderr)
    return text


def _any_export(prompt: str) -> Path:
    """Return the only export nearby, for a command line that names none. Raises UserError for none or several."""
    found = find_exports(Path())
    if len(found) == 1:
        print(f"generate: draws {prompt!r} by {found[0]}", file=sys.stderr)
        return found[0]
    named = f"one of {', '.join(map(str, found))}" if found else "a directory made by `tessera export`"
    raise UserError(f"generate: {prompt!r} is no directory here; give an export before the prompt: {named}")


def _side(size: str | None) -> int | None:
    if size is not None and not size.isdecimal():
        raise UserError(f"size is {size!r}; with --model, give the side of the images in pixels, such as 512")
    return None if size is None else int(size)
