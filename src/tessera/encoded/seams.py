"""The borders of augmented records, and the noise from which on nothing shows them: seams.parquet, of `tessera tau`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tessera.config import UserError, compare
from tessera.encoded.store import EncodedStore
from tessera.files import read_table, write_table
from tessera.stages import Manifest, read_manifest

SEAMS = "seams.parquet"
TIMES = tuple(n / 20 for n in range(20))
"""The t that a min_t can be, and at which borders are asked for; 1 = never hidden."""
COLUMNS = ("key", "pattern", "left", "top", "right", "bottom", "min_t")


@dataclass(frozen=True, eq=False)
class Seams:
    """The borders of n augmented records, in the order of their set."""

    keys: list[str]
    patterns: list[str]
    boxes: np.ndarray
    """(n, 4) int32: left, top, right, bottom in pixels; right and bottom exclusive."""
    min_t: np.ndarray
    """(n,) float64 in [0, 1]: the record is used above this t; 1 = never."""

    def select(self, rows: Sequence[int]) -> "Seams":
        """Return those of the records at `rows`."""
        keys, patterns = ([each[row] for row in rows] for each in (self.keys, self.patterns))
        return Seams(keys, patterns, self.boxes[rows], self.min_t[rows])


def write_seams(directory: Path, seams: Seams) -> None:
    """Write `directory`/seams.parquet."""
    import pyarrow as pa

    columns = [seams.keys, seams.patterns, *seams.boxes.T.copy(), seams.min_t]
    write_table(Path(directory) / SEAMS, pa.table(columns, names=list(COLUMNS)))


def read_seams(directory: Path, augmented: EncodedStore, training: dict[str, Any], by: float | str) -> Seams:
    """Return the seams of the records of `augmented` from a directory of `tessera tau`.

    training: noise_schedule, latent_shift and latent_scale, which must be those of the directory. by: a number for all
    records in place of their own, "recipe" for their own, "pattern" for that of their pattern. Raises UserError for
    another set, other values, and "pattern" of a recipe of one.
    """
    manifest = read_manifest(directory, "tau")
    made, given = manifest.inputs["augmented"], augmented.manifest
    if given is not None and made != given.sha256:
        raise UserError(f"{directory}: is of another set than {augmented.directory}; run `tessera tau` on this one")
    if pairs := compare({name: manifest.config[name] for name in training}, training):
        said = "; ".join(f"{name} is {there} there, {here} in the training" for name, there, here in pairs)
        raise UserError(f"{directory}: {said}; run `tessera tau` again, with the preset that is trained")
    table = read_table(Path(directory) / SEAMS, COLUMNS)
    keys, patterns, *box, min_t = (column.to_pylist() for column in table.columns)
    seams = Seams(keys, patterns, np.array(box, np.int32).T, np.array(min_t))
    if keys != augmented.keys():
        raise UserError(f"{directory}: its records are not those of {augmented.directory}; delete it and run it again")
    if by == "recipe":
        return seams
    own = _of_patterns(directory, seams, manifest) if by == "pattern" else np.full(len(keys), by, np.float64)
    return replace(seams, min_t=own)


def _of_patterns(directory: Path, seams: Seams, manifest: Manifest) -> np.ndarray:
    """Return the t of each record's pattern (n,)."""
    found = {name: facts["min_t"] for name, facts in manifest.facts["patterns"].items()}
    if len(found) == 1:
        ((name, min_t),) = found.items()
        raise UserError(
            f"{directory}: has one pattern, {name}, so augment_min_t by it is one number; give {min_t:g}, or recipe"
        )
    return np.array([found[name] for name in seams.patterns])
