"""The captioner `aio`, "An image of <class-name>": the paper's baseline (section 3.1)."""

from collections.abc import Iterable

from tessera.curate.caption.captioner import CaptionRequest, CaptionSource
from tessera.cutmix import CROP
from tessera.miniature import place
from tessera.randomness import address
from tessera.records import Placement


class Aio(CaptionSource):
    """Captions from class names; those of CutMix images name both and where they are."""

    by_shards = False

    def prompt(self, placement: Placement | None) -> str:
        return "An image of <class-name>"

    def answer(self, requests: Iterable[CaptionRequest]) -> Iterable[tuple[str, str]]:
        return ((request.key, aio_caption_of(request, self.config.seed)) for request in requests)


def aio_caption(class_name: str) -> str:
    """Return the paper's baseline caption."""
    return f"An image of {class_name}"


def aio_caption_of(request: CaptionRequest, seed: int) -> str:
    """Return the baseline caption of an image or CutMix image."""
    placement, partner = request.placement, request.partner_class_name
    if placement is None or partner is None or placement.pattern == CROP:
        return aio_caption(request.class_name)
    # The order is drawn: a caption must not tell which image was the base.
    swap = address(seed, "caption", request.key) % 2 == 1
    return aio_mix_caption(request.class_name, partner, mix_places(placement, request.words), swap)


def aio_mix_caption(base: str, partner: str, places: tuple[str, str], swap: bool = False) -> str:
    """Return the baseline caption of two classes and where they are; `swap` names the partner first."""
    first, second = f"{base} {places[0]}", f"{partner} {places[1]}"
    return aio_caption(f"{second} and {first}" if swap else f"{first} and {second}")


def mix_places(placement: Placement, words: tuple[str, str] | None = None) -> tuple[str, str]:
    """Return in words where the base and the partner of a CutMix image are; `words`: the pattern's own, if any."""
    if words is not None:
        return words
    left, top, right, bottom = (edge / placement.size for edge in placement.box)
    if placement.spans_frame:
        return ("on the left", "on the right") if left > 0 else ("at the top", "at the bottom")
    return "in the center", place(((left + right) / 2, (top + bottom) / 2))
