#!/usr/bin/env bash
# Version:  embedding-reader 1.8.1 (npy and parquet_npy), pandas 2.3.3, numpy 2.4.6
# Guess:    EmbeddingReader gives the rows that were saved: a .npy file says itself how its array is stored, and
#           numpy.load, of the same file, gives what numpy.save was given.
# Behavior: The reader takes the shape from a file's header and leaves out fortran_order. numpy.save writes an array
#           column by column if it lies so in memory, as to_numpy() of a table and the transpose of an array do. Of such
#           a file each row that is read is made of values of one column: there are as many vectors as before, of the
#           same length and type, but they have nothing to do with the images, and an index or a search for duplicates
#           finds others. The number format is taken from the first file, for all: a float32 file after a float16 one is
#           read as float16. No error and no warning. numpy.ascontiguousarray before numpy.save, and one format in
#           a folder, are right.
# Output:   the mean cosine of 1,000 unit vectors, in files of 500, to those that numpy.load and the reader give, and
#           (in parentheses) the share of rows whose nearest vector is their own; see the lines after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet embedding-reader==1.8.1 pandas==2.3.3 pyarrow==26.0.1 fsspec==2026.9.0 \
	numpy==2.4.6 >/dev/null
cat >"$folder/try.py" <<'PY'
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from embedding_reader import EmbeddingReader

vectors = np.random.default_rng(0).normal(size=(1000, 64)).astype("float32")
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
halves = vectors[:500], vectors[500:]


def compare(read):
    """Return how the vectors that were read compare to those that were saved."""
    read = np.nan_to_num(read.astype("float64"))
    cosines = read @ vectors.T / np.maximum(np.linalg.norm(read, axis=1, keepdims=True), 1e-12)
    nearest = (cosines.argmax(axis=1) == np.arange(1000)).sum()
    return f"{abs(cosines.diagonal().mean()):.1f} ({nearest / 10:.0f}%)"


def report(said, arrays):
    folder = Path(sys.argv[1]) / said
    (folder / "tables").mkdir(parents=True)
    for i, array in enumerate(arrays):
        np.save(folder / f"{i}.npy", array)
        pd.DataFrame({"caption": ["a caption"] * len(array)}).to_parquet(folder / f"tables/{i}.parquet")
    loaded = np.concatenate([np.load(folder / f"{i}.npy") for i in range(len(arrays))])
    print(f"{said}: numpy.load {compare(loaded)}", end="")
    for kind, options in {
        "npy": {},
        "parquet_npy": {"metadata_folder": str(folder / "tables"), "meta_columns": ["caption"]},
    }.items():
        reader = EmbeddingReader(str(folder), file_format=kind, **options)
        read = np.concatenate([batch for batch, _ in reader(batch_size=100, show_progress=False)])
        print(f", {kind} {compare(read)}", end="")
    print()


report("as computed", halves)
report("to_numpy of a table", [pd.DataFrame({str(i): half[:, i] for i in range(64)}).to_numpy() for half in halves])
report("transpose of (64, 500)", [np.ascontiguousarray(half.T).T for half in halves])
report("transpose, made contiguous", [np.ascontiguousarray(np.ascontiguousarray(half.T).T) for half in halves])
report("float16", [half.astype("float16") for half in halves])
report("float16 and float32", [halves[0].astype("float16"), halves[1]])
PY
cat >"$folder/expected" <<'OUT'
as computed: numpy.load 1.0 (100%), npy 1.0 (100%), parquet_npy 1.0 (100%)
to_numpy of a table: numpy.load 1.0 (100%), npy 0.0 (0%), parquet_npy 0.0 (0%)
transpose of (64, 500): numpy.load 1.0 (100%), npy 0.0 (0%), parquet_npy 0.0 (0%)
transpose, made contiguous: numpy.load 1.0 (100%), npy 1.0 (100%), parquet_npy 1.0 (100%)
float16: numpy.load 1.0 (100%), npy 1.0 (100%), parquet_npy 1.0 (100%)
float16 and float32: numpy.load 1.0 (100%), npy 0.5 (50%), parquet_npy 0.5 (50%)
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" "$folder/arrays" 2>/dev/null | diff "$folder/expected" - &&
	echo "as found"
