"""The verbs from encoded records to usable weights."""

from pathlib import Path
from typing import Annotated, Literal

from tessera.cli.shown import say


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
    say(out)


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
        clip_denoised: Largest absolute value of the predicted latents; by default what the training latents reach.
    """
    from tessera.train.export import ExportConfig
    from tessera.train.export import export as export_all

    config = ExportConfig(
        weights=weights, guidance_scale=guidance_scale, sampling_steps=steps, clip_denoised=clip_denoised
    )
    export_all(out, run, config)
    say(out)
