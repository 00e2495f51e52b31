"""What the verbs print: lines for people, or with `--json` one JSON object for scripts."""

import json
from collections.abc import Sequence
from pathlib import Path

FLAG = "--json"
"""Anywhere in the command line; `main` takes it out and sets `as_json`."""
as_json = False


def say(out: Path) -> None:
    """What a directory holds, by its manifest."""
    from tessera.files import read_manifest

    manifest = read_manifest(out)
    if as_json:
        facts = {"directory": str(out), "stage": manifest.stage, "counts": manifest.counts}
        print(json.dumps(facts | {"rejects": manifest.rejects, "facts": manifest.facts}))
        return
    counts = ", ".join(f"{number} {name}" for name, number in manifest.counts.items())
    print(f"{out}: {counts}")
    if manifest.rejects:
        print(f"{len(manifest.rejects)} rejected; the reasons stand in {out / 'manifest.json'}")


def say_report(page: Path) -> None:
    """Where a report is."""
    print(json.dumps({"report": str(page)}) if as_json else f"Report: {page}")


def say_files(paths: Sequence[Path]) -> None:
    """Files that were made, one a line."""
    if as_json:
        print(json.dumps({"files": [str(path) for path in paths]}))
        return
    for path in paths:
        print(path)
