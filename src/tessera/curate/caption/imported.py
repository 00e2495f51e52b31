"""The captioner `import`: captions that the user has, matched with the images by their names."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

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
        self.config, self.revision = replace(call.config, file=name), name.rpartition("@")[2]
        self.settings = {"file": name}

    def answer(self, requests: Iterable[CaptionRequest]) -> Iterable[tuple[str, str]]:
        """Return (key, caption) of each image. Raises UserError for a damaged file, or images without a caption."""
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
                texts = _joined(requests, self._named(names, names | mixes)) | texts
        missing = [request.key for request in requests if request.key not in texts]
        if missing:
            listed = ", ".join(repr(key) for key in missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise UserError(
                f"{self._path}: has no caption for {len(missing)} of {len(requests)} images: {listed}; add them"
            )
        return ((request.key, texts[request.key]) for request in requests)

    def _named(self, wanted: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
        """Return key -> text of the captions that have one of the names `wanted` (name -> key)."""
        texts: dict[str, str] = {}
        for name, text in read_captions_file(self._path, known):
            key = wanted.get(name) or wanted.get(without_suffix(name))
            if key is not None and text.strip() and texts.setdefault(key, text) != text:
                raise UserError(f"{self._path}: has two different captions for {name!r}; leave one")
        return texts


def _joined(requests: Sequence[CaptionRequest], parts: Mapping[str, str]) -> dict[str, str]:
    """Return key -> caption of the CutMix images whose two images have captions, `parts` by key."""
    texts = {}
    for request in requests:
        partner, placement = request.partner, request.placement
        if partner is not None and placement is not None and request.base.key in parts and partner.key in parts:
            base = parts[request.base.key]
            crop = placement.pattern == CROP
            texts[request.key] = (
                base if crop else joined_caption(base, parts[partner.key], mix_places(placement, request.words))
            )
    return texts


def joined_caption(base: str, partner: str, places: tuple[str, str]) -> str:
    """Join the captions of a CutMix image's two images, because no captioner has seen it."""
    first, second = (text.strip().rstrip(".") for text in (base, partner))
    return f"{places[0].capitalize()}, {first}. {places[1].capitalize()}, {second}."
