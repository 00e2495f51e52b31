"""The captioner `summarize`: short captions by a language model that reads a run's own, one sentence of each.

What rules make of a caption (`shorten`) keeps its words; a model writes what a person would type. The two runs are put
together by `join`.
"""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import replace

from tessera.curate.caption.captioner import CaptionCall, CaptionRequest, CaptionSource
from tessera.curate.caption.table import read_captions
from tessera.devices import pick_device
from tessera.pretrained.answers import RETRIES, Answer, NoCaption, caption_of
from tessera.pretrained.chat import ChatClient, Question
from tessera.pretrained.llm import Writer, load_writer, writer_id
from tessera.randomness import address

INSTRUCTION = (
    "Shorten this caption of an image to one sentence of at most 15 words, as a person would type it to ask for the"
    " image. Keep every main object, its number, its color and its place as they are said there, and leave out the"
    " rest. Answer with the sentence alone.\n\n{caption}"
)


class Summarized(CaptionSource):
    """Short captions by a chat model of this machine, or of a server that speaks OpenAI's protocol."""

    streams = True

    def __init__(self, call: CaptionCall):
        super().__init__(call)
        (self._captions,) = call.captions.values()
        self._client, self._device = None, call.device
        if call.server is not None:
            self._client = ChatClient(call.server, call.config.model, concurrency=call.concurrency, retry=call.retry)
            self._client.model, self.revision = self._client.find_model()
            self.config = replace(call.config, model=self._client.model)
        else:
            self._model = call.config.model
            self.config = replace(call.config, model=writer_id(call.config.model, None))
            self.revision = str(self.config.model).rpartition("@")[2]
        self.settings |= {"max_new_tokens": call.max_new_tokens}

    @functools.cached_property
    def _texts(self) -> dict[str, str]:
        return read_captions(self._captions)

    def prompt(self, request: CaptionRequest) -> str:
        return INSTRUCTION.format(caption=self._texts.get(request.key, ""))

    @functools.cached_property
    def _writer(self) -> Writer:
        return load_writer(self._model, None, pick_device(self._device))

    def answer(self, requests: Iterable[CaptionRequest]) -> Iterator[tuple[str, Answer]]:
        texts, seed = self._texts, self.config.seed

        def questions() -> Iterator[tuple[str, Question]]:
            for request in requests:
                if request.key in texts:
                    yield request.key, Question(self.prompt(request))
                else:
                    without.append(request.key)

        without: list[str] = []
        limit = self.settings["max_new_tokens"]
        if self._client is not None:
            yield from self._client.caption_all(questions(), max_tokens=limit, temperature=0)
        else:
            for key, question in questions():
                yield key, self._write(question.prompt, [address(seed, "summary", key, n) for n in range(1 + RETRIES)])
        yield from ((key, Answer(None, "no caption to shorten")) for key in without)

    def _write(self, instruction: str, seeds: Iterable[int]) -> Answer:
        """Return the first answer that is a caption, or why the last one is none."""
        reason = ""
        for seed in seeds:
            try:
                return caption_of(*self._writer(instruction, seed, self.settings["max_new_tokens"]))
            except NoCaption as error:
                reason = str(error)
        return Answer(None, reason)
