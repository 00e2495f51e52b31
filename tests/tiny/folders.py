"""Contents of folders, to compare them byte by byte."""

from pathlib import Path


def tree(directory: Path) -> dict[str, bytes]:
    """Return the bytes of every file below `directory`, by its path there."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}
