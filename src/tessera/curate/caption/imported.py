"""The captioner `import`: captions that the user has, matched with the images by their names."""

import sys
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from tessera.config import UserError
from tessera.curate.caption.aio import lower_article, mix_places, short_of_mix
from tessera.curate.caption.captioner import CaptionCall, CaptionRequest, CaptionSource
from tessera.curate.caption.file import find_captions, read_captions_file
from tessera.curate.caption.names import ImageNames, image_names, without_suffix
from tessera.curate.caption.table import Texts, in_order
from tessera.curate.index import read_images
from tessera.curate.published_recipe import published_name
from tessera.cutmix import CROP
from tessera.randomness import address


class FromFile(CaptionSource):
    """Captions of a file or folder (`tessera.curate.caption.file`), where an image may be named by its key, its source
    or its crop's file, or its stem.

    A CutMix image is named by its key or by `published_name`; without a caption of its own it gets those of its two
    images, joined.
    """

    by_shards = False

    def __init__(self, call: CaptionCall):
        wanted = call.file or call.config.file
        if wanted is None:
            raise UserError("captioner import needs --file: a captions file, a folder, or OWNER/NAME on the Hub")
        self._path, name = find_captions(wanted)
        self._images = call.images
        super().__init__(call)
        self.config, self.revision = replace(call.config, file=name), name.rpartition("@")[2]
        self.settings = {"file": name}

    def answer(self, requests: Iterable[CaptionRequest]) -> Iterable[tuple[str, Texts]]:
        """Return (key, caption) of each image that has one. Raises UserError for a damaged file."""
        requests, rows = list(requests), read_images(self._images)
        names = image_names(rows)
        find = ImageNames(rows, names).find
        named = [
            (published_name(request.base.key, request.partner.key, request.placement), request.key)
            for request in requests
            if request.partner is not None and request.placement is not None
        ]
        often = Counter(name for name, _ in named)  # two classes may have images of one name
        others = []
        if not named:
            texts, others = named_captions(self._path, find, names)
        else:
            mixes = {name: key for name, key in named if often[name] == 1}
            mixes |= {request.key: request.key for request in requests}
            known = names | mixes
            texts, _ = named_captions(self._path, lambda name: _of_mix(name, mixes), known)
            if len(texts) < len(requests):
                parts, others = named_captions(self._path, find, known)
                joined = {request.key: _joined(request, parts, self.config.seed) for request in requests}
                texts = {key: each for key, each in joined.items() if each} | texts
        self.missing = {request.key: "" for request in requests if request.key not in texts}
        if others:
            named = f"{len(others)} names of no image of the set, such as {others[0]!r}"
            self.fix = f"It has {named}; the set has names like {requests[0].base.source!r}: add or rename them"
            self.counts["names_of_other_images"] = len(others)
        return ((request.key, texts[request.key]) for request in requests if request.key in texts)


def _of_mix(name: str, mixes: Mapping[str, str]) -> tuple[int, str] | None:
    key = mixes.get(name) or mixes.get(without_suffix(name))
    return (0, key) if key is not None else None


def captions_by_hand(file: str | Path, images: Path) -> dict[str, str]:
    """Return key -> text, the first level's, of a captions file; names may be keys of images or of CutMix images."""
    rows = read_images(images)
    names = ImageNames(rows, image_names(rows))
    texts, _ = named_captions(find_captions(file)[0], lambda name: names.find(name) or (0, name), names.exact)
    return {key: each[in_order(each)[0]] for key, each in texts.items()}


def named_captions(
    path: str | Path, find: Callable[[str], tuple[int, str] | None], known: Container[str]
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Return key -> level -> text of the captions that `find` gives a (rank, key) for their name, and the other names.

    Of an image's captions those of the lowest rank count, and above rank 0 only those of one name. Where most images
    have several captions of a level, such as `long`, they become the levels `long`, `long-2`, ..., and that is printed.
    Raises UserError for a file in which few have two different ones.
    """
    texts: dict[str, dict[str, str]] = {}
    near: dict[str, tuple[int, str]] = {}  # key -> rank and name of a caption that is above rank 0
    several: dict[str, str] = {}
    unclear: set[str] = set()
    others: list[str] = []
    for name, level, text in read_captions_file(path, known):
        rank, key = find(name) or (0, None)
        if key is None:
            others.append(name)
        if key is None or not text.strip():
            continue
        before, other = near.get(key, (0 if key in texts else rank, name))
        if rank > before:
            continue
        if rank < before or key not in texts:
            texts[key] = {}
            several.pop(key, None)
            near.pop(key, None)
            if rank:
                near[key] = rank, name
        told, number, each = texts[key], 1, level
        while told.get(each, text) != text:
            number += 1
            each = f"{level}-{number}"
        told[each] = text
        if number > 1:
            several.setdefault(key, name)
            if rank and name != other:
                unclear.add(key)
                others.append(name)
    unclear &= near.keys()
    texts = {key: text for key, text in texts.items() if key not in unclear} if unclear else texts
    several = {key: name for key, name in several.items() if key not in unclear}
    if several and 2 * len(several) < len(texts):
        raise UserError(f"{path}: has two different captions for {next(iter(several.values()))!r}; leave one")
    if several:
        levels = ", ".join(in_order(level for each in texts.values() for level in each))
        print(f"{path}: has several captions of {len(several)} images: the levels {levels}", file=sys.stderr)
    return texts, others


_MARKS = tuple("!?。！？")


def _joined(request: CaptionRequest, parts: Mapping[str, Texts], seed: int) -> dict[str, str]:
    """Join the captions of a CutMix image's two images, `parts` by key, at each level that both have, because no
    captioner has seen it. Which comes first is drawn: a caption must not tell which image was the base."""
    placement, partner, base = request.placement, request.partner, parts.get(request.base.key, {})
    if placement is None or partner is None or placement.pattern == CROP:
        return dict(base)
    places, other, joined = mix_places(placement, request.words), parts.get(partner.key, {}), {}
    for level in (level for level in base if level in other):
        pair = lower_article(base[level].strip()), lower_article(other[level].strip())
        if level == "short" and not any(text.endswith((".", *_MARKS)) for text in pair):
            joined[level] = short_of_mix(request, placement, pair, seed)
            continue
        told = [*zip(places, pair)]
        told = told[::-1] if address(seed, "caption", request.key) % 2 == 1 else told
        ends = ["" if text.endswith(_MARKS) else "." for _, text in told]
        said = [f"{place.capitalize()}, {text.rstrip('.')}" for place, text in told]
        joined[level] = f"{said[0]}{ends[0]} {said[1]}{ends[1]}"
    return joined
