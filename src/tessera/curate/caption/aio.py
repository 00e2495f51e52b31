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
    return aio_caption(placed_phrases(request, placement, (request.class_name, partner), seed))


def placed_phrases(request: CaptionRequest, placement: Placement, phrases: tuple[str, str], seed: int) -> str:
    """Return one phrase of two, of a CutMix image's base and of its partner, that says where they are."""
    told = [f"{phrase} {place}" for phrase, place in zip(phrases, mix_places(placement, request.words))]
    # The order is drawn: a caption must not tell which image was the base.
    return " and ".join(told[::-1] if address(seed, "caption", request.key) % 2 == 1 else told)


def short_of_mix(request: CaptionRequest, placement: Placement, phrases: tuple[str, str], seed: int) -> str:
    """Return what a person types for a CutMix image: two phrases with their places; for half of the images whose halves
    are side by side or above one another in reading order, "a fox and an owl" or "a fox above an owl"."""
    base, partner = phrases
    if request.words is None and placement.spans_frame and address(seed, "caption/short", request.key) % 2 == 1:
        return f"{base} {'and' if placement.box[0] > 0 else 'above'} {partner}"
    return placed_phrases(request, placement, phrases, seed)


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
