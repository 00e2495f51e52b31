"""Text encoders: captions to token embeddings, behind one interface (paper appendix A uses Flan-T5-XL).

An encoder is named by a text id such as `words:64` or `google/flan-t5-xl`, which is all that manifests and exports need
to store: `load_text_encoder(encoder.id)` gives an equal encoder. `TEXT_ENCODERS` is the table of the package's own.

L: tokens of one caption, the end token included; D: the encoder's width.
"""

import hashlib
import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError
from tessera.encoded.record import GROUP
from tessera.pretrained.load import Pretrained, load_tokenizer
from tessera.pretrained.named import Kind, OwnPart, Part

if TYPE_CHECKING:
    import torch

END = "</s>"
"""The token that ends every text, and the only one of the empty text."""
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_VOCABULARIES = ("tokenizer.json", "spiece.model", "tokenizer.model", "vocab.txt", "vocab.json")
TEXT_FILES = ("model*.safetensors", "model.safetensors.index.json", "tokenizer*.json", "*tokens*.json", "merges.txt")
TEXT_FILES += _VOCABULARIES
BATCH_TOKENS = 64 * 256
"""Tokens, padding included, that go through a network at a time."""
MAX_TOKENS = 256
"""Longest encoding by a network that sets no smaller limit."""

_T5 = {"t5": "T5EncoderModel", "umt5": "UMT5EncoderModel"}
_CLIP = dict.fromkeys(("clip", "clip_text_model"), "CLIPTextModel")
_BERT = dict.fromkeys(("bert", "roberta", "mpnet"), "AutoModel")
_CAUSAL = dict.fromkeys(("qwen2", "qwen3", "llama", "gemma", "gemma2", "gemma3_text"), "AutoModel")
ARCHITECTURES = _T5 | _CLIP | _BERT | _CAUSAL
"""model_type of a config.json of transformers -> the class that reads its text encoder."""


class TextEncoder(Part, Protocol):
    """A text encoder, as curation and generation use it. Here, and in a user's own file, no class needs a base.

    A user's own class (`--text my_parts.py:MyEncoder`) has `width` and `encode`, and maybe `max_tokens`,
    `count_tokens` and `to`; the rest follows (`OwnTextEncoder`).
    """

    @property
    def width(self) -> int:
        """D, the number of values of one token."""
        ...

    @property
    def max_tokens(self) -> int:
        """Longest L that `encode` returns, the end token included; longer texts are cut to it."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens L of each text before any cut."""
        ...

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """Encode texts: one float32 (L, D) array for each, 1 <= L <= max_tokens, also for the empty text."""
        ...

    @property
    def null_condition(self) -> NDArray[np.float32]:
        """The encoding of the empty text, float32 (1, D)."""
        ...


@property
def _null(encoder: TextEncoder) -> NDArray[np.float32]:
    """The end token of the empty text, float32 (1, D)."""
    return encoder.encode([""])[0][-1:]


class Words:
    """An encoder without a network: a fixed pseudo-random vector for each lower-case word, and one for the end.

    A word's vector is a direction drawn from the word's sha256 through Philox's raw bits, which are the same on every
    machine and in every numpy version, scaled to length sqrt(width): its entries have mean square 1. Vectors of
    different words are nearly orthogonal. There is no order in it: the reader adds positions.

    width: values per token, 1 to 4096. max_tokens: longest encoding, the end token included; at least 1.
    """

    sha256: str | None = None
    null_condition = _null

    def __init__(self, width: int = 64, max_tokens: int = 256) -> None:
        if not 1 <= width <= 4096:
            raise UserError(f"text: words needs a width from 1 to 4096, not {width}")
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {max_tokens}")
        self.id, self.width, self.max_tokens = f"words:{width}", width, max_tokens
        self._rows: dict[str, int] = {}
        self._table = np.empty((0, width), np.float32)  # (words met so far, D)

    def to(self, device: "torch.device | str") -> None:
        pass

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(split_words(text)) + 1 for text in texts]

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """Encode texts: float32 (L, D) for each, its words in order, then the end token, which survives a cut."""
        tokens = [[*split_words(text)[: self.max_tokens - 1], END] for text in texts]
        new = {word for words in tokens for word in words if word not in self._rows}
        if new:
            self._rows |= {word: len(self._rows) + i for i, word in enumerate(sorted(new))}
            self._table = np.concatenate([self._table, [_word_vector(word, self.width) for word in sorted(new)]])
        return [self._table[[self._rows[word] for word in words]] for words in tokens]


def split_words(text: str) -> list[str]:
    """Return the lower-case words of a text: runs of letters and digits of any script, apostrophes inside words too."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).replace("\u2019", "'").lower())


def _word_vector(word: str, width: int) -> NDArray[np.float32]:
    """Return float32 (D,) of length sqrt(D)."""
    key = int.from_bytes(hashlib.sha256(f"words:{width}:{word}".encode()).digest()[:16], "little")
    raw = np.random.Philox(key=key).random_raw(width)
    direction = (raw >> np.uint64(11)) * 2.0**-52 - 1.0 + 2.0**-53  # uniform in (-1, 1), never zero
    return (direction * np.sqrt(width / np.square(direction).sum())).astype(np.float32)


class PretrainedText(Pretrained):
    """A pretrained text encoder of transformers and its tokenizer; paper appendix A: google/flan-t5-xl. Frozen.

    T5, umT5, CLIP's text, BERT-like and decoder-only networks: `ARCHITECTURES`. Encoded are the last hidden states of
    the text's tokens, those that the tokenizer puts around it included; after the tokens of a decoder-only network its
    end token follows, which has seen all of them. A text's encoding does not depend on the others of its batch:
    padding is masked, and kernels may only round differently for another number of rows or columns.

    name: a repository, a folder, or the id of one (`tessera.hub`). device: where it computes, None = the best
    there is. dtype: in what, torch.float32 (None) or torch.bfloat16; T5 overflows in float16. max_tokens: longest
    encoding, the end token included; at least 1, None = 256, or fewer where the network has fewer positions. load: read
    the weights now, not when the first text comes. batch_tokens: padding included, that go through the network at a
    time.
    """

    null_condition = _null
    may_be_missing = r"pooler\..*"  # of a BERT trained to fill in words

    def __init__(
        self,
        name: str,
        device: "str | torch.device | None" = None,
        dtype: "torch.dtype | None" = None,
        load: bool = True,
        max_tokens: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {max_tokens}")
        super().__init__("transformers.AutoModel", name, TEXT_FILES, "text", "a text encoder", device, dtype)
        self._batch_tokens = batch_tokens
        known = f"a text encoder of transformers: {', '.join(ARCHITECTURES)}"
        config = self.folder.config("text", "model_type", ARCHITECTURES, known)
        kind = config["model_type"]
        self._cls, config = f"transformers.{ARCHITECTURES[kind]}", config.get("text_config") or config
        self.width = int(config.get("d_model" if kind in _T5 else "hidden_size", 512))  # of T5Config, CLIPTextConfig
        positions = config.get("max_position_embeddings", 77 if kind in _CLIP else MAX_TOKENS)
        self.max_tokens = max_tokens or (MAX_TOKENS if kind in _T5 else min(MAX_TOKENS, positions))
        if not set(_VOCABULARIES) & set(self.folder.files):
            raise UserError(f"text: {self.id} has no tokenizer.json and no spiece.model; copy its tokenizer there")
        self._tokenizer = load_tokenizer(self.folder, "text")
        end = self._tokenizer.eos_token_id
        self._end = [end] if kind in _CAUSAL and end is not None else []
        if kind in _T5 and self._tokenize([""]) != [[end]]:
            raise UserError(f"text: the tokenizer of {self.id} does not end a text with {END}; its files are not T5's")
        if not self._tokenize([""])[0]:
            raise UserError(f"text: the tokenizer of {self.id} has no end token (eos_token); copy its own files there")
        if load:
            _ = self.network

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self._tokenize(texts)]

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """Encode texts: float32 (L, D) for each, in their order; a cut spares the end token.

        Texts of nearly one length are a batch.
        """
        encoded: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(texts)
        for members, states, mask in self._batches(texts):
            for i, row, length in zip(members, states.float().cpu().numpy(), mask.sum(1).tolist()):
                encoded[i] = row[:length].copy()
        return encoded

    def quantize(self, texts: Sequence[str]) -> list[tuple[NDArray[np.int8], NDArray[np.float16]]]:
        """Encode texts as int8 codes (L, D) and fp16 scales, those of `tessera.encoded.record.quantize`.

        Computed on the device: a quarter of the bytes come from there.
        """
        import torch

        stored: list[Any] = [None] * len(texts)
        for members, states, mask in self._batches(texts):
            flat = states[mask.to(states.device)].float()  # (sum of L, D)
            grouped = torch.nn.functional.pad(flat, (0, -self.width % GROUP)).unflatten(1, (-1, GROUP))
            scale = (grouped.abs().amax(2) / 127).half()  # (sum of L, groups)
            divisor = torch.where(scale > 0, scale, torch.ones_like(scale)).float()
            codes = (grouped / divisor[..., None]).round().clamp(-127, 127).to(torch.int8).flatten(1)[:, : self.width]
            told, scales, ends = codes.cpu().numpy(), scale.cpu().numpy(), np.cumsum(mask.sum(1).numpy())[:-1]
            if not np.isfinite(scales).all():
                raise ValueError("text embeddings must be finite and below 8e6")
            for i, *both in zip(members, np.split(told, ends), np.split(scales, ends)):
                stored[i] = tuple(both)
        return stored

    def _batches(self, texts: Sequence[str]) -> "Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]":
        """Yield (numbers of b texts, their states (b, longest L, D) on the device, mask (b, longest L) on the CPU)."""
        import torch

        tokens = [ids if len(ids) <= self.max_tokens else [*ids[: self.max_tokens - 1], ids[-1]]
                  for ids in self._tokenize(texts)]  # fmt: skip
        order = sorted(range(len(texts)), key=lambda i: (-len(tokens[i]), i))
        while order:
            longest = len(tokens[order[0]])
            count = max(self._batch_tokens // longest, 1)
            batch, order = order[:count], order[count:]
            ids = torch.full((len(batch), longest), self._tokenizer.pad_token_id or 0)  # (b, L)
            mask = torch.zeros_like(ids)
            for row, i in enumerate(batch):
                ids[row, : len(tokens[i])] = torch.tensor(tokens[i])
                mask[row, : len(tokens[i])] = 1
            with torch.inference_mode():
                states = self.network(input_ids=ids.to(self.device), attention_mask=mask.to(self.device))
            yield batch, states.last_hidden_state, mask.bool()

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        found = self._tokenizer(list(texts), truncation=False, verbose=False)["input_ids"] if texts else []
        return [ids if ids[-1:] == self._end else [*ids, *self._end] for ids in found]


class OwnTextEncoder(OwnPart):
    """A text encoder of a user's own file; results are checked against `TextEncoder`."""

    null_condition = _null

    def __init__(self, spec: str, device: "str | torch.device | None" = None) -> None:
        super().__init__(spec, "text encoder", ("encode",), device)

    @property
    def width(self) -> int:
        with self.blaming():
            return int(self.part.width)

    @property
    def max_tokens(self) -> int:
        return int(getattr(self.part, "max_tokens", sys.maxsize))

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of each text: before any cut, where the user's class does it."""
        if hasattr(self.part, "count_tokens"):
            with self.blaming():
                return [int(count) for count in self.part.count_tokens(texts)]
        return [len(tokens) for tokens in self.encode(texts)]

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        with self.blaming():
            encoded = [np.asarray(tokens, np.float32) for tokens in self.part.encode(texts)]
            width = int(self.part.width)
            for tokens in encoded:
                if tokens.ndim != 2 or not len(tokens) or tokens.shape[1] != width or not np.isfinite(tokens).all():
                    shape = f"(L, {width}) with L at least 1"
                    raise UserError(f"encode() must return finite arrays of shape {shape}, not {tokens.shape}")
            if len(encoded) != len(texts):
                raise UserError(f"encode() must return an array for each text, {len(texts)}, not {len(encoded)}")
        return encoded


TEXT_ENCODERS = Kind[TextEncoder](
    "text",
    "text encoder",
    {"words": Words},
    PretrainedText,
    OwnTextEncoder,
    known="words:<width>, a Hugging Face repository such as google/flan-t5-xl, the folder of one",
)
"""Families, by the first part of an id, and the other ways to name an encoder; one entry adds a family."""
load_text_encoder = TEXT_ENCODERS.load
