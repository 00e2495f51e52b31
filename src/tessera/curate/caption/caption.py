"""caption: images/ (or a recipe of augmented ones) -> captions.parquet (paper section 3.1).

A captioner is an entry of `CAPTIONERS`, or a class of the user's own file (`tessera.curate.caption.captioner`). An
augmented image's caption tells one scene with both objects and where they are, never that it is a composite (paper
appendix B).

captions.parquet: key, text, captioner, prompt, settings (JSON), revision.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tessera.config import UserError, check_ranges, load_part, to_dict
from tessera.curate.caption.aio import Aio
from tessera.curate.caption.captioner import CaptionCall, CaptionSource, iter_requests
from tessera.curate.caption.imported import FromFile
from tessera.curate.caption.model import PARTS, SHARD, FromLlava, FromPart, FromServer, make_captions
from tessera.curate.caption.scenes import FromScenes
from tessera.curate.index import read_recipe
from tessera.files import read_table, write_table
from tessera.pretrained.captioner.prompt import MAX_NEW_TOKENS
from tessera.pretrained.chat import RETRY, Retry
from tessera.stages import is_complete, open_stage, read_manifest
from tessera.workers import HERE, Engine

CAPTIONS_TABLE = "captions.parquet"
CAPTIONERS: dict[str, type[CaptionSource]] = {
    "aio": Aio,
    "scene": FromScenes,
    "import": FromFile,
    "llava": FromLlava,
    "openai": FromServer,
}
"""The captioners by name; `caption` takes FILE.py:NAME too."""
COLUMNS = ("key", "text", "captioner", "prompt", "settings", "revision")


@dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    """The source of captions."""

    captioner: str = "aio"
    """A name in `CAPTIONERS`: "aio": from the class name; "scene": from the miniature's ground truth; "import": from
    a file; "llava": by a LLaVA-NeXT of this machine; "openai": by a server of OpenAI's protocol; or FILE.py:NAME, a
    class of the user's own."""
    seed: int = 0
    """Address of the choice between phrasings, 0 or more."""
    file: str | None = None
    """For "import", the captions file; recorded as NAME@HASH of its bytes. None for the other captioners."""
    model: str | None = None
    """For "llava", a repository or folder (None = the paper's); for "openai", the server's name for the model (None =
    its only one)."""

    def __post_init__(self):
        if ".py:" not in self.captioner:
            find_captioner(self.captioner)
        if self.model is not None and self.captioner not in ("llava", "openai"):
            raise UserError(f"model {self.model!r} is given, but the captioner is {self.captioner}: llava or openai")
        if self.file is not None and self.captioner != "import":
            raise UserError(f"file {self.file!r} is given, but the captioner is {self.captioner}: make it import")
        check_ranges(self, seed="[0, inf)")


def find_captioner(name: str) -> type[CaptionSource]:
    """Return the entry `name` of `CAPTIONERS`, or the one for FILE.py:NAME. Raises UserError."""
    load_part(name, CAPTIONERS, "captioner", needs=["describe"])
    return CAPTIONERS.get(name, FromPart)


def caption(
    out: Path,
    images: Path,
    config: CaptionConfig,
    recipe: Path | None = None,
    captions_file: Path | str | None = None,
    *,
    engine: Engine = HERE,
    device: str | None = None,
    server: str | None = None,
    concurrency: int = 32,
    retry: Retry = RETRY,
    max_new_tokens: int = MAX_NEW_TOKENS,
    shard: int = SHARD,
) -> None:
    """Make `out`/captions.parquet: a caption for each image of `images`, or of `recipe`'s augmented ones if given.

    captions_file: for the captioner `import` (default: the config's file), what `tessera.curate.caption.file` reads.
    engine, device: where `llava` and a user's own class work; `openai` asks the server whose base URL is `server`, from
    where the engine says, `concurrency` questions at a time. shard: images that are done or not as a whole.

    Raises UserError: no ground truth for `scene`, images without a caption in the file, a model or server that cannot
    be had, a user's class that fails.
    """
    out, images = Path(out), Path(images)
    inputs = {"images": images} | ({"recipe": Path(recipe)} if recipe is not None else {})
    if recipe is not None:
        check_made_from(Path(recipe), {"images": images})
    if captions_file is not None and config.captioner != "import":
        raise UserError(f"{captions_file}: given, but the captioner is {config.captioner}: make it import")
    engine.check_device(device)
    source = find_captioner(config.captioner)
    call = CaptionCall(
        config=config,
        images=images,
        file=captions_file,
        device=device,
        server=server,
        concurrency=concurrency,
        retry=retry,
        max_new_tokens=max_new_tokens,
    )
    captioner = source(call)
    # What stops the work is found before the directory is begun: a corrected input may belong in it.
    mixed = read_recipe(Path(recipe)) if recipe is not None else None
    complete = is_complete(out)
    requests = iter(()) if complete else iter_requests(images, mixed)
    texts = {} if source.by_shards or complete else dict(captioner.answer(requests))
    described = to_dict(captioner.config)
    if source.by_shards:
        described |= {"revision": captioner.revision, "settings": captioner.settings}
    # Each task of an array job may write the whole table: the same bytes.
    stage = open_stage(out, stage="caption", config=described, inputs=inputs, shared=engine.part is not None)
    if stage.done:
        return
    path = out / CAPTIONS_TABLE
    if path.exists():  # a stop came between the table and the manifest
        table = read_table(path)
    else:
        if source.by_shards:
            told = make_captions(path, list(requests), source, call, engine, shard)
        else:
            prompts = pa.repeat(captioner.prompt(None), len(texts))
            told = pa.table({"key": list(texts), "text": list(texts.values()), "prompt": prompts})
        if told is None:  # other tasks of the array job are not done
            return
        settings = json.dumps(captioner.settings)
        constant = {"captioner": captioner.config.captioner, "settings": settings, "revision": captioner.revision}
        columns = {name: told.column(name) for name in told.column_names}
        columns |= {name: pa.repeat(text, told.num_rows) for name, text in constant.items()}
        table = pa.table(columns).select(COLUMNS)
        write_table(path, table)
    shutil.rmtree(out / PARTS, ignore_errors=True)
    counts = {"records": table.num_rows, "distinct": len(table.column("text").unique())}
    stage.finish(counts, joint=(CAPTIONS_TABLE,))


def read_captions(captions: Path) -> dict[str, str]:
    """Return key -> text of a completed captions directory."""
    read_manifest(captions, "caption")
    columns = read_table(Path(captions) / CAPTIONS_TABLE, ["key", "text"]).to_pydict()
    return dict(zip(columns["key"], columns["text"]))


def check_made_from(directory: Path, inputs: Mapping[str, Path]) -> None:
    """Raise UserError unless the stage output `directory` was made from the directories `inputs`, as they are now."""
    manifest = read_manifest(directory)
    for name, path in inputs.items():
        if manifest.inputs.get(name) != read_manifest(path).sha256:
            raise UserError(
                f"{directory}: was made from other {name} than {path}; run `tessera {manifest.stage}` again"
            )
