"""short: puts short captions in the place of some long ones, so that a model answers short prompts too.

The paper's DiT-I scores 0.24 on GenEval's short prompts and 0.57 on extended ones, for it has seen long captions alone
(section 4.2). A short caption names the objects, perhaps with color and relation, as a person would type it; where
there is no ground truth (a user's pictures) it is "An image of <class-name>" (section 3.1).
"""

from pathlib import Path

from tessera.config import UserError
from tessera.curate.caption.caption import CAPTIONS_TABLE, aio_caption, aio_caption_of, read_captions, scene_of
from tessera.curate.index import SCENES_TABLE, is_complete, read_images, read_recipe, read_scenes
from tessera.files import read_table, write_table
from tessera.miniature import describe_short
from tessera.randomness import address
from tessera.stages import open_stage, read_manifest

_STEPS = 2**32


def shorten(out: Path, captions: Path, images: Path, share: float, recipe: Path | None = None, seed: int = 0) -> None:
    """Makes the captions directory `out` from `captions`, with short ones for `share` of the pictures, drawn by key.

    images, recipe: what `captions` was made from. UserError for a share outside [0, 1].
    """
    out, captions, images = Path(out), Path(captions), Path(images)
    if not 0 <= share <= 1:
        raise UserError(f"share of short captions is {share}: give a number from 0 to 1")
    before = read_manifest(captions, "caption")
    inputs = {"images": images, "captions": captions} | ({"recipe": Path(recipe)} if recipe is not None else {})
    config = before.config | {"short_share": share, "short_seed": seed}
    texts: dict[str, str] = {}
    chosen: set[str] = set()
    if not is_complete(out):
        texts = read_captions(captions)
        chosen = {key for key in texts if address(seed, "short", key) % _STEPS < share * _STEPS}
        texts |= _short(images, recipe, chosen, seed)
    stage = open_stage(out, stage="caption", config=config, inputs=inputs)
    if stage.done:
        return
    table = read_table(captions / CAPTIONS_TABLE)
    place = table.schema.get_field_index("text")
    write_table(out / CAPTIONS_TABLE, table.set_column(place, "text", [[texts[k] for k in table["key"].to_pylist()]]))
    counts = {"records": len(texts), "short": len(chosen), "distinct": len(set(texts.values()))}
    stage.finish(counts)


def _short(images: Path, recipe: Path | None, keys: set[str], seed: int) -> dict[str, str]:
    """Key -> short caption, of plain pictures or of the recipe's."""
    mixed = read_recipe(Path(recipe)) if recipe is not None else None
    if (images / SCENES_TABLE).is_file():
        scenes = read_scenes(images)
        if mixed is not None:
            view = mixed.half_view
            scenes = {mix.key: scene_of(mix, scenes, view) for mix in mixed.rows if mix.key in keys}
        return {key: describe_short(scenes[key], seed, address("short", key)) for key in sorted(keys)}
    classes = {row.key: row.class_name for row in read_images(images)}
    if mixed is None:
        return {key: aio_caption(classes[key]) for key in sorted(keys)}
    return {mix.key: aio_caption_of(mix, classes, seed, mixed.words) for mix in mixed.rows if mix.key in keys}
