"""A short prompt in the style of a training's captions, by rules built from some of them: no word that is not theirs.

The rules are the words that most captions begin with ("A drawing of a"), and the clauses at their ends whose words are
all frequent: they say style, ground or light, not what one image shows.
"""

import re
from collections import Counter
from collections.abc import Sequence

from tessera.pretrained.text_encoders import split_words
from tessera.randomness import address, philox

STYLE = "the training's captions"
"""Maker of these texts."""
_CLAUSE = re.compile(r"[,;:.]\s+|\s+(?=(?:with|on|in|against|under|at|by|near|behind|seen|made)\b)")
_CORE = 3  # words of a caption that come before its first further clause
_BEGINNING, _FREQUENT = 0.3, 0.1  # shares of the captions that have a beginning, and a word of a further clause
_NEXT = 0.6  # share of the captions with a beginning that have one more word of it in common
_ARTICLE = re.compile(r"(?:an?|the)\s+", re.IGNORECASE)
_NUMBERS = "no|one|two|three|four|five|six|seven|eight|nine|ten|some|several|many"
_COUNT = re.compile(rf"(?:\d+|{_NUMBERS})\b", re.IGNORECASE)


def extend_in_style(prompt: str, captions: Sequence[str], seed: int) -> str:
    """Return the prompt as the longer half of `captions` would say it; their clauses are drawn at (seed, prompt).

    The prompt itself where they have neither a beginning nor clauses in common.
    """
    told = prompt.strip().rstrip(".")
    longer = sorted(captions, key=len)[len(captions) // 2 :]
    clauses, told = _clauses(longer), _begun(told, longer)
    if clauses:
        rng = philox(seed, "prompts/style", address(prompt))
        more = clauses[int(rng.integers(len(clauses)))]
        told += "" if more.lower() in told.lower() else more
    return f"{told}." if longer and longer[-1].rstrip().endswith(".") and told != prompt.strip() else told


def _beginning(captions: Sequence[str]) -> str:
    """Return the longest beginning, of whole words, that a good share of the captions have, or ""."""
    words, best, before = [caption.split() for caption in captions], "", 0
    for length in range(1, 8):
        found = Counter(" ".join(each[:length]) for each in words if len(each) > length)
        text, count = max(found.items(), key=lambda item: item[1], default=("", 0))
        if count < max(2, _BEGINNING * len(captions), _NEXT * before) or text[-1:] in ",;:.":
            break
        best, before = text, count
    return best


def _begun(told: str, captions: Sequence[str]) -> str:
    """Return a prompt after the captions' beginning, whose article gives way to the prompt's own or its number."""
    begin, own = _beginning(captions), _ARTICLE.match(told)
    words = begin.split()
    at = max((n for n, word in enumerate(words) if _ARTICLE.match(f"{word} ")), default=0)
    before = " ".join(words[:at])
    if not begin or any(start and told.lower().startswith(start.lower()) for start in (begin, before)):
        return told
    after = [caption[len(begin) :].strip() for caption in captions if caption.startswith(f"{begin} ")]
    if sum(bool(_ARTICLE.match(rest)) for rest in after) < _BEGINNING * len(after):  # "A drawing of a", "A small"
        if not _COUNT.match(told) and (own is None or at < len(words) - 1):
            return f"{begin} {told[own.end() :] if own else told}"
        begin = before
    return f"{begin} {own[0].lower() + told[own.end() :] if own else told}".strip()


def _clauses(captions: Sequence[str]) -> list[str]:
    """Return the longest end of each caption, after its first clause, whose words are all frequent; each once."""
    counts = Counter(word for caption in captions for word in set(split_words(caption)))
    usual = {word for word, count in counts.items() if count >= max(2, _FREQUENT * len(captions))}
    found: dict[str, None] = {}
    for caption in captions:
        text = caption.strip().rstrip(".")
        places = [match.start() for match in _CLAUSE.finditer(text)]
        ends = (text[place:] for place in places if len(text[:place].split()) >= _CORE)
        if end := next((end for end in ends if usual.issuperset(split_words(end))), None):
            found[end] = None
    return list(found)
