"""The data of a study's cells: each set is made once and shared by all cells, of all studies in one folder.

    data/images-XX/  data/recipe-XX/  data/prompts-XX/  data/captions-XX/  data/encoded-XX/
    data/emoji-XX/  data/judge-XX/: of drawings

XX tells apart the configurations that a directory depends on, its inputs' included.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera.config import to_dict
from tessera.curate.caption.caption import CaptionConfig, find_captioner
from tessera.presets.config import RunConfig
from tessera.study.design import digest


@dataclass(frozen=True)
class Data:
    """The directories of a cell."""

    images: Path
    recipe: Path | None
    """None for an arm without CutMix images, unless prompts of drawings leave out its pairs."""
    plain: Path
    augmented: Path | None
    prompts: Path
    drawings: Path | None
    """A folder of `draw_emoji`; None = `collect` draws the images."""
    judge: Path | None
    """The judge of those drawings."""

    def held_out(self, number: int) -> Path:
        """Return the directory of `number` captions of held-out scenes."""
        return self.images.with_name(f"held_out-{digest([self.images.name, number])}")


def data_of(root: Path, config: RunConfig) -> Data:
    """Return the directories of the data of a run of one arm, below the folder `root`, whether made or not."""
    (arm,) = config.arms
    emoji, judge = (None if part is None else to_dict(part) for part in (config.emoji, config.judge))
    of_images = digest(to_dict(config.collect) | ({} if emoji is None else {"emoji": emoji}))
    mix = digest([of_images, to_dict(config.augment)])
    words, encode = _identity(config.captions(arm)), to_dict(config.encode)
    about = [] if judge is None else [mix, judge["concepts"]]
    assert config.prompts is not None
    return Data(
        images=root / f"images-{of_images}",
        recipe=root / f"recipe-{mix}" if arm.augmented or judge is not None else None,
        plain=root / f"encoded-{digest([of_images, words, encode])}",
        augmented=root / f"encoded-{digest([mix, words, encode])}" if arm.augmented else None,
        prompts=root / f"prompts-{digest([of_images, to_dict(config.prompts), *about])}",
        drawings=None if emoji is None else root / f"emoji-{digest(emoji)}",
        judge=None if judge is None else root / f"judge-{digest([emoji, judge])}",
    )


def prepare(root: Path, config: RunConfig) -> Data:
    """Make what is not there yet of the data of `config`, and return its directories."""
    from tessera.curate.augment import augment
    from tessera.curate.caption.caption import caption
    from tessera.curate.collect.collect import collect
    from tessera.curate.emoji.draw import CAPTIONS, draw_emoji
    from tessera.curate.encode import encode, with_default_compute
    from tessera.run import make_judge, prompt_writer

    data = data_of(root, config)
    if data.drawings is not None and config.emoji is not None:
        draw_emoji(data.drawings, config.emoji)
    collect(data.images, config.collect, data.drawings)
    if data.recipe is not None:
        augment(data.recipe, data.images, config.augment)
    assert config.prompts is not None
    prompt_writer(data.images, config, data.drawings, data.recipe)(data.prompts, config.prompts)
    if data.judge is not None:
        make_judge(data.judge, config)
    file = None if data.drawings is None else data.drawings / CAPTIONS
    for encoded, recipe in ((data.plain, None), (data.augmented, data.recipe)):
        if encoded is not None:
            words = config.captions(config.arms[0])
            captions = root / f"captions-{digest([_identity(words), recipe and recipe.name, data.images.name])}"
            caption(captions, data.images, words, recipe=recipe, captions_file=file)
            encode(encoded, data.images, captions, with_default_compute(config.encode, encoded), recipe=recipe)
    return data


def _identity(words: CaptionConfig) -> list[Any]:
    return [to_dict(words), find_captioner(words.captioner).revision]
