"""Captioners that look at the images, shard by shard on any engine, resumable (paper section 3.1 and appendix B).

A shard of images gives one part file below `parts/`, whole or not at all. Once all are there they are joined, in the
set's order. Captions are in the shard's journal, a line each as they arrive, until its part is written: no server is
asked twice for what it has answered. An image without an answer has a part's row without a text, and the reason.
"""

import contextlib
import functools
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
from tessera.pretrained.captioner.prompt import make_question
from tessera.pretrained.chat import ChatClient
from tessera.progress import progress
from tessera.workers import Engine, run_shards

LLAVA = "llava-hf/llama3-llava-next-8b-hf"
"""The paper's captioner (appendix B)."""
PARTS = "parts"
SHARD = 256
"""Images in a part: what a killed process may have to do again."""
COLUMNS = ("key", "text", "prompt", "note")
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

    def answer(self, requests: Iterable[CaptionRequest]) -> Iterable[tuple[str, Answer]]:
        requests = list(requests)
        questions = [make_question(request.image, request.placement, self._llava.side) for request in requests]
        answers = self._llava.caption(questions, self._max_new_tokens)
        return zip((request.key for request in requests), answers)


class FromServer(CaptionSource):
    """Captions by a model behind a server that speaks OpenAI's protocol."""

    said = None

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
        return self._client.caption_all(asked, self._most_failures, max_tokens=tokens, temperature=0)


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
    requests: Sequence[CaptionRequest],
    source: Callable[[CaptionCall], CaptionSource],
    call: CaptionCall,
    engine: Engine,
    by_hand: Mapping[str, str],
    shard: int = SHARD,
) -> pa.Table | None:
    """Return the captions of `requests` in their order, with `COLUMNS`; `source` is made in each worker.

    None while parts of other tasks of an array job are missing, or when another task has written the file `joined`
    since. by_hand: key -> text of images that are not asked about. shard: images in a part.
    """
    parts = [
        Part(joined.parent / PARTS / f"captions-{number:05d}.parquet", list(requests[start : start + shard]))
        for number, start in enumerate(range(0, len(requests), shard))
    ]
    index, count = engine.part or (0, 1)
    own = parts[index::count]
    todo = [part for part in own if not part.path.exists()]
    if joined.exists() and not call.again:
        return None
    total, left = (sum(len(part.requests) for part in some) for some in (own, todo))
    prepare = functools.partial(_shard_work, source, call, by_hand)
    with progress("caption", total, completed=total - left) as bar, run_shards(prepare, todo, engine) as results:
        for done in results:
            bar.advance(done)
    for part in own:
        if part.some_missing.exists():  # until now they could be asked again
            part.some_missing.rename(part.path)
            part.journal.unlink(missing_ok=True)
    if not all(part.path.exists() for part in parts):
        return None
    try:
        return pa.concat_tables([read_table(part.path, COLUMNS) for part in parts])
    except UserError:
        if joined.exists():
            return None
        raise


def _shard_work(
    source: Callable[[CaptionCall], CaptionSource], call: CaptionCall, by_hand: Mapping[str, str]
) -> Callable[[Part], int]:
    """Make the work of a part, which writes its file and returns the number of captions."""
    captioner = source(call)

    def work(part: Part) -> int:
        journal = part.journal
        keys = {request.key for request in part.requests}
        told = {key: Answer(by_hand[key], BY_HAND) for key in keys & by_hand.keys()}
        told |= _read_journal(journal, keys)
        asked = [request for request in part.requests if request.key not in told]
        if asked:
            journal.parent.mkdir(parents=True, exist_ok=True)
            with open(journal, "ab", buffering=0) as file:
                if journal.stat().st_size and not journal.read_bytes().endswith(b"\n"):
                    file.write(b"\n")  # after a line that a killed process left half written
                for key, answer in captioner.answer(asked):
                    told[key] = answer
                    if answer.text is not None:
                        file.write((json.dumps([key, *answer]) + "\n").encode())
        notes = [told[request.key].note for request in part.requests]
        prompts = [captioner.prompt(request.placement) for request in part.requests]
        columns = {
            "key": [request.key for request in part.requests],
            "text": [told[request.key].text for request in part.requests],
            "prompt": [BY_HAND if note == BY_HAND else prompt for note, prompt in zip(notes, prompts)],
            "note": notes,
        }
        complete = all(told[key].text is not None for key in keys)
        path = part.path if complete else part.some_missing
        write_table(path, columns, pa.schema([(name, pa.string()) for name in COLUMNS]))
        if complete:
            journal.unlink(missing_ok=True)
            part.some_missing.unlink(missing_ok=True)
        return len(part.requests)

    return work


def _read_journal(path: Path, keys: set[str]) -> dict[str, Answer]:
    """Return the captions of whole lines; a line cut by a kill is left out."""
    told: dict[str, Answer] = {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            key, *answer = json.loads(line)
            if key in keys:
                told[key] = Answer(*answer)
    return told
