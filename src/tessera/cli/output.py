"""Output of the verbs: lines for people, or with `--json` one JSON object for scripts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FLAG = "--json"
"""Anywhere in the command line; `main` takes it out and sets `as_json`."""
as_json = False


def say(out: Path, text: str = "", **more: Any) -> None:
    """Print what a directory holds, by its manifest; then `text` for people, or `more` in the object for scripts."""
    from tessera.stages import read_manifest

    manifest = read_manifest(out, must_be_complete=False)
    if not manifest.complete:
        told = f"{out}: the shards of this part are done; the call that ends last completes the directory"
        say_this(told, directory=str(out), complete=False)
        return
    if as_json:
        facts = {"directory": str(out), "stage": manifest.stage, "counts": manifest.counts}
        print(json.dumps(facts | {"rejects": manifest.rejects, "facts": manifest.facts} | more))
        return
    counts = ", ".join(f"{number} {name}" for name, number in manifest.counts.items())
    print(f"{out}: {counts}")
    if manifest.rejects:
        print(f"{len(manifest.rejects)} rejected; the reasons are in {out / 'manifest.json'}")
    if text:
        print(text)


def say_this(text: str, **facts: Any) -> None:
    """Print `text` for people, `facts` for scripts."""
    print(json.dumps(facts) if as_json else text)


def say_report(page: Path, text: str = "", **more: Any) -> None:
    """Print `text` and the place of a report for people, `more` in the object for scripts."""
    say_this(f"{text}\nReport: {page}" if text else f"Report: {page}", report=str(page), **more)


def say_scores(out: Path) -> None:
    """Print the numbers of a scores.json, each with its interval or the reason for none."""
    from tessera.evaluate.scores import notes, read_scores
    from tessera.report.tables import Cell, add_labels, label

    scores = read_scores(out)
    add_labels(scores)
    numbers = scores.numbers
    fields = ("metric", "value", "low", "high", "interval", "n")
    say(out, numbers=[{name: getattr(number, name) for name in fields} for number in numbers], notes=notes(scores))
    if as_json:
        return
    cells = [(label(n.metric)[:-2], Cell(n.value, n.low, n.high, n.interval or "")) for n in numbers]
    width = max((len(name) for name, _ in cells), default=0)
    for name, cell in cells:
        print(f"  {name:{width}}  {cell.text():>8}  {cell.interval() or cell.how.replace('none:', 'no interval:')}")
    for note in notes(scores):
        print(f"  {note}")


def say_files(paths: Sequence[Path]) -> None:
    """Print the files that were made, one a line."""
    files = [str(path) for path in paths]
    say_this("\n".join(files), files=files)
