"""The captioner `aio`, "An image of <class-name>": the paper's baseline (section 3.1)."""

import re
from collections.abc import Iterable

from tessera.curate.caption.captioner import CaptionRequest, CaptionSource
from tessera.curate.caption.table import Texts
from tessera.cutmix import CROP
from tessera.encoded.record import LONG
from tessera.miniature import place
from tessera.randomness import address
from tessera.records import Placement


class Aio(CaptionSource):
    """Captions from class names; those of CutMix images name both and where they are."""

    by_shards, said = False, "An image of <class-name>"

    def answer(self, requests: Iterable[CaptionRequest]) -> Iterable[tuple[str, Texts]]:
        return ((request.key, {LONG: aio_caption_of(request, self.config.seed)}) for request in requests)


def aio_caption_of(request: CaptionRequest, seed: int) -> str:
    """Return the baseline caption of an image or CutMix image."""
    placement, partner = request.placement, request.partner_class_name
    if placement is None or partner is None or placement.pattern == CROP:
        return aio_caption(request.class_name)
    places = mix_places(placement, request.words)
    told = [f"{request.class_name} {places[0]}", f"{partner} {places[1]}"]
    # The order is drawn: a caption must not tell which image was the base.
    return aio_caption(" and ".join(told[::-1] if address(seed, "caption", request.key) % 2 == 1 else told))


def aio_caption(class_name: str) -> str:
    """Return the paper's baseline caption."""
    return f"An image of {class_name}"


def lower_article(text: str) -> str:
    """Return a text that stands within a sentence: a capital article at its start becomes a small one."""
    return text[0].lower() + text[1:] if re.match(r"(?:A|An|The)\b", text) else text


def mix_places(placement: Placement, words: tuple[str, str] | None = None) -> tuple[str, str]:
    """Return in words where the base and the partner of a CutMix image are; `words`: the pattern's own, if any."""
    if words is not None:
        return words
    left, top, right, bottom = (edge / placement.size for edge in placement.box)
    if placement.spans_frame:
        return ("on the left", "on the right") if left > 0 else ("at the top", "at the bottom")
    return "in the center", place(((left + right) / 2, (top + bottom) / 2))
