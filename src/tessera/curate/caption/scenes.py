"""The captioner `scene`: long descriptions of the miniature from its ground truth (in place of paper section 3.1)."""

from collections.abc import Iterable, Iterator, Mapping

from tessera.config import UserError
from tessera.curate.caption.captioner import CaptionCall, CaptionRequest, CaptionSource
from tessera.curate.index import read_scenes
from tessera.cutmix import CROP
from tessera.miniature import describe, mix_scene
from tessera.progress import progress
from tessera.randomness import address
from tessera.records import Scene


class FromScenes(CaptionSource):
    """Captions that say everything that the miniature's scenes hold; the seed draws the phrasing."""

    by_shards, said = False, "ground truth"

    def __init__(self, call: CaptionCall):
        super().__init__(call)
        self._images = call.images

    def answer(self, requests: Iterable[CaptionRequest]) -> Iterator[tuple[str, str]]:
        """Yield (key, caption). Raises UserError if the images are not the miniature, or are windows of it."""
        scenes, requests = read_scenes(self._images), list(requests)
        with progress("caption", len(requests)) as bar:
            for request in requests:
                own = address("caption", request.key)
                yield request.key, describe(scene_of(request, scenes), self.config.seed, own)
                bar.advance()


def scene_of(request: CaptionRequest, scenes: Mapping[str, Scene]) -> Scene:
    """Return the ground truth of an image or CutMix image; `scenes`: by key of images. UserError for a crop."""
    base, placement = scenes[request.base.key], request.placement
    if placement is None or request.partner is None:
        return base
    if placement.pattern == CROP:
        raise UserError(
            "captioner scene does not know what a crop leaves out; use aio or import, and no short captions"
        )
    return mix_scene(base, scenes[request.partner.key], placement, request.composer.half_view)
