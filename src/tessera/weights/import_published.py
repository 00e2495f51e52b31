"""The published CAD-I weights as an export, so that `tessera generate` draws with them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tessera.config import UserError, check_ranges, to_dict
from tessera.files import sha256_file
from tessera.hub import CONFIG_FILE
from tessera.pretrained.text_encoders import load_text_encoder
from tessera.stages import find_stage, open_stage
from tessera.weights.export import WEIGHTS_FILE, ExportInfo, save_export
from tessera.weights.published import load_published, published_folder

LATENT_CODEC = "stabilityai/sd-vae-ft-ema"
"""The VAE that encoded the training images, and that decodes."""
VAE_FACTOR = 8
"""Pixels per latent, along each side."""


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """The coherence token, and the sampling defaults that the published files do not hold."""

    coherence: bool = False
    """Keep the coherence token, as the published pipeline does; the paper's model was trained without it."""
    guidance_scale: float = 9.0
    """w in uncond + w (cond - uncond), finite; 1 = off. The published pipeline's 8 is added to 1 here."""
    sampling_steps: int = 250
    """DDIM steps, at least 1; the paper's is 250."""
    clip_denoised: float = 3.3
    """Largest absolute value of a predicted x0 in normalized latents, > 0. The default is |mean| + 3 std of the widest
    of the VAE's four channels, (5.81 + 3 * 4.17) * 0.18215; the published pipeline's 1.0 cuts a third of the values."""

    def __post_init__(self) -> None:
        check_ranges(self, sampling_steps="[1, inf)", clip_denoised="(0, inf)", guidance_scale="(-inf, inf)")


def import_published(
    out: Path,
    path_or_repo: str | Path,
    config: ImportConfig = ImportConfig(),
    *,
    null_condition: Path | None = None,
) -> None:
    """Write the published weights of a folder or Hugging Face repository to `out`, as `tessera export` would.

    null_condition: a .npy file with the encoding of the empty text by the text encoder, (1, D) floats (for
    google/flan-t5-xl it is the encoder's state of its token 1 alone, D = 2048); None = computed with that encoder.
    Does nothing where that was done. Raises UserError for weights that are not exactly the published class's.
    """
    folder = published_folder(path_or_repo)
    given = None if null_condition is None else _read_array(null_condition)
    network, metadata = load_published(folder, config.coherence)
    described = to_dict(config) | {
        "source": Path(path_or_repo).resolve().name if Path(path_or_repo).is_dir() else str(path_or_repo),
        "sha256": {name: sha256_file(folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE)},
        "null_condition": None if given is None else hashlib.sha256(given.tobytes()).hexdigest(),
    }
    stage = find_stage(Path(out), stage="export", config=described)
    if stage is not None and stage.done:
        return
    width, encoder = network.config.text_width, metadata["text_encoder"]
    try:
        null = load_text_encoder(encoder).null_condition if given is None else given  # (1, D)
    except UserError as error:
        raise UserError(
            f"null_condition: {encoder} cannot encode the empty text here ({error}); give its encoding as a file: "
            "--null-condition FILE.npy"
        ) from error
    if null.shape != (1, width) or not np.isfinite(null).all():
        what = null_condition or f"the empty text by {encoder}"
        raise UserError(f"{what}: must be finite numbers of shape (1, {width}), it has shape {null.shape}")
    stage = open_stage(Path(out), stage="export", config=described)
    info = ExportInfo(
        noise_schedule=metadata["noise_schedule"],
        prediction=metadata["prediction"],
        latent_codec=LATENT_CODEC,
        latent_scale=(metadata["latent_scale"],),
        text_encoder=encoder,
        image_size=VAE_FACTOR * network.config.latent_size,
        guidance_scale=config.guidance_scale,
        sampling_steps=config.sampling_steps,
        clip_denoised=config.clip_denoised,
        null_condition=torch.from_numpy(null),
    )
    save_export(out, network, info)
    stage.finish(
        counts={"parameters": network.parameter_count, "tensors": metadata["tensors"]},
        facts={"has_coherence": metadata["has_coherence"]},
    )


def _read_array(path: Path) -> NDArray[np.float32]:
    try:
        return np.ascontiguousarray(np.load(path, allow_pickle=False), dtype=np.float32)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise UserError(f"{path}: is not a .npy file of numbers; save it with numpy.save") from error
