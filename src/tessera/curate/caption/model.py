"""Captioners that look at the images, shard by shard on any engine, resumable (paper section 3.1 and appendix B).

A shard of images gives one part file below `parts/`, whole or not at all. Once all are there they are joined, in the
set's order. Captions are in the shard's journal, a line each as they arrive, until its part is written: no server is
asked twice for what it has answered.
"""

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from tessera.config import UserError, blaming, load_part, part_id
from tessera.curate.caption.captioner import CaptionCall, Captioner, CaptionRequest, CaptionSource
from tessera.files import read_table, write_table
from tessera.pretrained.captioner.llava import Llava
from tessera.pretrained.captioner.prompt import make_question, prompt_of
from tessera.pretrained.chat import ChatClient
from tessera.progress import progress
from tessera.records import Placement
from tessera.workers import Engine, run_shards

LLAVA = "llava-hf/llama3-llava-next-8b-hf"
"""The paper's captioner (appendix B)."""
PARTS = "parts"
SHARD = 256
"""Images in a part: what a killed process may have to do again."""
COLUMNS = ("key", "text", "prompt")


class FromLlava(CaptionSource):
    """Captions by a LLaVA-NeXT on this machine or a cluster."""

    def __init__(self, call: CaptionCall):
        self._llava = Llava(call.config.model or LLAVA, call.device)
        self._max_new_tokens = call.max_new_tokens
        self.config, self.revision = replace(call.config, model=self._llava.folder.id), self._llava.revision
        self.settings = {"max_new_tokens": call.max_new_tokens, "decoding": "greedy", "compute": "bf16"}

    def prompt(self, placement: Placement | None) -> str:
        return prompt_of(placement)

    def answer(self, requests: Iterable[CaptionRequest]) -> Iterable[tuple[str, str]]:
        requests = list(requests)
        questions = [make_question(request.image, request.placement, self._llava.side) for request in requests]
        texts = self._llava.describe(questions, self._max_new_tokens)
        return zip((request.key for request in requests), texts)


class FromServer(CaptionSource):
    """Captions by a model behind a server that speaks OpenAI's protocol."""

    def __init__(self, call: CaptionCall):
        if call.server is None:
            raise UserError("captioner openai needs a server: its base URL, such as http://127.0.0.1:8000/v1")
        self._client = ChatClient(call.server, call.config.model, concurrency=call.concurrency, retry=call.retry)
        self._client.model, self.revision = self._client.find_model()
        self.config = replace(call.config, model=self._client.model)
        self.settings = {"max_new_tokens": call.max_new_tokens, "decoding": "greedy"}

    def prompt(self, placement: Placement | None) -> str:
        return prompt_of(placement)

    def answer(self, requests: Iterable[CaptionRequest]) -> Iterator[tuple[str, str]]:
        asked = ((request.key, make_question(request.image, request.placement)) for request in requests)
        return self._client.ask_all(asked, max_tokens=self.settings["max_new_tokens"], temperature=0)


class FromPart(CaptionSource):
    """Captions by a class of the user's own, FILE.py:NAME (`tessera.curate.caption.captioner.Captioner`)."""

    def __init__(self, call: CaptionCall):
        self._spec = call.config.captioner
        self._class = load_part(self._spec, {}, "captioner", needs=["describe"])
        self.config = replace(call.config, captioner=part_id(self._spec, ()))
        self.revision, self.settings = self.config.captioner.rpartition("@")[2], {}

    @functools.cached_property
    def _captioner(self) -> Captioner:
        return self._class()

    def answer(self, requests: Iterable[CaptionRequest]) -> Iterable[tuple[str, str]]:
        """Return (key, caption) of each image. Raises UserError for what the class raises, and for bad captions."""
        with blaming(self._spec, "captioner"):
            requests = list(requests)
            texts: Any = self._captioner.describe(requests)
            if not isinstance(texts, Sequence) or len(texts) != len(requests):
                raise UserError(f"describe() must return a list of {len(requests)} captions, one for each request")
            for request, text in zip(requests, texts):
                if not isinstance(text, str) or not text.strip():
                    raise UserError(f"describe() must return texts, not {text!r} (for {request.key})")
                text.encode()  # half a character cannot be written
        return zip((request.key for request in requests), texts)


@dataclass(frozen=True)
class Part:
    """A shard of the work."""

    path: Path
    requests: list[CaptionRequest]


def make_captions(
    joined: Path,
    requests: Sequence[CaptionRequest],
    source: Callable[[CaptionCall], CaptionSource],
    call: CaptionCall,
    engine: Engine,
    shard: int = SHARD,
) -> pa.Table | None:
    """Return the captions of `requests` in their order, columns key, text and prompt; `source` is made in each worker.

    None while parts of other tasks of an array job are missing, or when another task has written the file `joined`
    since. shard: images in a part.
    """
    parts = [
        Part(joined.parent / PARTS / f"captions-{number:05d}.parquet", list(requests[start : start + shard]))
        for number, start in enumerate(range(0, len(requests), shard))
    ]
    index, count = engine.part or (0, 1)
    own = parts[index::count]
    todo = [part for part in own if not part.path.exists()]
    if joined.exists():
        return None
    total, left = (sum(len(part.requests) for part in some) for some in (own, todo))
    prepare = functools.partial(_shard_work, source, call)
    with progress("caption", total, completed=total - left) as bar, run_shards(prepare, todo, engine) as results:
        for done in results:
            bar.advance(done)
    if not all(part.path.exists() for part in parts):
        return None
    try:
        return pa.concat_tables([read_table(part.path, COLUMNS) for part in parts])
    except UserError:
        if joined.exists():
            return None
        raise


def _shard_work(source: Callable[[CaptionCall], CaptionSource], call: CaptionCall) -> Callable[[Part], int]:
    """Make the work of a part, which writes its file and returns the number of captions."""
    captioner = source(call)

    def work(part: Part) -> int:
        journal = part.path.with_suffix(".journal")
        told = _read_journal(journal, {request.key for request in part.requests})
        asked = [request for request in part.requests if request.key not in told]
        if asked:
            journal.parent.mkdir(parents=True, exist_ok=True)
            with open(journal, "ab", buffering=0) as file:
                if journal.stat().st_size and not journal.read_bytes().endswith(b"\n"):
                    file.write(b"\n")  # after a line that a killed process left half written
                for key, text in captioner.answer(asked):
                    told[key] = text
                    file.write((json.dumps([key, text]) + "\n").encode())
        columns = {
            "key": [request.key for request in part.requests],
            "text": [told[request.key] for request in part.requests],
            "prompt": [captioner.prompt(request.placement) for request in part.requests],
        }
        write_table(part.path, columns, pa.schema([(name, pa.string()) for name in COLUMNS]))
        journal.unlink(missing_ok=True)
        return len(part.requests)

    return work


def _read_journal(path: Path, keys: set[str]) -> dict[str, str]:
    """Return the captions of whole lines; a line cut by a kill is left out."""
    told: dict[str, str] = {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            key, text = json.loads(line)
        except ValueError:
            continue
        if key in keys:
            told[key] = text
    return told
