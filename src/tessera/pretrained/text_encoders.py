"""Text encoders: captions to token embeddings, behind one interface (paper appendix A uses Flan-T5-XL).

An encoder is named by a text id such as `words:64` or `google/flan-t5-xl`, which is all that manifests and exports need
to store.

L: tokens of one caption, the end token included; D: the encoder's width.
"""

import functools
import hashlib
import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError
from tessera.hub import find_model, is_model_name
from tessera.pretrained.load import check_float, load_network, load_tokenizer

if TYPE_CHECKING:
    import torch

END = "</s>"
"""The token that ends every text, and the only one of the empty text."""
T5_FILES = ("model*.safetensors", "model.safetensors.index.json", "tokenizer*.json", "spiece.model", "*tokens*.json")
BATCH_TOKENS = 64 * 256
"""Tokens, padding included, that go through T5 at a time."""


class TextEncoder(Protocol):
    """What curation and generation need of a text encoder."""

    @property
    def id(self) -> str:
        """The name under which `load_text_encoder` finds this encoder."""
        ...

    @property
    def sha256(self) -> str | None:
        """Content hash of the pretrained model's files; None for an encoder that has none."""
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

    def to(self, device: "torch.device | str") -> None:
        """Moves what it computes with; nothing where there is nothing to move."""
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
    def sha256(self) -> None:
        """There are no files."""
        return None

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

    def to(self, device: "torch.device | str") -> None:
        """There is nothing to move."""

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


class T5:
    """A pretrained T5 encoder and its tokenizer; paper appendix A: google/flan-t5-xl. Frozen.

    Texts go in as they are. One text's encoding does not depend on those beside it: padding is masked, and kernels may
    only round differently for another number of rows or columns.

    name: a repository, a folder, or the id of one (`tessera.hub`). device: where it computes, None = the best
    there is. dtype: in what, torch.float32 (None) or torch.bfloat16; T5 overflows in float16. max_tokens: longest
    encoding, the end token included; at least 1. load: read the weights now, not when the first text comes.
    """

    def __init__(
        self,
        name: str,
        device: "str | torch.device | None" = None,
        dtype: "torch.dtype | None" = None,
        max_tokens: int = 256,
        load: bool = True,
    ) -> None:
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {max_tokens}")
        import torch

        from tessera.devices import pick_device

        self._dtype = check_float(dtype, "text", "T5")
        self._device = device if isinstance(device, torch.device) else pick_device(device)
        self._max_tokens = max_tokens
        self._folder = find_model(name, T5_FILES, "text")
        config = self._folder.config("text", "model_type", "t5", "a T5 of transformers, such as google/flan-t5-xl")
        if not {"tokenizer.json", "spiece.model"} & set(self._folder.files):
            raise UserError(f"text: {self.id} has no tokenizer.json and no spiece.model; copy its tokenizer there")
        self._tokenizer = load_tokenizer(self._folder, "text")
        self._width = int(config.get("d_model", 512))  # 512 is the default of T5Config
        if self._tokenize([""]) != [[self._tokenizer.eos_token_id]]:
            raise UserError(f"text: the tokenizer of {self.id} does not end a text with {END}; its files are not T5's")
        if load:
            _ = self._model

    @functools.cached_property
    def _model(self) -> Any:
        return load_network("transformers.T5EncoderModel", self._folder, "text", dtype=self._dtype, device=self._device)

    @property
    def id(self) -> str:
        """`owner/name`, `owner/name@revision` or `NAME@HASH`."""
        return self._folder.id

    @property
    def sha256(self) -> str:
        """Of its config.json, weights and tokenizer."""
        return self._folder.sha256

    @property
    def width(self) -> int:
        """D, the number of values of one token; 2048 for flan-t5-xl."""
        return self._width

    @property
    def max_tokens(self) -> int:
        """Longest L that `encode` returns, the end token included."""
        return self._max_tokens

    @property
    def null_condition(self) -> NDArray[np.float32]:
        """The encoding of the empty text, which is the end token alone: float32 (1, D)."""
        return self.encode([""])[0]

    def to(self, device: "torch.device | str") -> None:
        """Moves the network, and with it where it computes."""
        import torch

        self._device = torch.device(device)
        self._model.to(self._device)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text and the end token, before any cut."""
        return [len(ids) for ids in self._tokenize(texts)]

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """One float32 (L, D) array per text, in the texts' order; a cut keeps the end token. Batches are of one length,
        nearly."""
        import torch

        tokens = [ids if len(ids) <= self._max_tokens else [*ids[: self._max_tokens - 1], ids[-1]]
                  for ids in self._tokenize(texts)]  # fmt: skip
        order = sorted(range(len(texts)), key=lambda i: (-len(tokens[i]), i))
        encoded: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(texts)
        while order:
            longest = len(tokens[order[0]])
            count = max(BATCH_TOKENS // longest, 1)
            batch, order = order[:count], order[count:]
            ids = torch.full((len(batch), longest), self._tokenizer.pad_token_id)  # (b, L)
            mask = torch.zeros_like(ids)
            for row, i in enumerate(batch):
                ids[row, : len(tokens[i])] = torch.tensor(tokens[i])
                mask[row, : len(tokens[i])] = 1
            with torch.inference_mode():
                states = self._model(input_ids=ids.to(self._device), attention_mask=mask.to(self._device))
            states = states.last_hidden_state.float().cpu().numpy()  # (b, L, D)
            for row, i in enumerate(batch):
                encoded[i] = states[row, : len(tokens[i])].copy()
        return encoded

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token numbers of each text, all of them, the end token last."""
        return self._tokenizer(list(texts), truncation=False, verbose=False)["input_ids"] if texts else []


def load_text_encoder(
    encoder_id: str,
    device: "str | torch.device | None" = None,
    dtype: "torch.dtype | None" = None,
    load: bool = True,
) -> TextEncoder:
    """The encoder called `encoder_id`, for example "words:64" or "google/flan-t5-xl".

    device, dtype, load: see `T5`; the others do without. Unknown ids: UserError listing those there are.
    """
    family, colon, argument = encoder_id.partition(":")
    if family == "words" and (not colon or (argument.isascii() and argument.isdigit())):
        return Words(int(argument)) if colon else Words()
    if family != "words" and is_model_name(encoder_id):
        return T5(encoder_id, device, dtype, load=load)
    raise UserError(
        f"text: unknown text encoder {encoder_id!r}; there are: words:<width>, a Hugging Face repository such as"
        " google/flan-t5-xl, and the folder of a T5"
    )
