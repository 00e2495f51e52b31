"""A captioner behind a server that speaks OpenAI's protocol, such as `vllm serve` or SGLang."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from tessera.config import UserError
from tessera.images import data_uri
from tessera.pretrained.captioner.llava import Question
from tessera.pretrained.chat import api_key, require_openai

TIMEOUT = 300.0
"""Seconds that one answer may take."""
ATTEMPTS = 7
"""Tries of one question, with a growing pause between them."""
FIRST_PAUSE = 0.5
"""Seconds before the second try; each pause is twice the one before it, 30 s at most."""


class Server:
    """A server at a base URL such as http://127.0.0.1:8000/v1, asked `concurrency` questions at a time."""

    def __init__(self, address: str, concurrency: int = 32):
        if concurrency < 1:
            raise UserError(f"concurrency must be 1 or more, not {concurrency}")
        self.address, self.concurrency, self._openai = address, concurrency, require_openai(address)

    def find_model(self, model: str | None) -> tuple[str, str]:
        """(id, revision) of the model called `model` (None = the only one); the revision is what the server says."""
        openai = self._openai
        try:
            with openai.OpenAI(base_url=self.address, api_key=api_key(), timeout=30, max_retries=2) as client:
                listed = {found.id: found for found in client.models.list().data}
        except (openai.OpenAIError, AttributeError, TypeError, ValueError) as error:
            raise self._down(error) from error
        if model is None and len(listed) != 1:
            raise UserError(f"server {self.address} has {len(listed)} models; name one: {', '.join(sorted(listed))}")
        if model is not None and model not in listed:
            raise UserError(f"server {self.address} has no model {model!r}; it has {', '.join(sorted(listed))}")
        found = listed[model] if model is not None else next(iter(listed.values()))
        more: dict[str, Any] = found.model_extra or {}
        return found.id, str(more.get("revision") or more.get("root") or found.id)

    def describe(
        self, model: str, questions: Iterable[tuple[str, Question]], max_new_tokens: int
    ) -> Iterator[tuple[str, str]]:
        """(key, answer) of each (key, question), as they arrive. UserError when a question is not answered at last.

        What has arrived before an error is given out first. Leaving early ends the questions that are under way.
        """
        answers: queue.Queue[tuple[str, str] | BaseException | None] = queue.Queue()
        loop = asyncio.new_event_loop()
        task = loop.create_task(self._ask_all(model, iter(questions), max_new_tokens, answers))

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
        self, model: str, questions: Iterator[tuple[str, Question]], max_new_tokens: int, answers: "queue.Queue[Any]"
    ) -> None:
        openai = self._openai
        settings: dict[str, Any] = {"base_url": self.address, "api_key": api_key(), "timeout": TIMEOUT}
        async with openai.AsyncOpenAI(**settings, max_retries=0) as client:

            async def ask_in_turn() -> None:
                for key, question in questions:  # shared: each worker takes the next
                    answers.put((key, await self._ask(client, model, question, max_new_tokens)))

            async with asyncio.TaskGroup() as group:
                for _ in range(self.concurrency):
                    group.create_task(ask_in_turn())

    async def _ask(self, client: Any, model: str, question: Question, max_new_tokens: int) -> str:
        openai = self._openai
        content = [
            *({"type": "image_url", "image_url": {"url": data_uri(image)}} for image in question.images),
            {"type": "text", "text": question.prompt},
        ]
        last: Exception = ValueError("no answer")
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(min(FIRST_PAUSE * 2 ** (attempt - 1), 30))
            try:
                answer = await client.chat.completions.create(
                    model=model,
                    messages=[{"role": "user", "content": content}],
                    max_tokens=max_new_tokens,
                    temperature=0,
                )
                text = answer.choices[0].message.content.strip()
                text = text.encode(errors="replace").decode()  # JSON can spell half a character, files cannot
                if text:
                    return text
                last = ValueError("an empty answer")
            except openai.APIStatusError as error:
                if error.status_code not in (408, 409, 429) and error.status_code < 500:
                    raise UserError(f"server {self.address} refuses: {_first_line(error)}") from error
                last = error
            except (openai.OpenAIError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
                last = error  # no connection, no answer in time, or an answer that is none
        raise self._down(last)

    def _down(self, error: Exception) -> UserError:
        return UserError(
            f"server {self.address} does not answer as it should ({_first_line(error)}); start it and run this again,"
            " captions that have arrived are kept"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
