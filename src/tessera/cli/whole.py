"""run: every stage in one call."""

from pathlib import Path
from typing import Annotated


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
