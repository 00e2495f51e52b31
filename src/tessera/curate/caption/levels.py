"""Captioners that make several captions an image of those that there are: `join` of several runs, `shorten` by rules.

The paper's DiT-I scores 0.24 on GenEval's short prompts and 0.57 on extended ones, because it was trained on long
captions alone (section 4.2). Shorter ones among them make it answer shorter prompts too.
"""

import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from tessera.config import UserError
from tessera.curate.caption.aio import lower_article, short_of_mix
from tessera.curate.caption.captioner import CaptionCall, CaptionRequest, CaptionSource
from tessera.curate.caption.table import Texts, check_level, in_order, read_levels
from tessera.cutmix import CROP
from tessera.encoded.record import SENTENCE_ENDS
from tessera.randomness import address, philox
from tessera.stages import read_manifest

_OPENING = re.compile(
    r"(?:(?:in )?(?:the|this|an?) (?:image|photo|photograph|pict\w+|scene|painting|illustration)\b"
    r"(?:,| (?:shows|depicts|features|captures|displays|presents|portrays|contains|of))? (?:there (?:is|are) )?"
    r"|there (?:is|are) )",
    re.IGNORECASE,
)
_CLAUSE = re.compile(
    r"[;:]\s|,\s(?=(?:and|but|or|with|in|on|at|by|under|over|near|behind|against|between|as|an?|the|its|his|her|their|some"
    r"|\w+ing)\b)|,?\s+(?=(?:which|who|whose|where|while)\b)",
    re.IGNORECASE,
)  # not the comma between two adjectives
_CORE = 4  # words of a sentence that come before its first clause that can be left out


class _FromCaptions(CaptionSource):
    """Base of the captioners that read other captions directories."""

    by_shards = False

    def __init__(self, call: CaptionCall):
        super().__init__(call)
        self.runs = call.captions
        self.settings |= {"captions": {name: read_manifest(path, "caption").config for name, path in self.runs.items()}}

    def answer(self, requests: Iterable[CaptionRequest]) -> Iterator[tuple[str, Texts]]:
        levels = self.levels()
        reasons = {key: why for path in self.runs.values() for key, why in read_manifest(path).rejects.items()}
        for request in requests:
            texts = {level: told[request.key] for level, told in levels.items() if request.key in told}
            if texts:
                yield request.key, self.more(request, texts)
            else:
                self.missing[request.key] = reasons.get(request.key, "")

    def levels(self) -> dict[str, dict[str, str]]:
        """Return level -> key -> text of the captions that are read."""
        raise NotImplementedError

    def more(self, request: CaptionRequest, texts: Texts) -> Texts:
        """Return all captions of an image, `texts` being those that are read."""
        return texts


class Joined(_FromCaptions):
    """The captions of several runs, each under the name of a level."""

    said = "joined"

    def levels(self) -> dict[str, dict[str, str]]:
        found = {}
        for name, path in self.runs.items():
            own = read_levels(path)
            found[name] = own.get(name) or own[in_order(own)[0]]
        return found


class Shortened(_FromCaptions):
    """The captions of a run, and two shorter ones by rules: `medium` (`drop_clauses`) and `short` (`shorten`).

    Of a CutMix image `short` names both classes (`short_of_mix`), and there is no `medium`: leaving a clause out might
    leave out one of the two objects.
    """

    said = "shortened by rules"

    def levels(self) -> dict[str, dict[str, str]]:
        (path,) = self.runs.values()
        return read_levels(path)

    def more(self, request: CaptionRequest, texts: Texts) -> Texts:
        long, seed = texts[in_order(texts)[0]], self.config.seed
        placement, partner = request.placement, request.partner_class_name
        if placement is not None and partner is not None and placement.pattern != CROP:
            return {"short": short_of_mix(request, placement, (request.class_name, partner), seed), **texts}
        medium = drop_clauses(long, philox(seed, "caption/medium", address(request.key)))
        return {"medium": medium, "short": shorten(long), **texts}


def find_runs(captioner: str, given: Iterable[str | Path]) -> dict[str, Path]:
    """Return name -> captions directory of what `join` ("LEVEL=DIRECTORY", two or more), `shorten` or `summarize` (one
    directory, of the name "") reads. Raises UserError."""
    pairs = [str(each).partition("=") for each in given]
    if captioner not in (known := ("join", "shorten", "summarize")):
        if pairs:
            named = ", ".join(known)
            raise UserError(f"captions {pairs[0][0]} are given, but the captioner is {captioner}: one of {named}")
        return {}
    if captioner != "join":
        if len(pairs) != 1:
            raise UserError(f"captioner {captioner} needs --captions with one directory, made by `tessera caption`")
        return {"": Path("".join(pairs[0]))}
    runs = {check_level(level, "captions"): Path(path) for level, equals, path in pairs if equals and path}
    if len(runs) < 2 or len(runs) < len(pairs):
        raise UserError(
            "captioner join needs --captions with a level, none twice, for each directory: long=captions/a"
            " short=captions/b"
        )
    return runs


def shorten(text: str) -> str:
    """Return the first sentence as a person types it: without "The image shows", and without its later clauses."""
    first = SENTENCE_ENDS.split(text.strip())[0].rstrip(" .!。")
    opening = _OPENING.match(first)
    first = first[opening.end() :] if opening and opening.end() < len(first) else first
    first = _clauses(first)[0] or text.strip()
    return lower_article(first)


def drop_clauses(text: str, rng: np.random.Generator) -> str:
    """Return the text with its first sentence, and each later one, and each later clause of a sentence, kept with
    probability 1/2."""
    kept = []
    for number, sentence in enumerate(SENTENCE_ENDS.split(text.strip())):
        first, *more = _clauses(sentence)
        end = sentence[-1] if sentence[-1:] in ".!?。" else ""
        told = first + "".join(clause for clause in more if rng.random() < 0.5)
        if number == 0 or rng.random() < 0.5:
            kept.append(told.rstrip(" .!?。,;:") + end)
    return " ".join(kept)


def _clauses(sentence: str) -> list[str]:
    """Return the sentence in parts: what it says first, and its later clauses, each with the comma before it."""
    opening = _OPENING.match(sentence)
    begin = opening.end() if opening else 0
    starts = [match.start() for match in _CLAUSE.finditer(sentence)]
    starts = [start for start in starts if len(sentence[begin:start].split()) >= _CORE]
    return [sentence[a:b] for a, b in itertools.pairwise([0, *starts, len(sentence)])]
