"""Captions by a captioner that looks at the pictures, shard by shard, resumable (paper section 3.1 and appendix B).

A shard of pictures gives one part file below `parts/`, whole or not at all. Once all are there they are joined, in the
set's order. Captions that a server has given stand in the shard's journal, a line each, until its part is written: what
was answered is never asked again.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from tessera.config import UserError
from tessera.curate.index import Composer, Entry
from tessera.files import read_table, write_table
from tessera.pretrained.captioner.llava import Llava, Question, make_question, prompt_of
from tessera.pretrained.captioner.server import Server
from tessera.progress import progress
from tessera.workers import Engine, run_shards

PARTS = "parts"
SHARD = 256
"""Pictures in a part: what a killed process may have to do again."""
_COLUMNS = ("key", "text", "prompt")


@dataclass(frozen=True)
class Part:
    """A shard of the work."""

    path: Path
    jobs: list[Entry]


def make_captions(
    out: Path, jobs: Sequence[Entry], prepare: Callable[[], Callable[[Part], int]], engine: Engine, joined: Path
) -> pa.Table | None:
    """The captions of `jobs` in their order, columns key, text and prompt.

    None while other parts of an array job lack, or when another task has joined them all in the file `joined` since.

    `prepare` makes the work of a part (`llava_work`, `server_work`), which returns how many captions it wrote.
    """
    starts = range(0, len(jobs), SHARD)
    parts = [
        Part(out / PARTS / f"captions-{number:05d}.parquet", list(jobs[start : start + SHARD]))
        for number, start in enumerate(starts)
    ]
    index, count = engine.part or (0, 1)
    mine = parts[index::count]
    todo = [part for part in mine if not part.path.exists()]
    if joined.exists():
        return None
    total, left = (sum(len(part.jobs) for part in some) for some in (mine, todo))
    with progress("caption", total, completed=total - left) as bar, run_shards(prepare, todo, engine) as results:
        for done in results:
            bar.advance(done)
    if not all(part.path.exists() for part in parts):
        return None
    try:
        return pa.concat_tables([read_table(part.path, _COLUMNS) for part in parts])
    except UserError:
        if joined.exists():
            return None
        raise


def clear_parts(out: Path) -> None:
    """Removes what only served to go on. After captions.parquet is written."""
    shutil.rmtree(out / PARTS, ignore_errors=True)


def llava_work(model: str, composer: Composer, device: str | None, max_new_tokens: int) -> Callable[[Part], int]:
    """The work with a LLaVA-NeXT of this machine."""
    llava = Llava(model, device)

    def work(part: Part) -> int:
        questions = [make_question(composer(job), job.placement, llava.side) for job in part.jobs]
        answers = llava.describe(questions, max_new_tokens)
        _write(part, dict(zip((job.key for job in part.jobs), answers)))
        return len(part.jobs)

    return work


def server_work(
    address: str, model: str, concurrency: int, composer: Composer, max_new_tokens: int
) -> Callable[[Part], int]:
    """The work with a server that speaks OpenAI's protocol."""
    server = Server(address, concurrency)

    def work(part: Part) -> int:
        journal = part.path.with_suffix(".journal")
        told = _read_journal(journal, {job.key for job in part.jobs})
        asked = [job for job in part.jobs if job.key not in told]
        questions: Iterator[tuple[str, Question]] = (
            (job.key, make_question(composer(job), job.placement, 336)) for job in asked
        )
        if asked:
            journal.parent.mkdir(parents=True, exist_ok=True)
            with open(journal, "ab", buffering=0) as file:
                if journal.stat().st_size and not journal.read_bytes().endswith(b"\n"):
                    file.write(b"\n")  # after a line that a killed process left half written
                for key, text in server.describe(model, questions, max_new_tokens):
                    told[key] = text
                    file.write((json.dumps([key, text]) + "\n").encode())
        _write(part, told)
        journal.unlink(missing_ok=True)
        return len(part.jobs)

    return work


def _read_journal(path: Path, keys: set[str]) -> dict[str, str]:
    """The captions of whole lines; a line cut by a kill is passed over."""
    told: dict[str, str] = {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            key, text = json.loads(line)
        except ValueError:
            continue
        if key in keys:
            told[key] = text
    return told


def _write(part: Part, texts: Mapping[str, str]) -> None:
    columns: dict[str, list[Any]] = {
        "key": [job.key for job in part.jobs],
        "text": [texts[job.key] for job in part.jobs],
        "prompt": [prompt_of(job.placement) for job in part.jobs],
    }
    write_table(part.path, columns, pa.schema([(name, pa.string()) for name in _COLUMNS]))
