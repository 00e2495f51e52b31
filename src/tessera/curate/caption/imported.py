"""The captioner `import`: captions that the user has, matched with the images by their names."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from tessera.config import UserError
from tessera.curate.caption.aio import mix_places
from tessera.curate.caption.captioner import CaptionCall, CaptionRequest, CaptionSource
from tessera.curate.caption.file import find_captions, read_captions_file
from tessera.curate.index import read_images
from tessera.curate.published_recipe import image_names, published_name, without_suffix
from tessera.cutmix import CROP


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

    def answer(self, requests: Iterable[CaptionRequest]) -> Iterable[tuple[str, str]]:
        """Return (key, caption) of each image that has one. Raises UserError for a damaged file."""
        requests, names = list(requests), image_names(read_images(self._images))
        mixes = {
            published_name(request.base.key, request.partner.key, request.placement): request.key
            for request in requests
            if request.partner is not None and request.placement is not None
        }
        if not mixes:
            texts = self._named(names, names)
        else:
            mixes |= {request.key: request.key for request in requests}
            texts = self._named(mixes, names | mixes)
            if len(texts) < len(requests):
                parts = self._named(names, names | mixes)
                whole = (r for r in requests if r.partner and {r.base.key, r.partner.key} <= parts.keys())
                texts = {request.key: _joined(request, parts) for request in whole} | texts
        self.missing = {request.key: "" for request in requests if request.key not in texts}
        return ((request.key, texts[request.key]) for request in requests if request.key in texts)

    def _named(self, wanted: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
        return named_captions(self._path, wanted, known)


def captions_by_hand(file: str | Path, images: Path) -> dict[str, str]:
    """Return key -> text of a captions file, whose names may be keys of images or of CutMix images."""
    names = image_names(read_images(images))
    return named_captions(find_captions(file)[0], names, names, mixed=True)


def named_captions(
    path: str | Path, wanted: Mapping[str, str], known: Mapping[str, str], mixed: bool = False
) -> dict[str, str]:
    """Return key -> text of the captions that have one of the names `wanted` (name -> key).

    mixed: any other name is a key too. Raises UserError for two different captions of an image.
    """
    texts: dict[str, str] = {}
    for name, text in read_captions_file(path, known):
        key = wanted.get(name) or wanted.get(without_suffix(name)) or (name if mixed else None)
        if key is not None and text.strip() and texts.setdefault(key, text) != text:
            raise UserError(f"{path}: has two different captions for {name!r}; leave one")
    return texts


def _joined(request: CaptionRequest, parts: Mapping[str, str]) -> str:
    """Join the captions of a CutMix image's two images, `parts` by key, because no captioner has seen it."""
    placement, partner, base = request.placement, request.partner, parts[request.base.key]
    if placement is None or partner is None or placement.pattern == CROP:
        return base
    places = mix_places(placement, request.words)
    told = zip(places, (base, parts[partner.key]))
    return " ".join(f"{place.capitalize()}, {text.strip().rstrip('.')}." for place, text in told)
