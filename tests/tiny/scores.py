"""Scores of the miniature's judge, of the test's choice."""

from collections.abc import Mapping, Sequence
from typing import Any

from tessera.evaluate.intervals import task_numbers
from tessera.evaluate.miniature.evaluate import MEASURES
from tessera.evaluate.miniature.seam import VISIBLE
from tessera.evaluate.scores import Protocol, Scores
from tessera.prompts.geneval import TASKS


def judged(prompt: int, sample: int, tag: str, correct: bool, seam: float = 0.05, **values: float) -> dict[str, Any]:
    """Return the item of one image; values: color_score and so on, where it was so judged."""
    measured = {"seam": seam, "seam_visible": seam > VISIBLE, **values}
    measured |= {name: correct for name in ("overall", tag) if tag in TASKS}
    return {
        "prompt": prompt,
        "sample": sample,
        "file": f"{prompt:05d}/samples/{sample:04d}.png",
        "tag": tag,
        "values": {name: float(value) for name, value in measured.items()},
        "correct": correct,
        "reason": "expected something else",
    }


def miniature_scores(
    name: str,
    items: Sequence[Mapping[str, Any]],
    judge: Mapping[str, float] | None = None,
    extended: bool = False,
    **protocol: Any,
) -> Scores:
    """Return the scores of `items`, as `evaluate miniature` makes them."""
    about = {"metric": "miniature", "name": "geneval-miniature-2", "encoder_sha256": "0", "prompts_sha256": "0"}
    about |= {"images": len(items), "settings": {"extended": extended}, **protocol}
    facts = {"judge": dict(judge or {}), "images": len(items), "prompts": len({item["prompt"] for item in items})}
    numbers = task_numbers(items, MEASURES, Protocol(**about), TASKS.index)
    return Scores(kind="miniature", name=name, numbers=numbers, items=tuple(items), facts=facts)
