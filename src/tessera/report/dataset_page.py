"""look: one self-contained HTML page of samples of a directory of curation, to be looked at before training on it.

It takes what collect, augment, caption or encode made; the pictures are found by the hashes in its manifest, among the
directories near by. Nothing is loaded from anywhere, and all text is escaped.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from tessera.config import UserError
from tessera.curate.caption.caption import read_captions
from tessera.curate.index import Composer, ImageRow, RecipeRow, list_entries, read_images, read_recipe
from tessera.cutmix import CROP
from tessera.encoded.store import open_encoded
from tessera.files import atomic_path, sha256_file
from tessera.images import data_uri
from tessera.randomness import philox
from tessera.stages import MANIFEST, Manifest, read_manifest

STAGES = ("collect", "augment", "caption", "encode")
_EXAMPLES = 5  # files named for each reason
_SMALL = 128  # px; below it pixels are shown as squares


@dataclass(frozen=True)
class _Sample:
    """What is shown of one record."""

    key: str
    base: ImageRow
    mix: RecipeRow | None = None
    partner: ImageRow | None = None
    caption: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Inputs:
    """The directory, and those it was made from."""

    directory: Path
    manifest: Manifest
    images: Path
    recipe: Path | None


def look(
    directory: Path, out: Path, number: int = 60, seed: int = 0, images: Path | None = None, recipe: Path | None = None
) -> None:
    """Writes the page `out` about `number` records of `directory`, drawn by `seed`.

    images, recipe: what it was made from, where these lie elsewhere. UserError: it is no finished directory of
    curation, its pictures are not found, or `out` is a directory.
    """
    directory, out = Path(directory), Path(out)
    if number < 1:
        raise UserError(f"number is {number}: show at least 1")
    if out.is_dir():
        raise UserError(f"{out}: is a directory; give the page a name, such as {out / 'look.html'}")
    inputs = _find_inputs(directory, images, recipe)
    rows = read_images(inputs.images)
    draw = {"collect": _of_images, "augment": _of_recipe, "caption": _of_captions, "encode": _of_encoded}
    total, samples = draw[inputs.manifest.stage](inputs, rows, number, seed)
    composer = Composer(inputs.images, read_recipe(inputs.recipe).half_view if inputs.recipe else "aligned")
    size = int(read_manifest(inputs.images, "collect").config["size"])
    shown = [_shown(sample, composer, size) for sample in samples]
    page = {
        "title": directory.resolve().name,
        "lead": f"{len(shown)} of {total:,} records made by tessera {inputs.manifest.stage}, drawn by seed {seed}.",
        "facts": list(_facts(inputs)),
        "samples": shown,
        "small": size < _SMALL,
        "column": 10 if inputs.manifest.stage == "collect" else 17,
        "rejects": _rejects(read_manifest(inputs.images).rejects),
    }
    with atomic_path(out) as temporary:
        temporary.write_text(_render(page), encoding="utf-8", newline="\n")


def _find_inputs(directory: Path, images: Path | None, recipe: Path | None) -> _Inputs:
    manifest = read_manifest(directory, STAGES)
    if manifest.stage == "collect":
        return _Inputs(directory, manifest, directory, None)
    if manifest.stage == "augment":
        recipe = directory
    elif "recipe" in manifest.inputs:
        recipe = _near(directory, manifest, "recipe", recipe)
    else:
        recipe = None
    return _Inputs(directory, manifest, _near(directory, manifest, "images", images), recipe)


def _near(directory: Path, manifest: Manifest, name: str, given: Path | None) -> Path:
    """The directory that `directory` was made from as its input `name`, by the hash of its manifest."""
    above = list(directory.resolve().parents)[:2]
    near = [given] if given else [path.parent for folder in above for path in sorted(folder.glob(f"*/{MANIFEST}"))]
    if given:
        read_manifest(given, must_be_complete=False)
    for path in near:  # other programs have files of that name too
        if sha256_file(path / MANIFEST) == manifest.inputs[name]:
            return path
    if given:
        raise UserError(f"{given}: is not what {directory} was made from; give --{name} DIRECTORY of that time")
    raise UserError(f"{directory}: the {name} it was made from lie not near it; give --{name} DIRECTORY")


def _pick(total: int, number: int, seed: int) -> list[int]:
    return sorted(philox(seed, "look").choice(total, min(number, total), replace=False).tolist()) if total else []


def _of_images(inputs: _Inputs, rows: Sequence[ImageRow], number: int, seed: int) -> tuple[int, list[_Sample]]:
    picked = [rows[i] for i in _pick(len(rows), number, seed)]
    return len(rows), [_Sample(row.key, row, notes=(f"{row.width} x {row.height} px", row.source)) for row in picked]


def _of_recipe(inputs: _Inputs, rows: Sequence[ImageRow], number: int, seed: int) -> tuple[int, list[_Sample]]:
    assert inputs.recipe is not None
    mixes = read_recipe(inputs.recipe).rows
    return len(mixes), _mixed([mixes[i] for i in _pick(len(mixes), number, seed)], rows, {}, {})


def _of_captions(inputs: _Inputs, rows: Sequence[ImageRow], number: int, seed: int) -> tuple[int, list[_Sample]]:
    texts = read_captions(inputs.directory)
    keys = list(texts)
    picked = {keys[i] for i in _pick(len(keys), number, seed)}
    notes = {key: f"{len(texts[key].split())} words, {len(texts[key])} characters" for key in picked}
    return len(keys), _told(inputs, rows, {key: texts[key] for key in picked}, notes)


def _of_encoded(inputs: _Inputs, rows: Sequence[ImageRow], number: int, seed: int) -> tuple[int, list[_Sample]]:
    records = open_encoded(inputs.directory)
    texts, notes = {}, {}
    for i in _pick(len(records), number, seed):
        record = records[i]
        texts[record.key] = record.caption
        tokens = "text not stored" if record.text_codes is None else f"{len(record.text_codes)} tokens"
        notes[record.key] = f"{tokens}, {len(record.caption.split())} words"
    return len(records), _told(inputs, rows, texts, notes)


def _told(
    inputs: _Inputs, rows: Sequence[ImageRow], texts: Mapping[str, str], notes: Mapping[str, str]
) -> list[_Sample]:
    if inputs.recipe is not None:
        return _mixed([mix for mix in read_recipe(inputs.recipe).rows if mix.key in texts], rows, texts, notes)
    return [_Sample(row.key, row, caption=texts[row.key], notes=(notes[row.key],)) for row in rows if row.key in texts]


def _mixed(
    mixes: Sequence[RecipeRow], rows: Sequence[ImageRow], texts: Mapping[str, str], notes: Mapping[str, str]
) -> list[_Sample]:
    wanted = {key for mix in mixes for key in (mix.base, mix.partner)}
    found = {row.key: row for row in rows if row.key in wanted}
    samples = []
    for mix in mixes:
        said = (notes[mix.key],) if mix.key in notes else ()
        where = f"{mix.placement.pattern}, box {', '.join(map(str, mix.placement.box))}"
        samples.append(
            _Sample(mix.key, found[mix.base], mix, found[mix.partner], texts.get(mix.key, ""), (*said, where))
        )
    return samples


def _shown(sample: _Sample, composer: Composer, size: int) -> dict[str, Any]:
    box, mixes = None, None
    if sample.mix is not None:
        box = sample.mix.placement.box
        if sample.mix.placement.pattern != CROP:  # of a crop the window is shown on the image
            mixes = [sample.mix]
    rows = [sample.base] if sample.partner is None else [sample.base, sample.partner]
    entry = list_entries(rows, mixes)[0]
    pixels, title = composer(entry), entry.class_name
    return {
        "image": data_uri(pixels, _SMALL - 1),
        "alt": f"{title}: {sample.caption}" if sample.caption else title,
        "title": title,
        "caption": sample.caption,
        "notes": [*sample.notes, sample.key],
        "box": box,
        "size": size,
    }


def _facts(inputs: _Inputs) -> Iterator[tuple[str, str]]:
    for name, count in inputs.manifest.counts.items():
        yield name.replace("_", " "), f"{count:,}"
    config, facts = inputs.manifest.config, inputs.manifest.facts
    for name in ("captioner", "pattern", "half_view", "size"):
        if config.get(name) is not None:
            yield name.replace("_", " "), str(config[name])
    for name in ("layout", "exif_rotation", "icc_profiles", "latent_codec", "text_encoder"):
        if facts.get(name) is not None:
            yield name.replace("_", " "), str(facts[name])
    text = facts.get("text") or {}
    if text:
        yield "tokens a caption on average", f"{text['mean_tokens']:.1f}"
        yield "tokens in the longest", str(text["longest"])
        yield "of captions cut", f"{text['share_cut']:.1%}"


def _rejects(rejects: Mapping[str, str]) -> list[dict[str, Any]]:
    """Number and examples of each reason, the most frequent first."""
    reasons: dict[str, list[str]] = {}
    for source, reason in rejects.items():
        reasons.setdefault(reason, []).append(source)
    ordered = sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        {"reason": reason, "count": len(sources), "examples": ", ".join(sorted(sources)[:_EXAMPLES])}
        for reason, sources in ordered
    ]


def _render(page: dict[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = resources.files("tessera").joinpath("assets", "look.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(page=page)
