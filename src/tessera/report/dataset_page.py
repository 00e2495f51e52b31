"""preview: one self-contained HTML page of samples of a directory of curation, to check before training on it.

It takes what collect, augment, caption or encode made; the images are found by the hashes in its manifest, among the
directories nearby. Nothing is loaded from anywhere, and all text is escaped.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tessera.config import UserError
from tessera.curate.caption.table import read_captions, read_levels
from tessera.curate.index import Composer, ImageRow, RecipeRow, list_entries, read_images, read_recipe
from tessera.cutmix import CROP
from tessera.encoded.store import EncodedStore, open_encoded
from tessera.files import sha256_file, write_text
from tessera.randomness import philox
from tessera.report.gallery import embed
from tessera.report.render import group_rejects, render
from tessera.report.sections.all_records import BLOCK, Record, all_records
from tessera.stages import MANIFEST, Manifest, read_manifest

STAGES = ("collect", "augment", "caption", "encode")
MOST = 20_000
"""Records of the list."""
_LARGEST = 1024  # px; larger images are scaled down to this side


def preview(
    directory: Path,
    out: Path,
    number: int = 60,
    seed: int = 0,
    images: Path | None = None,
    recipe: Path | None = None,
    most: int = MOST,
) -> None:
    """Write the page `out` about `directory`: a list to search and sort of all its records, or of `most` drawn by
    `seed` (0 = no list), and `number` of them at full size.

    images, recipe: what it was made from, where these lie elsewhere. UserError: it is no finished directory of
    curation, its images are not found, or `out` is a directory.
    """
    directory, out = Path(directory), Path(out)
    if number < 1:
        raise UserError(f"number is {number}: show at least 1")
    if out.is_dir():
        raise UserError(f"{out}: is a directory; give the page a name, such as {out / 'preview.html'}")
    manifest = read_manifest(directory, STAGES)
    if manifest.stage == "collect":
        images = directory
    else:
        images = _near(directory, manifest, "images", images)
    if manifest.stage == "augment":
        recipe = directory
    else:
        recipe = _near(directory, manifest, "recipe", recipe) if "recipe" in manifest.inputs else None
    rows, mixes, composer = read_images(images), None, Composer(images)
    if recipe is not None:
        found = read_recipe(recipe)
        mixes, composer = found.rows, Composer(images, found.half_view)
    total, texts = _texts(directory, manifest.stage, mixes or rows, number, seed)
    size = int(read_manifest(images, "collect").config["size"])
    if mixes is None:
        samples = [_sample(composer, size, [row], None, *texts[row.key]) for row in rows.where("key", texts)]
    else:
        chosen = mixes.where("key", texts)
        of = {row.key: row for row in rows.where("key", [key for mix in chosen for key in (mix.base, mix.partner)])}
        samples = [_sample(composer, size, [of[m.base], of[m.partner]], m, *texts[m.key]) for m in chosen]
    listed = None
    if most:
        _, told = _texts(directory, manifest.stage, mixes or rows, most, seed)
        chosen = rows.where("key", told)
        entries = list_entries(rows, mixes.where("key", told)) if mixes else list_entries(chosen)
        sides = {row.key: min(row.width or 0, row.height or 0) for row in chosen}
        records = [
            Record(key=e.key, class_name=e.class_name, caption=told[e.key][0], source_side=sides.get(e.key, 0))
            for e in entries
        ]
        listed = all_records(records, map(composer, entries))
    page = {
        "all": listed,
        "block_size": BLOCK,
        "title": directory.resolve().name,
        "lead": f"{len(samples)} of {total:,} records made by tessera {manifest.stage}, drawn by seed {seed}.",
        "facts": list(_facts(manifest)),
        "samples": samples,
        "column": 10 if manifest.stage == "collect" else 17,
        "rejects": group_rejects(read_manifest(images).rejects),
    }
    write_text(out, render("dataset.html.j2", page))


def _near(directory: Path, manifest: Manifest, name: str, given: Path | None) -> Path:
    """Return the directory that `directory` was made from as its input `name`, by the hash of its manifest."""
    above = list(directory.resolve().parents)[:2]
    places = [place for folder in above for place in (folder, folder / name)]  # `tessera plan` names recipe/all
    near = [given] if given else [path.parent for place in places for path in sorted(place.glob(f"*/{MANIFEST}"))]
    if given:
        read_manifest(given, must_be_complete=False)
    for path in near:  # other programs have files of that name too
        if sha256_file(path / MANIFEST) == manifest.inputs[name]:
            return path
    if given:
        raise UserError(f"{given}: is not what {directory} was made from; give --{name} DIRECTORY of that time")
    raise UserError(f"{directory}: its {name} directory is not nearby; give --{name} DIRECTORY")


def _texts(
    directory: Path, stage: str, rows: Sequence[ImageRow | RecipeRow], number: int, seed: int
) -> tuple[int, dict[str, tuple[str, str]]]:
    """Return the number of records, and key -> (caption, note) of `number` of them."""
    levels = read_levels(directory) if stage == "caption" else {}
    captions = list(read_captions(directory)) if stage == "caption" else []
    every: Any = captions if stage == "caption" else open_encoded(directory) if stage == "encode" else rows
    total, found = len(every), {}
    picked = philox(seed, "preview").choice(total, min(number, total), replace=False).tolist() if total else []
    for place in sorted(picked):
        if stage == "caption":
            key = every[place]
            found[key] = _joined({level: told[key] for level, told in levels.items() if key in told})
        elif stage == "encode":
            key, told = _stored(every, place)
            found[key] = _joined(
                {level: text for level, (text, _) in told.items()}, [size for _, size in told.values()]
            )
        else:
            found[every[place].key] = ("", "")
    return total, found


def _stored(store: EncodedStore, place: int) -> tuple[str, dict[str, tuple[str, str]]]:
    """Return the key of an encoded record, and level -> (caption, its tokens in words) of the texts that it has."""
    told: dict[str, tuple[str, str]] = {}
    for level, caption in store.captions(place).items():
        codes = store.read(place, store.levels.index(level)).text_codes
        told[level] = caption, "text not stored" if codes is None else f"{len(codes)} tokens"
    return store[place].key, told


def _joined(texts: Mapping[str, str], tokens: Sequence[str] = ()) -> tuple[str, str]:
    """Return the captions of an image, each with its level if there are several, and a note on their lengths."""
    words = [f"{len(text.split())} words" for text in texts.values()]
    sizes = [f"{size}, {length}" for size, length in zip(tokens, words)] or words
    if len(texts) == 1:
        (text,) = texts.values()
        return text, sizes[0] if tokens else f"{sizes[0]}, {len(text)} characters"
    lengths = "; ".join(f"{level}: {size}" for level, size in zip(texts, sizes))
    return " ".join(f"[{level}] {text}" for level, text in texts.items()), lengths


def _sample(
    composer: Composer, size: int, rows: Sequence[ImageRow], mix: RecipeRow | None, caption: str, note: str
) -> dict[str, Any]:
    """Return what is shown of one record; rows: its image, or base and partner of `mix`."""
    crop = mix is not None and mix.placement.pattern == CROP  # its window is shown on the image
    entry = list_entries(rows, None if crop or mix is None else [mix])[0]
    notes, title, box = [note] if note else [], entry.class_name, mix.placement.box if mix else None
    if mix is not None:
        notes.append(f"{mix.placement.pattern}, box {', '.join(map(str, mix.placement.box))}")
    elif not caption:
        notes += [f"{rows[0].width} x {rows[0].height} px", rows[0].source]
    notes.append(mix.key if mix else entry.key)
    image = embed(composer(entry), f"{title}: {caption}" if caption else title, _LARGEST)
    return {"image": image, "title": title, "caption": caption, "notes": notes, "box": box, "size": size}


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for name, count in manifest.counts.items():
        yield name.replace("_", " "), f"{count:,}"
    of_config = ("captioner", "pattern", "half_view", "size")
    of_facts = ("layout", "exif_rotation", "icc_profiles", "latent_codec", "text_encoder")
    for names, values in ((of_config, manifest.config), (of_facts, manifest.facts)):
        yield from ((name.replace("_", " "), str(values[name])) for name in names if values.get(name) is not None)
    text: Mapping[str, Any] | None = manifest.facts.get("text")
    if text:
        yield "tokens a caption on average", f"{text['mean_tokens']:.1f}"
        yield "tokens in the longest", str(text["longest"])
        yield "of captions cut", f"{text['share_cut']:.1%}"
    for level, of_level in manifest.facts.get("levels", {}).items():
        yield f"level {level}", f"{of_level['captions']:,} captions of {of_level['mean_tokens']:.1f} tokens on average"
