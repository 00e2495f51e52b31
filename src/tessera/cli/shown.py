"""What the verbs print."""

from pathlib import Path


def say(out: Path) -> None:
    """What a directory holds, by its manifest."""
    from tessera.files import read_manifest

    manifest = read_manifest(out)
    counts = ", ".join(f"{number} {name}" for name, number in manifest.counts.items())
    print(f"{out}: {counts}")
    if manifest.rejects:
        print(f"{len(manifest.rejects)} rejected; the reasons stand in {out / 'manifest.json'}")
