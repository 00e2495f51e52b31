"""The door for captioners: the protocol of a user's own class, and what every captioner is given."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tessera.curate.index import Composer, Entry, ImageRow, Recipe, read_images
from tessera.pretrained.captioner.prompt import MAX_NEW_TOKENS, prompt_of
from tessera.pretrained.chat import RETRY, Retry
from tessera.records import Placement

if TYPE_CHECKING:
    from tessera.curate.caption.caption import CaptionConfig


@dataclass(eq=False, slots=True)
class CaptionRequest:
    """An image that needs a caption."""

    key: str
    base: ImageRow
    partner: ImageRow | None
    """For a CutMix image, the image that is pasted."""
    placement: Placement | None
    """For a CutMix image, its pattern and the box where `partner` is, in pixels; None = the image as it is."""
    composer: Composer
    words: tuple[str, str] | None = None
    """Places of base and partner in words, if the pattern is a user's that says them."""

    @property
    def class_name(self) -> str:
        """The class of the image, or of a CutMix image's base."""
        return self.base.class_name

    @property
    def partner_class_name(self) -> str | None:
        """The class of the image that is pasted, if one is."""
        return self.partner.class_name if self.partner is not None else None

    @property
    def image(self) -> NDArray[np.uint8]:
        """The pixels, uint8 (S, S, 3), composed for a CutMix image; read anew each time."""
        partner = str(self.partner.file) if self.partner is not None else None
        return self.composer(Entry(self.key, self.class_name, str(self.base.file), partner, self.placement))


def iter_requests(images: Path, mixed: Recipe | None) -> Iterator[CaptionRequest]:
    """Yield a request for each image of a set, or of the recipe `mixed` over it, in their order."""
    if mixed is None:
        composer = Composer(images)
        yield from (CaptionRequest(row.key, row, None, None, composer) for row in read_images(images))
        return
    rows, composer = {row.key: row for row in read_images(images)}, Composer(images, mixed.half_view)
    for mix in mixed.rows:
        words = mixed.words.get(mix.placement.pattern)
        yield CaptionRequest(mix.key, rows[mix.base], rows[mix.partner], mix.placement, composer, words)


class Captioner(Protocol):
    """A user's own captioner: a class that is made without arguments, once in each worker process."""

    def describe(self, requests: Sequence[CaptionRequest]) -> Sequence[str]:
        """Return the caption of each image, in their order. Called with up to 256 at a time."""
        ...


@dataclass(frozen=True, kw_only=True)
class CaptionCall:
    """The arguments of `caption`, of which a captioner takes what it needs. Sent to worker processes."""

    config: "CaptionConfig"
    images: Path
    file: Path | str | None = None
    captions: Mapping[str, Path] = field(default_factory=dict)
    device: str | None = None
    server: str | None = None
    concurrency: int = 256
    retry: Retry = RETRY
    max_new_tokens: int = MAX_NEW_TOKENS
    again: bool = False
    """The images are those that had no answer before: any number of them may fail."""


class CaptionSource:
    """A captioner of the table `tessera.curate.caption.caption.CAPTIONERS`."""

    by_shards = True
    """True: it works in shards on the engine, and stops lose at most a shard; False: at once, from what is known."""
    streams = False
    """True: `answer` takes requests of one shard after another before it has answered those that it has."""
    revision = "1"

    def __init__(self, call: CaptionCall):
        self.config = call.config
        """The configuration as the manifest stores it, with the resolved model or file."""
        self.settings: dict[str, Any] = {"seed": call.config.seed}
        self.missing: dict[str, str] = {}
        """key -> reason of the images that `answer` had nothing for, of one that does all at once."""
        self.fix = "Add them"
        self.counts: dict[str, int] = {}
        """More counts for the manifest."""

    said: str | None = ""
    """The column `prompt`; None: the paper's prompts."""

    def prompt(self, request: CaptionRequest) -> str:
        """Return what the column `prompt` says of an image: what the captioner is asked."""
        return prompt_of(request.placement) if self.said is None else self.said

    def answer(self, requests: Iterable[CaptionRequest]) -> Iterable[tuple[str, Any]]:
        """Return (key, caption) of each image: by shards in any order an `Answer`; at once, in order, its text at each
        level (`tessera.curate.caption.table`), and nothing for an image without one."""
        raise NotImplementedError
