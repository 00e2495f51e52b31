"""Verbs from encoded records to usable weights: train and export."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from tessera.cli.options import Device, GuidanceScale, Networks, Out, Steps
from tessera.cli.output import say
from tessera.config import UserError


def train(
    preset: Annotated[str, "positional"],
    plain: Annotated[Path, "Directory made by encode."],
    out: Annotated[Path, "Run directory to make."],
    augmented: Annotated[Path | None, "Directory made by encode from a recipe."] = None,
    num_images: Annotated[int | None, "Samples to see in total, instead of the preset's."] = None,
    seed: Annotated[int | None, "Seed, instead of the preset's."] = None,
    tau: Annotated[Path | None, "Directory made by tau: each mix above its own noise, not the preset's tau."] = None,
    init: Annotated[Path | None, "Export to start from, or import-published's; at random by default."] = None,
    device: Device = None,
    device_batch_size: Literal["auto"] | int | None = None,
    gradient_checkpointing: Annotated[bool, "Keep less for the backward pass: a third of the memory, slower."] = False,
    compute: Literal["auto", "fp32", "bf16", "fp8", "fp8-first"] | None = None,
    objective: str | None = None,
    align_until_image: Annotated[int | None, "Images seen until which an objective aligns; all by default."] = None,
    adamw8bit: bool = False,
    compile: Literal["auto", "on", "off", "whole"] = "auto",
    shard: bool = False,
    shard_optimizer: bool = False,
    peak_tflops: float | None = None,
    wandb: Annotated[str | None, "Log to this project of Weights & Biases too."] = None,
    verify: Annotated[bool, "Compare the sets with their checksums first, which takes minutes for large ones."] = False,
    loader_threads: Annotated[int, "Threads that read records; more for a file system on a network."] = 2,
    resume: Annotated[bool, "Fail if there is no run to resume."] = False,
    extend: Annotated[bool, "Continue a run to a larger --num-images; its learning rate must be constant."] = False,
    cooldown_images: Annotated[int | None, "Images at the end over which a constant learning rate falls."] = None,
    fit: bool = False,
    caption_mix: str | None = None,
    caption_mix_start_image: Annotated[int | None, "Images seen before the mix begins; 0 by default."] = None,
    validation_records: Annotated[
        int | None, "Images held out, whose loss is measured, not the preset's number."
    ] = None,
    stop_after_no_gain: int | None = None,
    evaluate_every_images: int | None = None,
    evaluate_prompts: Annotated[str | None, "Prompts to draw, as for generate; the miniature brings its own."] = None,
    evaluate_extended: Annotated[bool, "Draw their extended texts."] = False,
    evaluate_reference: Annotated[Path | None, "Real images; of the miniature, its own judge judges."] = None,
    evaluate_metrics: tuple[str, ...] = (),
    evaluate_networks: Networks = (),
    evaluate_images: Annotated[int | None, "Images of each evaluation, one for each prompt; 1000 by default."] = None,
    evaluate_device: Annotated[str | None, "Where they are drawn and judged; the training's device by default."] = None,
    evaluate_wait: Annotated[bool, "Wait for the scores; by default the training continues meanwhile."] = False,
) -> None:
    """Train one arm of a preset on encoded sets (Algorithm 1); running again resumes from the last checkpoint.

    Example: tessera train miniature:ta_ia --plain encoded/plain --augmented encoded/mixed --out runs/ta_ia

    On all GPUs of a machine: torchrun --nproc-per-node gpu -m tessera.cli train ...; on several: runs/slurm.sh.

    Args:
        preset: PRESET:ARM, for example dit-i-l2:ta_ia, or FILE.py:FUNCTION that returns a TrainConfig.
        fit: Take the shapes of latents and texts, and the latents' normalization, from the set: for another VAE or text
            encoder than the preset's.
        device_batch_size: Samples in a forward pass on one device, whose gradients are added up to a step's: changes
            rounding alone. auto: as many as fit into memory, found by trying; the default on GPUs.
        compute: Precision, instead of the preset's: auto is bf16 where that is fast. fp8: FP8 in large layers (extra
            fp8; Ada, Hopper or later; emulated on a CPU); fp8-first: in those of CAD-I's first forward alone.
        objective: Loss, instead of the preset's: paper, balanced, self-aligned, feature-aligned, balanced-self-aligned,
            balanced-feature-aligned (docs/method.md), or FILE.py:NAME for one of yours.
        adamw8bit: For presets with AdamW: its two means of each weight in 2 bytes in place of 8 (extra fp8; not with
            --shard); steps differ by the rounding, so a run keeps it to its end.
        compile: Compile the blocks; auto: on a GPU, without --shard. whole: the network as one program, which takes
            minutes; steps on one GPU are expected to be faster, on several they exchange gradients after all others.
        shard: Split weights and optimizer over torchrun's processes, for networks that do not fit otherwise.
        shard_optimizer: Split optimizer and averages alone (ZeRO-1), which takes time and memory off many processes.
        caption_mix: Of images with several captions, probability of each level, such as long=0.7,short=0.3; by default
            the preset's.
        stop_after_no_gain: Images after the lowest loss of the EMA on held-out images at which the run ends.
        evaluate_every_images: Images between scores of what the averaged weights draw, by a process of its own, for
            log.jsonl and the boards; none by default.
        evaluate_metrics: Of those of evaluate quality; clip_score by default, with real images mind too, for the
            miniature its judge.
        peak_tflops: Dense bf16 peak of a GPU in TFLOP/s, of which the log gives the share reached; by default the data
            sheet's for the GPU's model, for example 989 for an H100 SXM or H200.
    """
    from tessera.devices import rank
    from tessera.encoded.store import open_encoded
    from tessera.presets.lookup import load_train_preset
    from tessera.pretrained.training import networks_of_training
    from tessera.train.config import RuntimeOptions
    from tessera.train.loop import train as train_all

    config = load_train_preset(
        preset,
        num_images=num_images,
        seed=seed,
        cooldown_images=cooldown_images,
        fit=plain if fit else None,
        caption_mix=caption_mix,
        caption_mix_start_image=caption_mix_start_image,
        validation_records=validation_records,
        stop_after_no_gain=stop_after_no_gain,
        compute=compute,
        objective=objective,
        align_until_image=align_until_image,
        adamw8bit=adamw8bit,
    )
    if tau is not None and not config.needs_seams:
        config = replace(config, augment_min_t="recipe")
    if config.augment_prob and augmented is None:
        raise UserError(f"train: {preset} trains on CutMix images too; give --augmented, a set encoded with --recipe")
    if num_images is not None and config.num_images != num_images and rank() == 0:
        whole = f"{config.num_images:,} images, whole batches of {config.batch_size}"
        print(f"train: --num-images {num_images} is rounded up to {whole}", file=sys.stderr)
    judge, judged = None, [evaluate_prompts, evaluate_extended, evaluate_reference, evaluate_metrics, evaluate_networks]
    if evaluate_every_images is not None:
        from tessera.study.trial import judge_options

        judge = judge_options(
            evaluate_every_images,
            prompts=evaluate_prompts,
            extended=evaluate_extended,
            reference=evaluate_reference,
            metrics=evaluate_metrics,
            networks=evaluate_networks,
            images=1000 if evaluate_images is None else evaluate_images,
            device=evaluate_device or device,
            threads=config.threads,
            wait=evaluate_wait,
        )
    elif any([*judged, evaluate_images is not None, evaluate_device, evaluate_wait]):
        raise UserError(
            "train: --evaluate-... options need --evaluate-every-images, the images between two evaluations"
        )
    stores = [open_encoded(path) for path in (plain, augmented) if path is not None]
    latents, text = (stores[0].facts.get(kind) for kind in ("latent_codec", "text_encoder"))
    draws = config.sample_every_images is not None
    encode_text, decode = networks_of_training(stores, latents, text, device, draws=draws)
    if rank() == 0:
        _say_arm(preset.rpartition(":")[2], plain)
    runtime = RuntimeOptions(
        device_batch_size=device_batch_size,
        gradient_checkpointing=gradient_checkpointing,
        compile={"auto": None, "on": True, "off": False, "whole": "whole"}[compile],
        shard=shard,
        shard_optimizer=shard_optimizer,
        peak_tflops=peak_tflops,
        wandb=wandb,
        verify=verify,
        loader_threads=loader_threads,
        encode_text=encode_text,
        decode=decode,
        content_hash=_content_hash,
        judge=judge,
    )
    train_all(out, plain, augmented, config, resume, device, init, runtime, extend, tau)
    if rank() == 0:  # which completes the directory, after the others have ended
        say(out)


def _say_arm(arm: str, plain: Path) -> None:
    """Say so where the captions are not those of the arm's name: such a run is recorded as what it is."""
    from tessera.stages import read_manifest

    base, found = arm.removesuffix("_ia"), read_manifest(plain, "encode").facts.get("captioner")
    if base in ("aio", "ta") and (base == "aio") != (found == "aio"):
        own = arm.replace(base, "aio" if found == "aio" else "ta", 1)
        print(f"train: {plain} has captions by {found}: this trains the arm {own}, not {arm}", file=sys.stderr)


def _content_hash(kind: str, model: str) -> str | None:
    """Return the hash of the files of a latent_codec or text_encoder; None if they are not on this machine."""
    from tessera.hub import content_hash
    from tessera.pretrained.text_encoders import TEXT_FILES
    from tessera.pretrained.vae import VAE_FILES

    return content_hash(model, VAE_FILES if kind == "latent_codec" else TEXT_FILES)


def export(
    run: Annotated[Path, "positional", "Directory made by train."],
    out: Out,
    weights: Annotated[Literal["ema", "online"], "The EMA weights or the last ones."] = "ema",
    best: Annotated[bool, "The EMA weights with the lowest loss on held-out images, not those of the end."] = False,
    guidance_scale: GuidanceScale = 3.0,
    steps: Steps = 250,
    clip_denoised: Annotated[float | None, "Limit of predicted latents' absolute value; training's by default."] = None,
    single_file: Annotated[bool, "Also write OUT.safetensors: weights and configuration in one file."] = False,
) -> None:
    """Turn a run into usable weights; of one that is not finished, the weights so far.

    Example: tessera export runs/ta_ia --out export/ta_ia --steps 25
    """
    from tessera.stages import read_manifest
    from tessera.train import export as stage

    if best and weights != "ema":
        raise UserError("export: --best means EMA weights; leave out --best or --weights online")
    config = stage.ExportConfig(
        weights="best" if best else weights,
        guidance_scale=guidance_scale,
        sampling_steps=steps,
        clip_denoised=clip_denoised,
    )
    stage.export(out, run, config, unfinished=True)
    if (planned := read_manifest(out).facts.get("unfinished")) is not None:
        seen = read_manifest(out).counts["num_images"]
        print(f"export: {run} is unfinished: it has seen {seen:,} of {planned:,} images", file=sys.stderr)
    if single_file:
        from tessera.weights.export import save_single_file

        save_single_file(out, out.with_name(f"{out.name}.safetensors"))
    say(out)
