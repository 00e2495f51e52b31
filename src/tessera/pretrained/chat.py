"""Chat with any server that speaks OpenAI's protocol (vLLM, SGLang, llama.cpp, OpenAI itself), extra `serve`."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError
from tessera.extras import install_command
from tessera.images import data_uri

KEY_VARIABLE = "OPENAI_API_KEY"
"""Environment variable of the key; servers of one's own need none."""


class ChatClient:
    """One model of one server, asked a question at a time; a busy or absent server is asked again, ever later.

    base_url: of the server, up to /v1. retries: how often a failed request is repeated. timeout: seconds of one
    request. concurrent: requests under way at once.
    """

    def __init__(self, base_url: str, model: str, *, retries: int = 5, timeout: float = 120, concurrent: int = 16):
        openai = require_openai(base_url)
        self.base_url, self.model, self.concurrent = base_url, model, concurrent
        self._error = openai.OpenAIError
        self._client = openai.OpenAI(
            base_url=base_url,
            api_key=api_key(),
            max_retries=retries,
            timeout=timeout,
        )

    def ask(
        self, text: str, image: NDArray[np.uint8] | None = None, *, max_tokens: int, temperature: float, seed: int = 0
    ) -> str:
        """The answer to `text`, with a picture uint8 (H, W, 3) beside it if there is one.

        Raises UserError if the server fails to the end or answers what is no chat completion.
        """
        content: Any = text
        if image is not None:
            content = [{"type": "image_url", "image_url": {"url": data_uri(image)}}, {"type": "text", "text": text}]
        try:
            answer: Any = self._client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": content}],
                max_tokens=max_tokens,
                temperature=temperature,
                seed=seed,
            )
        except ValueError as error:
            raise UserError(
                f"server {self.base_url}: its answer is not JSON ({error}); is that its address up to /v1? What is done"
                " is kept"
            ) from error
        except self._error as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(f"server {self.base_url}: {reason}; what is done is kept, run it again") from error
        try:
            said = answer.choices[0].message.content
        except (AttributeError, IndexError, TypeError):
            said = None
        if not isinstance(said, str):
            raise UserError(f"server {self.base_url}: its answer is no chat completion of text: {str(answer)[:200]!r}")
        return said

    def ask_all(
        self, texts: Sequence[str], image: NDArray[np.uint8] | None = None, *, max_tokens: int, temperature: float
    ) -> list[str]:
        """The answers to each of `texts` about one picture, in order."""
        with ThreadPoolExecutor(self.concurrent) as pool:
            asked = [
                pool.submit(self.ask, text, image, max_tokens=max_tokens, temperature=temperature) for text in texts
            ]
            try:
                return [future.result() for future in asked]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def require_openai(address: str) -> Any:
    """The package openai; UserError if it is not installed, or `address` is none."""
    try:
        import openai
    except ImportError:
        raise UserError(f"server: needs more libraries; run: {install_command('serve')}") from None
    if not address.startswith(("http://", "https://")):
        raise UserError(f"server: {address!r} is no address; give its base URL, such as http://127.0.0.1:8000/v1")
    return openai


def api_key() -> str:
    """The user's key, or a word in its place: the library wants one for servers that do not."""
    return os.environ.get(KEY_VARIABLE) or "none"
