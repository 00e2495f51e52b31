"""Captioners that look at the images, shard by shard on any engine, resumable (paper section 3.1 and appendix B).

A shard of images gives one part file below `parts/`, whole or not at all. Once all are there they are joined, in the
set's order. Captions are in the shard's journal, a line each as they arrive, until its part is written: no server is
asked twice for what it has answered. An image without an answer has a part's row without a text, and the reason.
"""

import contextlib
import functools
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from tessera.config import UserError, blaming, load_part, part_id
from tessera.curate.caption.captioner import CaptionCall, Captioner, CaptionRequest, CaptionSource
from tessera.files import read_table, write_table
from tessera.pretrained.answers import Answer
from tessera.pretrained.captioner.llava import Llava
from tessera.pretrained.captioner.prompt import make_question, prompt_of, shows_quarter
from tessera.pretrained.chat import ChatClient
from tessera.progress import progress
from tessera.workers import Engine, draw_ahead, run_shards

LLAVA = "llava-hf/llama3-llava-next-8b-hf"
"""The paper's captioner (appendix B)."""
PARTS = "parts"
SHARD = 256
"""Images in a part: what a killed process may have to do again."""
STREAM = 16
"""Parts that a worker process gives to a server one after another without waiting for the last answers."""
QUESTIONS_AHEAD = 32
"""Questions whose images are read before the server is asked."""
COLUMNS = ("key", "text", "prompt", "note")
_SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])
BY_HAND = "by hand"
"""The prompt of a caption that the user gave for an image without an answer."""


class FromLlava(CaptionSource):
    """Captions by a LLaVA-NeXT on this machine or a cluster."""

    said = None

    def __init__(self, call: CaptionCall):
        super().__init__(call)
        self._llava = Llava(call.config.model or LLAVA, call.device)
        self._max_new_tokens = call.max_new_tokens
        self.config, self.revision = replace(call.config, model=self._llava.folder.id), self._llava.revision
        self.settings = {"max_new_tokens": call.max_new_tokens, "decoding": "greedy", "compute": "bf16"}
        self.counts = {"batch": self._llava.batch}

    def answer(self, requests: Iterable[CaptionRequest]) -> Iterator[tuple[str, Answer]]:
        # Images of one question together, whose texts are of one length: a batch, read while another is answered.
        alike = sorted(requests, key=lambda r: (prompt_of(r.placement), shows_quarter(r.placement)))
        batches = [list(some) for _, some in itertools.groupby(alike, lambda r: shows_quarter(r.placement))]
        size = self._llava.batch
        batches = [some[start : start + size] for some in batches for start in range(0, len(some), size)]
        read = ([make_question(r.image, r.placement, self._llava.side) for r in batch] for batch in batches)
        with contextlib.closing(draw_ahead(read)) as questions:
            for batch, asked in zip(batches, questions):
                yield from zip((r.key for r in batch), self._llava.caption(asked, self._max_new_tokens))


class FromServer(CaptionSource):
    """Captions by a model behind a server that speaks OpenAI's protocol."""

    said, streams = None, True

    def __init__(self, call: CaptionCall):
        if call.server is None:
            raise UserError("captioner openai needs a server: its base URL, such as http://127.0.0.1:8000/v1")
        super().__init__(call)
        self._client = ChatClient(call.server, call.config.model, concurrency=call.concurrency, retry=call.retry)
        self._client.model, self.revision = self._client.find_model()
        self.config = replace(call.config, model=self._client.model)
        self.settings = {"max_new_tokens": call.max_new_tokens, "decoding": "greedy"}
        self._most_failures = math.inf if call.again else 0

    def answer(self, requests: Iterable[CaptionRequest]) -> Iterator[tuple[str, Answer]]:
        asked = ((request.key, make_question(request.image, request.placement)) for request in requests)
        tokens = self.settings["max_new_tokens"]
        with contextlib.closing(draw_ahead(asked, QUESTIONS_AHEAD)) as ready:
            yield from self._client.caption_all(ready, self._most_failures, max_tokens=tokens, temperature=0)


class FromPart(CaptionSource):
    """Captions by a class of the user's own, FILE.py:NAME (`tessera.curate.caption.captioner.Captioner`)."""

    def __init__(self, call: CaptionCall):
        super().__init__(call)
        self._spec = call.config.captioner
        self._class = load_part(self._spec, {}, "captioner", needs=["describe"])
        self.config = replace(call.config, captioner=part_id(self._spec, ()))
        self.revision, self.settings = self.config.captioner.rpartition("@")[2], {}

    @functools.cached_property
    def _captioner(self) -> Captioner:
        return self._class()

    def answer(self, requests: Iterable[CaptionRequest]) -> Iterable[tuple[str, Answer]]:
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
        return zip((request.key for request in requests), map(Answer, texts))


@dataclass(frozen=True)
class Part:
    """A shard of the work."""

    path: Path
    requests: list[CaptionRequest]
    known: Mapping[str, Answer]
    """Key -> answer of images that are not asked about."""

    @property
    def journal(self) -> Path:
        """The file of its answers so far."""
        return self.path.with_suffix(".journal")

    @property
    def some_missing(self) -> Path:
        """Its file where images have no answer, while others are being asked."""
        return self.path.with_suffix(".missing")


def make_captions(
    joined: Path,
    folder: Path,
    requests: Sequence[CaptionRequest],
    source: type[CaptionSource],
    call: CaptionCall,
    engine: Engine,
    known: Mapping[str, Answer],
    shard: int = SHARD,
) -> pa.Table | None:
    """Return the captions of `requests` in their order, with `COLUMNS`; `source` is made in each worker.

    None while parts of other tasks of an array job are missing, or when another task has written the file `joined`
    since. folder: for the parts, which are of these requests alone. known: key -> answer of images that are not asked
    about. shard: images in a part.
    """
    parts = []
    for number, start in enumerate(range(0, len(requests), shard)):
        some = list(requests[start : start + shard])
        told = {request.key: known[request.key] for request in some if request.key in known}
        parts.append(Part(folder / f"captions-{number:05d}.parquet", some, told))
    index, count = engine.part or (0, 1)
    own = parts[index::count]
    todo = [part for part in own if not part.path.exists()]
    if joined.exists() and not call.again:
        return None
    total, left = (sum(len(part.requests) for part in some) for some in (own, todo))
    here = engine.kind == "here"
    # A server gets a next part's images while the last ones of a part are answered, so that it is never without work.
    together = 1 if not source.streams else len(todo) if here else STREAM
    groups = [todo[start : start + together] for start in range(0, len(todo), together or 1)]
    with progress("caption", total, completed=total - left) as bar:
        prepare = functools.partial(_work_on_parts, source, call, bar.advance if here else None)
        with run_shards(prepare, groups, engine) as results:
            for done in results:
                bar.advance(0 if here else done)
    for part in own:
        if part.some_missing.exists():  # until now they could be asked again
            part.some_missing.rename(part.path)
            part.journal.unlink(missing_ok=True)
    if not all(part.path.exists() for part in parts):
        return None
    try:
        return pa.concat_tables([_SCHEMA.empty_table(), *(read_table(part.path, COLUMNS) for part in parts)])
    except UserError:
        if joined.exists():
            return None
        raise


def _work_on_parts(
    source: type[CaptionSource], call: CaptionCall, advance: Callable[[int], None] | None
) -> Callable[[list[Part]], int]:
    """Make the work on parts, which writes their files and returns the number of captions; `advance` gets those of each
    part."""
    captioner = source(call)

    def work(parts: list[Part]) -> int:
        asking: dict[str, _Open] = {}

        def requests() -> Iterator[CaptionRequest]:
            for part in parts:
                opened = _Open(part)
                asked = [request for request in part.requests if request.key not in opened.told]
                if not asked:
                    finish(opened)
                asking.update(dict.fromkeys((request.key for request in asked), opened))
                yield from asked

        def finish(opened: _Open) -> None:
            opened.write(captioner)
            if advance is not None:
                advance(len(opened.part.requests))

        try:
            for key, answer in captioner.answer(requests()):
                opened = asking.pop(key)
                opened.take(key, answer)
                if len(opened.told) == len(opened.part.requests):
                    finish(opened)
        finally:
            for opened in list(asking.values()):
                opened.file.close()
        return sum(len(part.requests) for part in parts)

    return work


class _Open:
    """A part that is being worked on: its answers so far, which are in its journal too."""

    def __init__(self, part: Part) -> None:
        self.part, keys = part, {request.key for request in part.requests}
        self.told = {**part.known, **_read_journal(part.journal, keys)}
        part.journal.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(part.journal, "ab", buffering=0)  # noqa: SIM115
        if part.journal.stat().st_size and not part.journal.read_bytes().endswith(b"\n"):
            self.file.write(b"\n")  # after a line that a killed process left half written

    def take(self, key: str, answer: Answer) -> None:
        """Note an answer."""
        self.told[key] = answer
        if answer.text is not None:
            self.file.write((json.dumps([key, *answer]) + "\n").encode())

    def write(self, captioner: CaptionSource) -> None:
        """Write the part's file, once every image has its answer."""
        part, told = self.part, self.told
        self.file.close()
        notes = [told[request.key].note for request in part.requests]
        prompts = [captioner.prompt(request) for request in part.requests]
        columns = {
            "key": [request.key for request in part.requests],
            "text": [told[request.key].text for request in part.requests],
            "prompt": [BY_HAND if note == BY_HAND else prompt for note, prompt in zip(notes, prompts)],
            "note": notes,
        }
        complete = all(answer.text is not None for answer in told.values())
        path = part.path if complete else part.some_missing
        write_table(path, columns, _SCHEMA)
        if complete:
            part.journal.unlink(missing_ok=True)
            part.some_missing.unlink(missing_ok=True)


def _read_journal(path: Path, keys: set[str]) -> dict[str, Answer]:
    """Return the captions of whole lines; a line cut by a kill is left out."""
    told: dict[str, Answer] = {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            key, *answer = json.loads(line)
            if key in keys:
                told[key] = Answer(*answer)
    return told
