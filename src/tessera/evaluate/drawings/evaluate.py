"""evaluate drawings: judge images of a set of drawings by a judge of its own concepts (`judge`), by GenEval's rules."""

from pathlib import Path

import numpy as np

from tessera.devices import set_threads, usual_defaults
from tessera.evaluate.drawings.judge import COLORS, WEIGHTS, load_judge
from tessera.evaluate.geneval import verdict as geneval
from tessera.evaluate.intervals import task_numbers
from tessera.evaluate.miniature.evaluate import check_lines, judged_item
from tessera.evaluate.samples import read_samples, read_square
from tessera.evaluate.scores import Scores, write_scores
from tessera.prompts.geneval import TASKS
from tessera.prompts.miniature import prompts_sha256
from tessera.stages import open_stage

METRIC = "geneval-drawings-2"
"""Name of the protocol; a change to any rule of the judge changes it."""


@usual_defaults
def evaluate_drawings(out: Path, samples: Path, judge: Path, threads: int | None = None) -> None:
    """Judge the directory `samples` (of `generate`) by the directory `judge` and write `out`/scores.json.

    The facts hold how often the judge itself is right. threads: of the CPU, None = torch's own choice. Raises UserError
    for a directory that misses images, a prompt that the judge does not know, images of different sizes.
    """
    out, folder = Path(out), read_samples(samples)
    stage = open_stage(out, stage="evaluate", config={"metric": METRIC}, inputs={"samples": samples, "judge": judge})
    if stage.done:
        return
    set_threads(threads)
    known = load_judge(judge)
    check_lines(folder, known.concepts, COLORS)
    images = [(prompt, k) for prompt in range(len(folder.lines)) for k in range(folder.per_prompt)]
    size = len(read_square(folder.image(0, 0)))
    pixels = np.stack([read_square(folder.image(*image), size) for image in images])  # (N, S, S, 3)
    items = [judged_item(folder, *each) for each in zip(images, known.find(pixels))]
    protocol = folder.protocol(
        metric="drawings",
        name=METRIC,
        encoder=WEIGHTS,
        encoder_sha256=known.sha256,
        prompts_sha256=prompts_sha256([{k: v for k, v in line.items() if k != "text"} for line in folder.lines]),
        settings={
            "extended": folder.extended,
            "min_score": geneval.MIN_SCORE,
            "min_score_counting": geneval.MIN_SCORE_COUNTING,
        },
    )
    name = out.parent.name if out.name in ("short", "extended") else out.name
    counts = {"images": len(images), "prompts": len(folder.lines)}
    numbers = task_numbers(items, ("overall", *TASKS), protocol, TASKS.index)
    facts = {"judge": known.accuracy, **counts}
    write_scores(out, Scores(kind="drawings", name=name, numbers=numbers, items=tuple(items), facts=facts))
    stage.finish(counts)
