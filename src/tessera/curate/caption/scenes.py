"""The captioner `scene`: descriptions of the miniature from its ground truth (in place of paper section 3.1)."""

from collections.abc import Iterable, Iterator, Mapping

from tessera.curate.caption.captioner import CaptionCall, CaptionRequest, CaptionSource
from tessera.curate.caption.table import Texts
from tessera.curate.index import read_scenes
from tessera.cutmix import CROP
from tessera.encoded.record import LONG
from tessera.miniature import describe, describe_medium, describe_short, mix_scene
from tessera.progress import progress
from tessera.randomness import address
from tessera.records import Scene

LEVELS = {LONG: describe, "medium": describe_medium, "short": describe_short}
"""The levels, each with its words."""


class FromScenes(CaptionSource):
    """Captions of three levels: `long` says everything that the miniature's scenes hold, `medium` leaves out clauses,
    `short` is what a person types. The seed draws the phrasings. A crop, of which the scene does not say what is left
    of its image, has a short one alone."""

    by_shards, said, revision = False, "ground truth", "2"

    def __init__(self, call: CaptionCall):
        super().__init__(call)
        self._images = call.images

    def answer(self, requests: Iterable[CaptionRequest]) -> Iterator[tuple[str, Texts]]:
        """Yield (key, captions). Raises UserError if the images are not the miniature."""
        scenes, requests = read_scenes(self._images), list(requests)
        with progress("caption", len(requests)) as bar:
            for request in requests:
                scene, own = scene_of(request, scenes), address("caption", request.key)
                cut = request.placement is not None and request.placement.pattern == CROP
                levels = {LONG: describe_short} if cut else LEVELS
                yield request.key, {level: say(scene, self.config.seed, own) for level, say in levels.items()}
                bar.advance()


def scene_of(request: CaptionRequest, scenes: Mapping[str, Scene]) -> Scene:
    """Return the ground truth of an image, of the one that a crop shows a part of, or of a CutMix image. scenes: by key
    of images."""
    base, placement = scenes[request.base.key], request.placement
    if placement is None or placement.pattern == CROP or request.partner is None:
        return base
    return mix_scene(base, scenes[request.partner.key], placement, request.composer.half_view)
