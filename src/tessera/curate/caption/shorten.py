"""Short captions in place of some long ones, so that a model answers short prompts too.

The paper's DiT-I scores 0.24 on GenEval's short prompts and 0.57 on extended ones, because it was trained on long
captions alone (section 4.2). A short caption names the objects, perhaps with color and relation, as a person would type
it; without ground truth (a user's images) it is "An image of <class-name>" (section 3.1).
"""

from pathlib import Path

from tessera.config import UserError
from tessera.curate.caption.aio import aio_caption_of
from tessera.curate.caption.caption import CAPTIONS_TABLE, read_captions
from tessera.curate.caption.captioner import CaptionRequest, iter_requests
from tessera.curate.caption.scenes import scene_of
from tessera.curate.index import SCENES_TABLE, read_recipe, read_scenes
from tessera.files import read_table, write_table
from tessera.miniature import describe_short
from tessera.randomness import address
from tessera.stages import is_complete, open_stage, read_manifest

_STEPS = 2**32


def shorten(out: Path, captions: Path, images: Path, share: float, recipe: Path | None = None, seed: int = 0) -> None:
    """Make the captions directory `out` from `captions`, with short ones for `share` of the images, drawn by key.

    images, recipe: what `captions` was made from. UserError for a share outside [0, 1].
    """
    out, captions, images = Path(out), Path(captions), Path(images)
    if not 0 <= share <= 1:
        raise UserError(f"share of short captions is {share}: give a number from 0 to 1")
    before = read_manifest(captions, "caption")
    inputs = {"images": images, "captions": captions} | ({"recipe": Path(recipe)} if recipe is not None else {})
    config = before.config | {"short_share": share, "short_seed": seed}
    texts: dict[str, str] = {}
    chosen: list[CaptionRequest] = []
    if not is_complete(out):
        texts = read_captions(captions)
        requests = iter_requests(images, read_recipe(Path(recipe)) if recipe is not None else None)
        known = (request for request in requests if request.key in texts)
        chosen = [request for request in known if address(seed, "short", request.key) % _STEPS < share * _STEPS]
        if (images / SCENES_TABLE).is_file():
            scenes = read_scenes(images)
            for request in chosen:
                texts[request.key] = describe_short(scene_of(request, scenes), seed, address("short", request.key))
        else:
            texts |= {request.key: aio_caption_of(request, seed) for request in chosen}
    stage = open_stage(out, stage="caption", config=config, inputs=inputs)
    if stage.done:
        return
    table = read_table(captions / CAPTIONS_TABLE)
    place = table.schema.get_field_index("text")
    write_table(out / CAPTIONS_TABLE, table.set_column(place, "text", [[texts[k] for k in table["key"].to_pylist()]]))
    counts = {"records": len(texts), "short": len(chosen), "distinct": len(set(texts.values()))}
    stage.finish(counts, before.rejects)
