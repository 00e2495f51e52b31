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
