"""Text encoders: captions to token embeddings, behind one interface (paper appendix A uses Flan-T5-XL).

An encoder is named by a text id such as `words:64`, which is all that manifests and exports need to store.

L: tokens of one caption, the end token included; D: the encoder's width.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError

END = "</s>"
"""The token that ends every text, and the only one of the empty text."""


class TextEncoder(Protocol):
    """What curation and generation need of a text encoder."""

    @property
    def id(self) -> str:
        """The name under which `load_text_encoder` finds this encoder."""
        ...

    @property
    def width(self) -> int:
        """D, the number of values of one token."""
        ...

    @property
    def max_tokens(self) -> int:
        """Longest L that `encode` returns, the end token included; longer texts are cut to it."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """L of each text before any cut."""
        ...

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """One float32 (L, D) array per text, L <= max_tokens."""
        ...

    @property
    def null_condition(self) -> NDArray[np.float32]:
        """The encoding of the empty text, float32 (1, D)."""
        ...


class Words:
    """One fixed pseudo-random vector per lower-case word, and one for the end of the text. No download, no state.

    A word's vector is a direction drawn from the word's sha256 through Philox's raw bits, which are the same on every
    machine and in every numpy version, scaled to length sqrt(width): its entries have mean square 1. Vectors of
    different words are nearly orthogonal. There is no order in it: the reader adds positions.

    width: values per token, 1 to 4096. max_tokens: longest encoding, the end token included; at least 1.
    """

    def __init__(self, width: int = 64, max_tokens: int = 256) -> None:
        if not 1 <= width <= 4096:
            raise UserError(f"text: words needs a width from 1 to 4096, not {width}")
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {max_tokens}")
        self._width = width
        self._max_tokens = max_tokens
        self._rows: dict[str, int] = {}
        self._table = np.empty((0, width), np.float32)  # (words met so far, D)

    @property
    def id(self) -> str:
        """`words:<width>`."""
        return f"words:{self._width}"

    @property
    def width(self) -> int:
        """D, the number of values of one token."""
        return self._width

    @property
    def max_tokens(self) -> int:
        """Longest L that `encode` returns, the end token included."""
        return self._max_tokens

    @property
    def null_condition(self) -> NDArray[np.float32]:
        """The end token alone, float32 (1, D)."""
        return self.encode([""])[0]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Words of each text and the end token, before any cut."""
        return [len(split_words(text)) + 1 for text in texts]

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """One float32 (L, D) array per text: its words in order, then the end token, which a cut keeps."""
        tokens = [[*split_words(text)[: self._max_tokens - 1], END] for text in texts]
        new = {word for words in tokens for word in words if word not in self._rows}
        if new:
            self._rows |= {word: len(self._rows) + i for i, word in enumerate(sorted(new))}
            self._table = np.concatenate([self._table, [_word_vector(word, self._width) for word in sorted(new)]])
        return [self._table[[self._rows[word] for word in words]] for words in tokens]


def split_words(text: str) -> list[str]:
    """The lower-case words of a text: runs of letters and digits of any script, an apostrophe inside a word kept."""
    text = unicodedata.normalize("NFKC", text).replace("\u2019", "'").lower()
    return _WORD.findall(text)


_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def _word_vector(word: str, width: int) -> NDArray[np.float32]:
    """float32 (D,) of length sqrt(D)."""
    key = int.from_bytes(hashlib.sha256(f"words:{width}:{word}".encode()).digest()[:16], "little")
    raw = np.random.Philox(key=key).random_raw(width)
    direction = (raw >> np.uint64(11)) * 2.0**-52 - 1.0 + 2.0**-53  # uniform in (-1, 1), never zero
    return (direction * np.sqrt(width / np.square(direction).sum())).astype(np.float32)


def load_text_encoder(encoder_id: str) -> TextEncoder:
    """The encoder called `encoder_id`, for example "words:64". Unknown ids: UserError listing those there are."""
    family, colon, argument = encoder_id.partition(":")
    if family != "words" or (colon and not (argument.isascii() and argument.isdigit())):
        raise UserError(f"text: unknown text encoder {encoder_id!r}; there are: words:<width>")
    return Words(int(argument)) if colon else Words()
