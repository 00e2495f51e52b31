"""The verbs from usable weights to pictures."""

from pathlib import Path
from typing import Annotated, Literal

from tessera.cli.output import say, say_files
from tessera.config import UserError


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
    from tessera.weights.import_published import ImportConfig
    from tessera.weights.import_published import import_published as import_all

    config = ImportConfig(
        coherence=coherence, guidance_scale=guidance_scale, sampling_steps=steps, clip_denoised=clip_denoised
    )
    import_all(out, source, config, null_condition=null_condition)
    say(out)


def generate(
    export: Annotated[Path | None, "positional"] = None,
    prompt: Annotated[str | None, "positional"] = None,
    prompts: str | None = None,
    model: str | None = None,
    out: Path | None = None,
    per_prompt: int | None = None,
    extended: bool = False,
    steps: int | None = None,
    guidance_scale: float | None = None,
    guidance_interval: tuple[float, float] | None = None,
    sampler: Literal["ddim", "ddpm", "dpmpp_2m"] = "ddim",
    size: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    compute: Literal["fp32", "bf16"] = "fp32",
    compile: bool = False,
    device: str | None = None,
) -> None:
    """Pictures of one prompt, or of every prompt of a file in GenEval's folder layout; under torchrun, on many GPUs.

    Example: tessera generate export/ta_ia "a red circle" or, for a file, --prompts FILE --out samples/ta_ia

    Args:
        export: Directory made by export.
        prompt: One prompt; prints where its pictures are.
        prompts: A .txt file with a prompt in each line, or .jsonl with "prompt"; teaser, figure4 or geneval;
            coco:FILE or coco-30k:FILE (COCO's captions_*.json), dpg:FILE (csv); or a directory made by caption.
        model: In place of an export, another text-to-image model: a diffusers pipeline of the Hub, or a folder of one.
        out: Directory to make; a fresh one below samples/ by default.
        per_prompt: Pictures of each prompt; 4 for a file, 1 for a prompt by default.
        extended: Draw the extended text of each prompt.
        steps: Sampling steps; the export's by default.
        guidance_scale: Guidance w; the export's by default.
        guidance_interval: Low and high t (0 clean, 1 noise) between which guidance acts; everywhere by default.
        sampler: How the noise is taken away.
        size: For --model: side of the pictures in pixels; the pipeline's own by default.
        seed: Picture k of prompt i is a function of (seed, i, k).
        batch_size: Pictures drawn at once; 32, or 4 with --model, by default.
        compute: What the network computes in. bf16 is several times faster on a GPU, twice on a CPU that has it;
            pictures differ a little.
        compile: Compile the network first: a minute at the start, then faster steps on a GPU.
        device: cuda, mps or cpu; the best there is by default.
    """
    from tessera.generate.folder import GenerateConfig, fresh_folder
    from tessera.generate.folder import generate as generate_all

    if model is not None:
        if export is not None or prompts is None or out is None:
            raise UserError("--model needs --prompts and --out, and no export and no single prompt beside it")
        if guidance_interval is not None or sampler != "ddim" or compile or compute != "fp32":
            raise UserError(
                "--model has its own sampler: leave out --sampler, --guidance-interval, --compute and --compile"
            )
        from tessera.generate.baselines import PeerConfig, generate_peer

        peer = PeerConfig(
            per_prompt=4 if per_prompt is None else per_prompt,
            seed=seed,
            steps=steps,
            guidance_scale=guidance_scale,
            size=size,
            extended=extended,
            batch_size=4 if batch_size is None else batch_size,
        )
        if generate_peer(out, model, prompts, peer, device=device):
            say(out)
        return
    if export is None or size is not None:
        raise UserError("give an export, or --model with a diffusers pipeline, which alone takes --size")
    source = prompts if prompt is None else [prompt]
    if source is None or (prompts is not None and prompt is not None):
        raise UserError('give either a prompt, or --prompts with a file, "teaser" or "figure4"')
    config = GenerateConfig(
        per_prompt=per_prompt if per_prompt is not None else 4 if prompt is None else 1,
        extended=extended,
        steps=steps,
        guidance_scale=guidance_scale,
        guidance_interval=guidance_interval,
        sampler=sampler,
        seed=seed,
        batch_size=32 if batch_size is None else batch_size,
        compute=compute,
        compile=compile,
    )
    out = out or fresh_folder(Path("samples"), export, source, config)
    if not generate_all(out, export, source, config, device=device):
        return  # another rank completes it
    if prompt is None:
        say(out)
    else:
        say_files(sorted((out / "00000" / "samples").iterdir()))
