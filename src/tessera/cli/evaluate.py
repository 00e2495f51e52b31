"""The verbs that judge pictures, and the report."""

from pathlib import Path
from typing import Annotated

from tessera.cli.shown import say


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
    say(out)


def miniature(samples: Annotated[Path, "positional"], out: Path) -> None:
    """Judges pictures of the miniature: six tasks, colours, seams, with intervals beside the judge's own accuracy.

    Example: tessera evaluate miniature samples/ta_ia --out scores/ta_ia

    Args:
        samples: Directory made by generate from the judge's prompts.
        out: Directory to make.
    """
    from tessera.evaluate.miniature import EvaluateConfig
    from tessera.evaluate.miniature import evaluate as evaluate_all

    evaluate_all(out, samples, EvaluateConfig())
    say(out)


def geneval(
    out: Path,
    detector: str,
    samples: Path | None = None,
    extended_samples: Path | None = None,
    clip: str = "openai/clip-vit-large-patch14",
    seed: int = 0,
    device: str | None = None,
) -> None:
    """GenEval of pictures of its prompts, original and extended side by side (Table 2); under torchrun, on many GPUs.

    Example: tessera evaluate geneval --samples samples/short --extended-samples samples/long --detector F --out scores

    Args:
        out: Directory to make; running again goes on where it stopped.
        detector: mmdetection's mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco .pth, or a folder of transformers.
        samples: Directory made by generate from --prompts geneval; 4 pictures of each prompt are usual.
        extended_samples: The same with --extended.
        clip: CLIP ViT-L/14 of the Hub or of a folder, which names the colours.
        seed: Seed of the intervals' bootstrap.
        device: cuda, mps or cpu; the best there is by default.
    """
    from tessera.evaluate.geneval_table import GenEvalConfig, evaluate_geneval

    config = GenEvalConfig(detector=detector, clip=clip, seed=seed)
    if evaluate_geneval(out, samples, config, extended=extended_samples, device=device):
        say(out)


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
