"""fetch-captions: the texts in a data set of tars on the Hub, without its images.

A WebDataset of terabytes has kilobytes of text next to each image. Of its tars only the headers and the `.txt` entries
are read, by HTTP range requests, several tars at a time. Each tar gives a part, whole or not at all; captions.parquet
joins them, for `tessera caption --captioner import`.
"""

import itertools
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, cast

from tessera.config import UserError
from tessera.curate.caption.table import CAPTIONS_TABLE
from tessera.curate.collect.tars import entries_in
from tessera.files import read_table, write_table, writing_rows
from tessera.hub import RemoteFile, list_dataset
from tessera.progress import progress
from tessera.stages import open_stage

SUFFIX = ".txt"
PARTS = "parts"
TRIED = 200
"""Number of entries of the first tar by which the bytes to read are estimated."""
THREADS = 16
"""Number of tars that are read at a time: each waits for one small answer after another."""


def fetch_captions(out: Path, dataset: str) -> None:
    """Make `out`/captions.parquet (key, text) of the tars of the Hub's data set OWNER/NAME; an interrupted call is
    resumed with the tars that are missing.

    A key is the entry's name without `.txt`, after its tar's where two tars have entries of one name. Texts that are
    not UTF-8 are the manifest's rejects. How many bytes will be read is said first. Raises UserError for a data set
    that cannot be had or has no tars or no texts in them, and a damaged tar.
    """
    out, (commit, sizes) = Path(out), list_dataset(dataset)
    repository = dataset.partition("@")[0]
    tars = sorted(file for file in sizes if file.endswith(".tar"))
    if not tars:
        raise UserError(f"{dataset}: has no tars; its tables: tessera caption --captioner import --file {dataset}")
    stage = open_stage(out, stage="fetch-captions", config={"dataset": repository, "commit": commit})
    if stage.done:
        return
    parts = {tar: out / PARTS / f"{number:06d}.parquet" for number, tar in enumerate(tars)}
    todo = [tar for tar in tars if not parts[tar].exists()]
    if todo:
        share = _share_of_texts(RemoteFile(repository, todo[0], commit, sizes[todo[0]]))
        left = sum(sizes[tar] for tar in todo)
        said = f"about {share * left / 1e9:.2g} GB of {left / 1e9:.4g} GB in {len(todo)} tars"
        print(f"fetch-captions: reads {said}", file=sys.stderr)

    def work(tar: str) -> None:
        _read_texts(RemoteFile(repository, tar, commit, sizes[tar]), parts[tar])

    with ThreadPoolExecutor(THREADS) as pool, progress("fetch-captions", len(tars), "tars") as bar:
        bar.advance(len(tars) - len(todo))
        try:
            for _ in pool.map(work, todo):
                bar.advance(1)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    import pyarrow as pa

    names = [key for tar in tars for key in read_table(parts[tar], ["key"])["key"].to_pylist()]
    repeat = len(set(names)) < len(names)
    text, count, rejects = pa.string(), 0, {}
    with writing_rows(out / CAPTIONS_TABLE, pa.schema([("key", text), ("text", text)])) as write:
        for tar in tars:
            table = read_table(parts[tar]).to_pydict()
            rows = [*zip(table["key"], table["text"])]
            rejects |= {f"{tar}/{key}": "its text is not UTF-8" for key, told in rows if told is None}
            good = [(f"{tar}/{key}" if repeat else key, told) for key, told in rows if told is not None]
            write(good)
            count += len(good)
    if not count:
        raise UserError(f"{dataset}: its {len(tars)} tars have no {SUFFIX} entries, so no captions")
    stage.finish({"captions": count, "tars": len(tars)}, rejects)


def _share_of_texts(file: RemoteFile) -> float:
    """Return the share of a tar's bytes that reading its texts takes, by its first entries."""
    reached = 0
    for name, start, size in itertools.islice(_entries(file), TRIED):
        if name.endswith(SUFFIX):
            file.seek(start)
            file.read(size)
        reached = start + max(size, 0)
    return min(1.0, file.bytes_read / max(reached, 1))


def _read_texts(file: RemoteFile, part: Path) -> None:
    keys, texts = [], []
    for name, start, size in _entries(file):
        if not name.endswith(SUFFIX) or size < 0:
            continue
        file.seek(start)
        keys.append(name.removeprefix("./").removesuffix(SUFFIX))
        try:
            texts.append(file.read(size).decode().strip())
        except UnicodeDecodeError:
            texts.append(None)
    write_table(part, {"key": keys, "text": texts})


def _entries(file: RemoteFile):
    try:
        yield from entries_in(cast(BinaryIO, file), file.size, file.name)
    except tarfile.TarError as error:
        raise UserError(f"{file.name}: is not a whole tar file: {error}") from error
