"""caption: images/ (or a recipe of augmented ones) -> captions.parquet (paper section 3.1).

Captioners: `aio`, "An image of <class-name>", the paper's baseline; `scene`, long descriptions of the miniature from
its ground truth; `import`, captions that the user has; `llava` and `openai`, which look at the pictures, here or behind
a server. An augmented picture's caption tells one scene with both objects
and where they are, never that it is a composite (paper appendix B).

captions.parquet: key, text, captioner, prompt, settings (JSON), revision.
"""

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from tessera.config import UserError, to_dict
from tessera.curate.caption.file import find_captions, read_captions_file
from tessera.curate.caption.model import clear_parts, llava_work, make_captions, server_work
from tessera.curate.index import (
    Composer,
    ImageRow,
    Recipe,
    RecipeRow,
    is_complete,
    list_entries,
    read_images,
    read_recipe,
    read_scenes,
)
from tessera.curate.published_recipe import picture_names, published_name, without_suffix
from tessera.cutmix import CROP
from tessera.files import read_table, write_table
from tessera.miniature import describe, mix_scene, place
from tessera.pretrained.captioner.llava import MAX_NEW_TOKENS, Llava
from tessera.pretrained.captioner.server import Server
from tessera.progress import progress
from tessera.randomness import address
from tessera.records import Placement, Scene
from tessera.stages import open_stage, read_manifest
from tessera.workers import HERE, Engine

CAPTIONS_TABLE = "captions.parquet"
Captioner = Literal["aio", "scene", "import", "llava", "openai"]
LLAVA = "llava-hf/llama3-llava-next-8b-hf"
"""The paper's captioner (appendix B)."""


@dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    """Where captions come from."""

    captioner: Captioner = "aio"
    """"aio": from the class name; "scene": from the miniature's ground truth; "import": from a file; "llava": by a
    LLaVA-NeXT of this machine; "openai": by a server that speaks OpenAI's protocol."""
    seed: int = 0
    """Address of the choice between phrasings, 0 or more."""
    file: str | None = None
    """For "import", the captions file; recorded as NAME@HASH of its bytes. None for the other captioners."""
    model: str | None = None
    """For "llava", a repository or folder (None = the paper's); for "openai", the server's name for the model (None =
    its only one)."""

    def __post_init__(self):
        if self.captioner not in ("aio", "scene", "import", "llava", "openai"):
            raise UserError(f"captioner must be aio, scene, import, llava or openai, not {self.captioner!r}")
        if self.model is not None and self.captioner not in ("llava", "openai"):
            raise UserError(f"model {self.model!r} is given, but the captioner is {self.captioner}: llava or openai")
        if self.seed < 0:
            raise UserError(f"seed must be 0 or more, not {self.seed}")
        if self.file is not None and self.captioner != "import":
            raise UserError(f"file {self.file!r} is given, but the captioner is {self.captioner}: make it import")


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
) -> None:
    """Makes `out`/captions.parquet: a caption for each picture of `images`, or of `recipe`'s augmented ones if given.

    captions_file: for the captioner `import` (default: the config's file), what `tessera.curate.caption.file` reads:
    a table with columns `key` or `file_name` and `text` or `caption`, a folder, a data set of the Hub. UserError: no
    ground truth for `scene`, or pictures without a caption in the file.

    engine, device: where `llava` works; `openai` asks the server whose base URL is `server`, from where the engine
    says, `concurrency` questions at a time.
    """
    out, images = Path(out), Path(images)
    inputs = {"images": images}
    if recipe is not None:
        check_made_from(Path(recipe), {"images": images})
        inputs["recipe"] = Path(recipe)
    if config.captioner in ("llava", "openai"):
        if captions_file is not None:
            raise UserError(f"{captions_file}: given, but the captioner is {config.captioner}: make it import")
        _by_model(out, inputs, config, engine, device, server, concurrency)
        return
    if config.captioner == "import":
        wanted = captions_file or config.file
        if wanted is None:
            raise UserError("captioner import needs --file: a captions file, a folder, or OWNER/NAME on the Hub")
        captions_file, name = find_captions(wanted)
        revision = name.rpartition("@")[2]
        config = replace(config, file=name)
    elif captions_file is not None:
        raise UserError(f"{captions_file}: given, but the captioner is {config.captioner}: make it import")
    else:
        revision = "1"

    texts: dict[str, str] = {}
    if not is_complete(out):
        rows = read_images(images)
        mixed = read_recipe(Path(recipe)) if recipe is not None else None
        texts = _make_texts(images, rows, mixed, config, captions_file)
    # These need no parts: each task of an array job writes the same table.
    stage = open_stage(out, stage="caption", config=to_dict(config), inputs=inputs, shared=engine.part is not None)
    if stage.done:
        return
    prompt = {"aio": "An image of <class-name>", "scene": "ground truth", "import": ""}[config.captioner]
    settings = json.dumps({"file": config.file} if config.captioner == "import" else {"seed": config.seed})
    constant = {"captioner": config.captioner, "prompt": prompt, "settings": settings, "revision": revision}
    columns = {"key": list(texts), "text": list(texts.values())}
    write_table(out / CAPTIONS_TABLE, {**columns, **{name: [text] * len(texts) for name, text in constant.items()}})
    stage.finish({"records": len(texts), "distinct": len(set(texts.values()))}, joint=(CAPTIONS_TABLE,))


def _by_model(
    out: Path,
    inputs: Mapping[str, Path],
    config: CaptionConfig,
    engine: Engine,
    device: str | None,
    server: str | None,
    concurrency: int,
) -> None:
    """The captioners that look at the pictures."""
    images, recipe = inputs["images"], inputs.get("recipe")
    settings: dict[str, Any] = {"max_new_tokens": MAX_NEW_TOKENS, "decoding": "greedy"}
    mixed = read_recipe(recipe) if recipe is not None else None
    composer = Composer(images, mixed.half_view if mixed else "aligned")
    if config.captioner == "llava":
        engine.check_device(device)
        model = config.model or LLAVA
        llava = Llava(model, device)
        config, revision = replace(config, model=llava.folder.id), llava.revision
        settings["compute"] = "bf16"
        prepare = functools.partial(llava_work, model, composer, device, MAX_NEW_TOKENS)
    else:
        if server is None:
            raise UserError("captioner openai needs a server: its base URL, such as http://127.0.0.1:8000/v1")
        model, revision = Server(server, concurrency).find_model(config.model)
        config = replace(config, model=model)
        prepare = functools.partial(server_work, server, model, concurrency, composer, MAX_NEW_TOKENS)
    described = to_dict(config) | {"revision": revision, "settings": settings}
    jobs = [] if is_complete(out) else list_entries(read_images(images), mixed and mixed.rows)
    stage = open_stage(out, stage="caption", config=described, inputs=inputs, shared=engine.part is not None)
    if stage.done:
        return
    if (out / CAPTIONS_TABLE).exists():  # a stop came between the table and the manifest
        table = read_table(out / CAPTIONS_TABLE)
    else:
        told = make_captions(out, jobs, prepare, engine, out / CAPTIONS_TABLE)
        if told is None:
            return
        constant = {"captioner": config.captioner, "settings": json.dumps(settings), "revision": revision}
        columns = {name: [text] * told.num_rows for name, text in constant.items()}
        columns |= {name: told.column(name) for name in ("key", "text", "prompt")}
        table = pa.table(columns).select(["key", "text", "captioner", "prompt", "settings", "revision"])
        write_table(out / CAPTIONS_TABLE, table)
    clear_parts(out)
    counts = {"records": table.num_rows, "distinct": len(table.column("text").unique())}
    stage.finish(counts, joint=(CAPTIONS_TABLE,))


def read_captions(captions: Path) -> dict[str, str]:
    """Key -> text of a completed captions directory."""
    read_manifest(captions, "caption")
    columns = read_table(Path(captions) / CAPTIONS_TABLE, ["key", "text"]).to_pydict()
    return dict(zip(columns["key"], columns["text"]))


def check_made_from(directory: Path, inputs: Mapping[str, Path]) -> None:
    """UserError unless the stage output `directory` was made from the directories `inputs`, as they are now."""
    manifest = read_manifest(directory)
    for name, path in inputs.items():
        if manifest.inputs.get(name) != read_manifest(path).sha256:
            raise UserError(
                f"{directory}: was made from other {name} than {path}; run `tessera {manifest.stage}` again"
            )


def aio_caption(class_name: str) -> str:
    """The paper's baseline caption (section 3.1)."""
    return f"An image of {class_name}"


def mix_places(placement: Placement, words: Mapping[str, tuple[str, str]] = {}) -> tuple[str, str]:
    """Where the base and the partner of an augmented picture are, in words."""
    if placement.pattern in words:
        return words[placement.pattern]
    left, top, right, bottom = (edge / placement.size for edge in placement.box)
    if placement.spans_frame:
        return ("on the left", "on the right") if left > 0 else ("at the top", "at the bottom")
    return "in the center", place(((left + right) / 2, (top + bottom) / 2))


def aio_mix_caption(
    base: str, partner: str, placement: Placement, swap: bool = False, words: Mapping[str, tuple[str, str]] = {}
) -> str:
    """The same for an augmented picture: both class names and where they are; `swap` names the partner first."""
    base_place, partner_place = mix_places(placement, words)
    first, second = f"{base} {base_place}", f"{partner} {partner_place}"
    return aio_caption(f"{second} and {first}" if swap else f"{first} and {second}")


def _make_texts(
    images: Path,
    rows: Sequence[ImageRow],
    mixed: Recipe | None,
    config: CaptionConfig,
    captions_file: Path | str | None,
) -> dict[str, str]:
    """Key -> caption of the pictures `rows`, or of the recipe's."""
    mixes = mixed.rows if mixed else None
    if config.captioner == "aio":
        return _aio(rows, mixed, config.seed)
    if config.captioner == "scene":
        return _scenes(images, rows, mixes, config.seed, mixed.half_view if mixed else "aligned")
    assert captions_file is not None
    return _imported(Path(captions_file), rows, mixes)


def _aio(rows: Sequence[ImageRow], mixed: Recipe | None, seed: int) -> dict[str, str]:
    if mixed is None:
        return {row.key: aio_caption(row.class_name) for row in rows}
    classes = {row.key: row.class_name for row in rows}
    return {mix.key: aio_caption_of(mix, classes, seed, mixed.words) for mix in mixed.rows}


def aio_caption_of(
    mix: RecipeRow, classes: Mapping[str, str], seed: int, words: Mapping[str, tuple[str, str]] = {}
) -> str:
    """The baseline caption of a recipe's row; `classes`: the class name of each picture, by key."""
    if mix.placement.pattern == CROP:
        return aio_caption(classes[mix.base])
    # The order is drawn: a caption must not tell which picture was the base.
    swap = address(seed, "caption", mix.key) % 2 == 1
    return aio_mix_caption(classes[mix.base], classes[mix.partner], mix.placement, swap, words)


def _scenes(
    images: Path, rows: Sequence[ImageRow], mixes: Sequence[RecipeRow] | None, seed: int, half_view: str
) -> dict[str, str]:
    scenes = read_scenes(images)
    texts = {}
    with progress("caption", len(rows if mixes is None else mixes)) as bar:
        if mixes is None:
            for row in rows:
                texts[row.key] = describe(scenes[row.key], seed, address("caption", row.key))
                bar.advance()
            return texts
        for mix in mixes:
            texts[mix.key] = describe(scene_of(mix, scenes, half_view), seed, address("caption", mix.key))
            bar.advance()
    return texts


def scene_of(mix: RecipeRow, scenes: Mapping[str, Scene], half_view: str) -> Scene:
    """The ground truth of a recipe's row; `scenes`: that of each picture, by key. UserError for a crop."""
    if mix.placement.pattern == CROP:
        raise UserError(
            "captioner scene does not know what a crop leaves out; use aio or import, and no short captions"
        )
    return mix_scene(scenes[mix.base], scenes[mix.partner], mix.placement, half_view)


def joined_caption(base: str, partner: str, placement: Placement) -> str:
    """One caption for an augmented picture out of its two pictures' own, for want of a captioner that has seen it."""
    base_place, partner_place = mix_places(placement)
    first, second = (text.strip().rstrip(".") for text in (base, partner))
    return f"{base_place.capitalize()}, {first}. {partner_place.capitalize()}, {second}."


def _imported(path: Path, rows: Sequence[ImageRow], mixes: Sequence[RecipeRow] | None) -> dict[str, str]:
    """The file's captions by key; a picture may be named by its key, its source or its crop's file, or its stem.

    An augmented picture is named by its key, or by `published_name`; one that the file does not name gets its two
    pictures' captions joined.
    """
    names = picture_names(rows)
    if mixes is None:
        keys = [row.key for row in rows]
        texts = _named(path, read_captions_file(path, names), names)
    else:
        keys = [mix.key for mix in mixes]
        mix_names = {published_name(mix.base, mix.partner, mix.placement): mix.key for mix in mixes}
        mix_names |= {key: key for key in keys}
        texts = _named(path, read_captions_file(path, names | mix_names), mix_names)
        missing = len(texts) < len(keys)
        parts = _named(path, read_captions_file(path, names | mix_names), names) if missing else {}
        for mix in mixes if missing else ():
            if mix.key not in texts and mix.base in parts and mix.partner in parts:
                crop = mix.placement.pattern == CROP
                joined = joined_caption(parts[mix.base], parts[mix.partner], mix.placement) if not crop else ""
                texts[mix.key] = joined or parts[mix.base]
    missing = [key for key in keys if key not in texts]
    if missing:
        listed = ", ".join(repr(key) for key in missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(f"{path}: has no caption for {len(missing)} of {len(keys)} pictures: {listed}; add them")
    return {key: texts[key] for key in keys}


def _named(path: Path, told: Iterable[tuple[str, str]], names: Mapping[str, str]) -> dict[str, str]:
    """Key -> text of the lines whose name is one of `names` (name -> key)."""
    texts: dict[str, str] = {}
    for name, text in told:
        key = names.get(name) or names.get(without_suffix(name))
        if key is None or not text.strip():
            continue
        if texts.setdefault(key, text) != text:
            raise UserError(f"{path}: has two different captions for {name!r}; leave one")
    return texts
