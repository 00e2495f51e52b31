"""tessera: train your own text-to-image model on a small, curated, labeled image set."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from tessera.generate.diffusers.pipeline import TesseraPipeline

__version__ = "0.1.0"


def load_pipeline(
    path_or_repo: "str | Path", device: "str | torch.device | None" = None, dtype: "torch.dtype | None" = None
) -> "TesseraPipeline":
    """Return a trained model as a diffusers pipeline: `tessera.load_pipeline("export/ta_ia")("a red fox").images[0]`.

    path_or_repo: a folder of `tessera export` or its single file, a folder of the pipeline's `save_pretrained`, or a
    Hub repository owner/name with the files of either folder. device: None = the best there is. dtype of the weights:
    None = float32.
    Raises UserError for what is none of these, or where the extra `hub` is not installed.
    """
    from tessera.extras import require

    require("diffusers", "hub", "load_pipeline")
    from tessera.generate.diffusers import pipeline

    return pipeline.load_pipeline(path_or_repo, device, dtype)
