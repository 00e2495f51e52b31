"""Chat with any server that speaks OpenAI's protocol (vLLM, SGLang, llama.cpp, OpenAI itself), extra `serve`.

The one client of captions, prompt extension and yes-or-no questions, with one rule for when a question is asked again.
"""

import asyncio
import contextlib
import math
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError, check_ranges
from tessera.extras import require
from tessera.images import data_uri
from tessera.pretrained.answers import CUT, RETRIES, TEMPERATURE, Answer, NoCaption, caption_of

KEY_VARIABLE = "OPENAI_API_KEY"
"""Environment variable of the API key; servers of one's own need none."""
LONGEST_PAUSE = 30.0  # seconds
WHOLE_SERVER = (401, 402, 403, 404, 405, 410)
"""Statuses that no other image changes."""
MOST_REFUSALS = 100
"""Images in a row without a caption among their answers, after which the model is taken for one that makes none."""

TOP_TOKENS = 20
"""Alternatives of a token that a server is asked for: the most that OpenAI's protocol has."""
NO_PROBABILITIES = (
    "gives no log-probabilities; choose another model, or count its words with --words, under another name"
)

Key = TypeVar("Key")


@dataclass(frozen=True, eq=False)
class Question:
    """A prompt and the images that it is about."""

    prompt: str
    images: tuple[NDArray[np.uint8], ...] = ()
    """uint8 (H, W, 3) each; they are shown before the prompt."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """The rule for asking again: the server is away, busy, failing or slow, or its answer is empty or broken."""

    attempts: int = 7
    """Tries of one question, at least 1."""
    timeout: float = 300.0
    """Seconds that one try may take."""
    first_pause: float = 0.5
    """Seconds before the second try; each pause is twice the one before it, or what the server's Retry-After asks for
    if that is longer, 30 s at most."""

    def __post_init__(self):
        check_ranges(self, attempts="[1, inf)", timeout="(0, inf)", first_pause="[0, inf)")


RETRY = Retry()


class ChatClient:
    """A model of the server at a base URL such as http://127.0.0.1:8000/v1, asked `concurrency` questions at a time.

    model: its name on the server; None = the only one there, for `find_model`.
    """

    def __init__(self, address: str, model: str | None = None, *, concurrency: int = 16, retry: Retry = RETRY):
        openai = require("openai", "serve", "server: it")
        if not address.startswith(("http://", "https://")):
            raise UserError(f"server: {address!r} is no address; give its base URL, such as http://127.0.0.1:8000/v1")
        if concurrency < 1:
            raise UserError(f"concurrency is {concurrency}; give at least 1")
        self.address, self.model, self.concurrency, self.retry = address, model, concurrency, retry
        self._failures = Failures()
        self._openai = openai
        # The library wants a key even for servers that do not.
        self._access: Any = {"base_url": address, "api_key": os.environ.get(KEY_VARIABLE) or "none"}

    def find_model(self) -> tuple[str, str]:
        """Return (name, revision) of the model; the revision is what the server says. Raises UserError."""
        openai, model = self._openai, self.model
        try:
            with openai.OpenAI(**self._access, timeout=min(self.retry.timeout, 30), max_retries=2) as client:
                listed = {found.id: found for found in client.models.list().data}
        except (openai.OpenAIError, AttributeError, TypeError, ValueError) as error:
            raise self._failed(error) from error
        if model is None and len(listed) != 1:
            raise UserError(f"server {self.address} has {len(listed)} models; name one: {', '.join(sorted(listed))}")
        if model is not None and model not in listed:
            raise UserError(f"server {self.address} has no model {model!r}; it has {', '.join(sorted(listed))}")
        found = listed[model] if model is not None else next(iter(listed.values()))
        more: dict[str, Any] = found.model_extra or {}
        return found.id, str(more.get("revision") or more.get("root") or found.id)

    def ask(self, question: Question, **sampling: Any) -> tuple[str, bool]:
        """Return the answer to one question, and True if `max_tokens` cut it; `sampling` as in `ask_all`."""
        answer = next(answer for _, answer in self._start([(0, question)], sampling, _text))
        return answer.text or "", answer.note == CUT

    def ask_all(self, questions: Iterable[tuple[Key, Question]], **sampling: Any) -> Iterator[tuple[Key, str]]:
        """Yield (key, answer) of each (key, question), as answers arrive; none is empty.

        sampling: the protocol's own fields (max_tokens, temperature, seed). Raises UserError when the server refuses a
        question or `retry` is used up, after all that arrived before. Leaving early ends the questions under way.
        """
        return ((key, answer.text or "") for key, answer in self._start(questions, sampling, _text))

    def first_tokens(self, questions: Iterable[tuple[Key, Question]]) -> Iterator[tuple[Key, dict[str, float]]]:
        """Yield (key, {token: probability}) of each question: the `TOP_TOKENS` likeliest beginnings of its answer.

        Raises UserError as `ask_all` does, and for a server that gives no log-probabilities.
        """
        sampling = {"max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": TOP_TOKENS}
        return self._start(questions, sampling, _first_tokens)

    def caption_all(
        self, questions: Iterable[tuple[Key, Question]], most_failures: float = 0, **sampling: Any
    ) -> Iterator[tuple[Key, Answer]]:
        """Yield (key, answer) as `ask_all` does, each checked by `caption_of`.

        A question that has no caption for an answer is asked again with another seed, and at last yielded without a
        text, as is one that the server cannot answer. Raises UserError for a server that is gone, that answers no
        question at all (404), or fails at `most_failures` in a row (0: as many as are asked at a time, at least 8).
        """
        self._failures.most = most_failures or max(self.concurrency, 8)
        return self._start(questions, sampling, _caption, self._failures)

    def _start(
        self,
        questions: Iterable[tuple[Key, Question]],
        sampling: dict[str, Any],
        read: Callable[[Any], Any],
        failures: "Failures | None" = None,
    ) -> Iterator[tuple[Key, Any]]:
        """Ask the questions; yield (key, what `read` makes of the choice of a chat completion)."""
        answers: queue.Queue[tuple[Key, Any] | BaseException | None] = queue.Queue()
        loop = asyncio.new_event_loop()
        task = loop.create_task(self._ask_all(iter(questions), sampling, answers, read, failures))

        def run() -> None:
            try:
                loop.run_until_complete(task)
                answers.put(None)
            except BaseExceptionGroup as errors:
                answers.put(errors.exceptions[0])
            except BaseException as error:
                answers.put(error)
            finally:
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.close()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            while (answer := answers.get()) is not None:
                if isinstance(answer, BaseException):
                    raise answer
                yield answer
        finally:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(task.cancel)
            thread.join()

    async def _ask_all(
        self,
        questions: Iterator[tuple[Any, Question]],
        sampling: dict[str, Any],
        answers: "queue.Queue[Any]",
        read: Callable[[Any], Any],
        failures: "Failures | None",
    ) -> None:
        async with self._openai.AsyncOpenAI(**self._access, timeout=self.retry.timeout, max_retries=0) as client:

            async def ask_in_turn() -> None:
                for key, question in questions:  # shared: each worker takes the next
                    answers.put((key, await self._ask(client, question, sampling, read, failures)))

            async with asyncio.TaskGroup() as group:
                for _ in range(self.concurrency):
                    group.create_task(ask_in_turn())

    async def _ask(
        self,
        client: Any,
        question: Question,
        sampling: dict[str, Any],
        read: Callable[[Any], Any],
        failures: "Failures | None",
    ) -> Any:
        openai = self._openai
        images = [{"type": "image_url", "image_url": {"url": data_uri(image)}} for image in question.images]
        content = [*images, {"type": "text", "text": question.prompt}] if images else question.prompt
        messages = [{"role": "user", "content": content}]
        last, wanted, refused = Exception("no answer"), 0.0, 0
        for attempt in range(self.retry.attempts):
            if attempt:
                pause = max(self.retry.first_pause * 2 ** (attempt - 1), wanted)
                await asyncio.sleep(min(pause, LONGEST_PAUSE))
                wanted = 0.0
            again = {"temperature": TEMPERATURE, "seed": refused} if refused else {}
            try:
                answer = await client.chat.completions.create(model=self.model, messages=messages, **sampling | again)
                told = read(answer.choices[0])
                if failures is not None:
                    failures.of_server = failures.of_images = 0
                return told
            except UserError as error:
                raise UserError(f"server {self.address}: {error}") from None
            except NoCaption as error:
                last, refused = error, refused + 1
                if refused > RETRIES:
                    break
            except openai.APIStatusError as error:
                last, wanted = error, _seconds(error.response.headers.get("retry-after"))
                if error.status_code not in (408, 409, 429) and error.status_code < 500:
                    break
            except (openai.OpenAIError, ValueError) as error:  # no connection, no answer in time, no JSON
                last = error
            except (AttributeError, IndexError, KeyError, TypeError):
                last = ValueError(_no_completion(answer))
        if read is _first_tokens and "logprob" in str(last).lower():
            raise UserError(f"server {self.address}: {NO_PROBABILITIES} ({_said(last)[:80]})") from last
        gone = isinstance(last, openai.APIConnectionError) and not isinstance(last, openai.APITimeoutError)
        status = getattr(last, "status_code", 200 if isinstance(last, NoCaption) else 500)
        if failures is None or gone or status in WHOLE_SERVER or failures.are_too_many(status):
            raise self._failed(last) from last
        return Answer(None, _said(last))

    def _failed(self, error: Exception) -> UserError:
        return UserError(f"server {self.address}: {_said(error)}; is this its address up to /v1? What is done is kept")


@dataclass
class Failures:
    """The failures in a row of a server."""

    most: float = 0
    of_server: int = 0
    of_images: int = 0

    def are_too_many(self, status: int) -> bool:
        """Count one with this status, and tell if they are the server's or the model's, not those of single images."""
        if status == 429 or status >= 500:
            self.of_server += 1
        else:
            self.of_server, self.of_images = 0, self.of_images + 1
        return self.of_server >= self.most or self.of_images >= max(self.most, MOST_REFUSALS)


def _text(choice: Any) -> Answer:
    """Return the text of a choice of a chat completion. Raises ValueError for none."""
    text = choice.message.content.strip()
    if not text:
        raise ValueError("an empty answer")
    # JSON can spell half a character, files cannot.
    return Answer(text.encode(errors="replace").decode(), CUT if choice.finish_reason == "length" else "")


def _first_tokens(choice: Any) -> dict[str, float]:
    """Return the likeliest first tokens of a choice and their probabilities. Raises UserError for a choice without."""
    tokens = getattr(choice.logprobs, "content", None)
    top = tokens[0].top_logprobs if tokens else None
    if not top:
        raise UserError(NO_PROBABILITIES)
    return {token.token: math.exp(token.logprob) for token in top}


def _caption(choice: Any) -> Answer:
    """Return the caption of a choice of a chat completion. Raises NoCaption."""
    content, refusal = choice.message.content, getattr(choice.message, "refusal", None)
    if isinstance(content, list):  # some servers send parts
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if choice.finish_reason == "content_filter":
        raise NoCaption("the server's content filter")
    if not content and refusal:
        raise NoCaption(f"a refusal ({str(refusal)[:60]!r})")
    return caption_of(content, choice.finish_reason == "length")


def _no_completion(answer: Any) -> str:
    """Return what is wrong with an answer without a choice of text: the error that some servers put in its place."""
    error = (getattr(answer, "model_extra", None) or {}).get("error")
    error = error.get("message") if isinstance(error, dict) else error
    if error:
        return f"its answer is an error: {str(error)[:100]}"
    empty = getattr(answer, "choices", None) == []
    return f"its answer is no chat completion of text{': it has no choices' * empty}"


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _seconds(header: str | None) -> float:
    """Return the seconds of a Retry-After header, 0 where it is missing or a date."""
    try:
        return float(header or 0)
    except ValueError:
        return 0.0
