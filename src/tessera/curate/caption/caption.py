"""caption: images/ (or a recipe of augmented ones) -> captions.parquet (paper section 3.1).

A captioner is an entry of `CAPTIONERS`, or a class of the user's own file (`tessera.curate.caption.captioner`). An
augmented image's caption tells one scene with both objects and where they are, never that it is a composite (paper
appendix B). An image may have several captions, such as a long and a short one (`tessera.curate.caption.table`), of
which training draws one each time.
"""

import csv
import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tessera.config import UserError, check_ranges, load_part, to_dict
from tessera.curate.caption.aio import Aio
from tessera.curate.caption.captioner import CaptionCall, CaptionRequest, CaptionSource, iter_requests
from tessera.curate.caption.imported import FromFile, captions_by_hand
from tessera.curate.caption.levels import Joined, Shortened, find_runs
from tessera.curate.caption.model import BY_HAND, PARTS, SHARD, FromLlava, FromPart, FromServer, make_captions
from tessera.curate.caption.scenes import FromScenes
from tessera.curate.caption.summaries import Summarized
from tessera.curate.caption.table import CAPTIONS_TABLE, COLUMNS, LEVEL, in_order
from tessera.curate.grown import changed_since
from tessera.curate.index import read_recipe
from tessera.devices import usual_defaults
from tessera.encoded.record import LONG
from tessera.files import atomic_path, read_table, sha256_file, write_table
from tessera.pretrained.answers import CUT, Answer
from tessera.pretrained.captioner.prompt import MAX_NEW_TOKENS
from tessera.pretrained.chat import RETRY, Retry
from tessera.stages import is_complete, open_stage, read_manifest
from tessera.workers import HERE, Engine

CAPTIONERS: dict[str, type[CaptionSource]] = {
    "aio": Aio,
    "scene": FromScenes,
    "import": FromFile,
    "join": Joined,
    "shorten": Shortened,
    "summarize": Summarized,
    "llava": FromLlava,
    "openai": FromServer,
}
"""The captioners by name; `caption` takes FILE.py:NAME too."""


@dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    """The source of captions."""

    captioner: str = "aio"
    """A name in `CAPTIONERS`: "aio": from the class name; "scene": from the miniature's ground truth; "import": from
    a file; "join": of several runs; "shorten": of one, shorter ones by rules too; "summarize": of one, short ones by a
    language model; "llava": by a LLaVA-NeXT of this
    machine; "openai": by a server of OpenAI's protocol; or FILE.py:NAME, a class of the user's own."""
    seed: int = 0
    """Address of the choice between phrasings, 0 or more."""
    file: str | None = None
    """For "import", the captions file; recorded as NAME@HASH of its bytes. None for the other captioners."""
    model: str | None = None
    """For "llava" and "summarize", a repository or folder (None = the paper's); for "openai", and "summarize" with a
    server, the server's name for the model (None = its only one)."""

    def __post_init__(self):
        if ".py:" not in self.captioner:
            find_captioner(self.captioner)
        if self.model is not None and self.captioner not in (known := ("llava", "openai", "summarize")):
            named = ", ".join(known)
            raise UserError(f"model {self.model!r} is given, but the captioner is {self.captioner}: one of {named}")
        if self.file is not None and self.captioner != "import":
            raise UserError(f"file {self.file!r} is given, but the captioner is {self.captioner}: make it import")
        check_ranges(self, seed="[0, inf)")


def find_captioner(name: str) -> type[CaptionSource]:
    """Return the entry `name` of `CAPTIONERS`, or the one for FILE.py:NAME. Raises UserError."""
    load_part(name, CAPTIONERS, "captioner", needs=["describe"])
    return CAPTIONERS.get(name, FromPart)


@usual_defaults
def caption(
    out: Path,
    images: Path,
    config: CaptionConfig,
    recipe: Path | None = None,
    captions_file: Path | str | None = None,
    *,
    captions: Sequence[str | Path] = (),
    engine: Engine = HERE,
    device: str | None = None,
    server: str | None = None,
    concurrency: int = 256,
    retry: Retry = RETRY,
    max_new_tokens: int = MAX_NEW_TOKENS,
    shard: int = SHARD,
    skip_missing: bool = False,
    reuse: Path | None = None,
) -> None:
    """Make `out`/captions.parquet: a caption for each image of `images`, or of `recipe`'s augmented ones if given.

    captions_file: for the captioner `import` (default: the config's file), what `tessera.curate.caption.file` reads;
    for those that look at the images, captions by hand for images that they do not answer.
    captions: directories that `join`, as "LEVEL=DIRECTORY", `shorten` and `summarize` read; made from the same
    images and recipe.
    engine, device: where `llava` and a user's own class work; `openai` asks the server whose base URL is `server`, from
    where the engine says, `concurrency` questions at a time. shard: images that are done or not as a whole.
    skip_missing: images without a caption are left out. They are the manifest's rejects, with the reason, and listed in
    OUT-missing.csv. Without it they are a UserError: of `import` before anything is made, of the others at the end, and
    another call asks for them alone.
    reuse: a completed captions directory of the same captioner and settings, made from `images` or from those whose
    crops `images` took over; images that did not change have its captions. Captioners that do not look at the images do
    without.

    Raises UserError: no ground truth for `scene`, images without a caption, a model or server that cannot be had, a
    user's class that fails.
    """
    out, images = Path(out), Path(images)
    inputs = {"images": images} | ({"recipe": Path(recipe)} if recipe is not None else {})
    if recipe is not None:
        check_made_from(Path(recipe), "augment", {"images": images})
    source = find_captioner(config.captioner)
    runs = find_runs(config.captioner, captions)
    for path in runs.values():
        check_captions_of(path, inputs)
    inputs |= {f"captions {level}".strip(): path for level, path in runs.items()}
    if captions_file is not None and config.captioner in ("aio", "scene", "join", "shorten"):
        raise UserError(f"{captions_file}: given, but the captioner is {config.captioner}: make it import")
    if server is not None and config.captioner not in (asking := ("openai", "summarize")):
        named = " or ".join(asking)
        raise UserError(f"server {server!r} is given, but the captioner is {config.captioner}: make it {named}")
    engine.check_device(device)
    complete = is_complete(out)
    again = complete and source.by_shards and not skip_missing and bool(read_manifest(out).rejects) and not engine.part
    call = CaptionCall(
        config=config,
        images=images,
        file=captions_file,
        captions=runs,
        device=device,
        server=server,
        concurrency=concurrency,
        retry=retry,
        max_new_tokens=max_new_tokens,
        again=again,
    )
    captioner = source(call)
    # What stops the work is found before the directory is begun: a corrected input may belong in it.
    mixed = read_recipe(Path(recipe)) if recipe is not None else None
    requests = iter_requests(images, mixed) if again or not complete else iter(())
    texts = {} if source.by_shards or complete else dict(captioner.answer(requests))
    if captioner.missing and not (skip_missing and texts):
        total = len(texts) + len(captioner.missing)
        where = captions_file or config.file or " and ".join(map(str, runs.values()))
        raise without_captions(where, out, captioner.missing, total, captioner.fix)
    described = to_dict(captioner.config)
    if source.by_shards:
        described |= {"revision": captioner.revision, "settings": captioner.settings}
    asked = list(requests) if source.by_shards else []
    parts, taken_over = out / PARTS, None
    if reuse is not None and source.by_shards and not complete:
        changed = changed_since(images, Path(reuse), "caption", described, recipe)
        taken_over = _taken_over(Path(reuse), [each for each in asked if each.key not in changed], captioner)
        parts /= read_manifest(Path(reuse)).sha256[:12]  # of fewer images than those of a call without it
    # Each task of an array job may write the whole table: the same bytes.
    stage = open_stage(out, stage="caption", config=described, inputs=inputs, shared=engine.part is not None)
    if stage.done and not again:
        return
    path, missing = out / CAPTIONS_TABLE, dict(captioner.missing)
    table = read_table(path) if path.exists() else None  # a stop came between the table and the manifest, or `again`
    if table is None or again:
        if source.by_shards:
            known = {key for rows in (table, taken_over) if rows is not None for key in rows["key"].to_pylist()}
            by_hand = captions_by_hand(captions_file, images) if captions_file is not None else {}
            left = [request for request in asked if request.key not in known]
            answers = {key: Answer(text, BY_HAND) for key, text in by_hand.items()}
            told = make_captions(path, parts, left, source, call, engine, answers, shard)
            if told is None:  # other tasks of the array job are not done
                return
            failed = told.filter(pc.field("text").is_null())
            missing = dict(zip(failed["key"].to_pylist(), failed["note"].to_pylist()))
            told = told.filter(pc.field("text").is_valid())
        else:
            order = in_order(level for each in texts.values() for level in each)
            rows = [(key, level, each[level]) for key, each in texts.items() for level in order if level in each]
            columns = {name: [row[i] for row in rows] for i, name in enumerate(("key", LEVEL, "text"))}
            told = pa.table(columns | {"prompt": pa.repeat(captioner.said or "", len(rows))})
            told = told.drop_columns([LEVEL]) if order in ((), (LONG,)) else told
        constant = {
            "captioner": captioner.config.captioner,
            "settings": json.dumps(captioner.settings),
            "revision": captioner.revision,
        }
        columns = {name: told.column(name) for name in told.column_names}
        columns |= {name: pa.repeat(text, told.num_rows) for name, text in constant.items()}
        made = pa.table(columns)
        if taken_over is not None:
            made = _in_order(pa.concat_tables([made, taken_over.select(made.column_names)]), asked)
        noted = "note" in columns and any(made["note"].to_pylist())
        leveled = [LEVEL] if LEVEL in columns else []
        made = made.select(["key", *leveled, *COLUMNS[1:], *(["note"] if noted else [])])
        table = made if table is None else _in_order(pa.concat_tables([table, made], promote_options="default"), asked)
        write_table(path, table)
    shutil.rmtree(out / PARTS, ignore_errors=True)
    kept = set(table["key"].to_pylist()) if source.by_shards else set()
    missing = {r.key: missing.get(r.key, "no answer") for r in asked if r.key not in kept} or missing
    images_told = len(table.column("key").unique())
    counts = {"records": images_told, "distinct": len(table.column("text").unique())}
    if LEVEL in table.column_names:
        counts |= {f"captions_{level}": count for level, count in Counter(table[LEVEL].to_pylist()).items()}
    notes: Counter[str] = Counter(table["note"].to_pylist() if "note" in table.column_names else ())
    more = {"cut": notes[CUT], "by_hand": notes[BY_HAND], "missing": len(missing)} | captioner.counts
    counts |= {name: count for name, count in more.items() if count}
    facts = {"captions_sha256": sha256_file(path)}  # another call may be answered otherwise
    dataclasses.replace(stage, done=False).finish(counts, missing, facts, joint=(CAPTIONS_TABLE,))
    error = without_captions(out, out, missing, images_told + len(missing), WHAT_NOW)
    if missing and not (skip_missing and images_told):
        raise error


WHAT_NOW = "What is done is kept: run this again to ask for them again, or with --file for captions by hand"


def _taken_over(captions: Path, requests: Sequence[CaptionRequest], captioner: CaptionSource) -> pa.Table:
    """Return the rows of a captions directory for those of these images about which it was asked the same."""
    table = read_table(captions / CAPTIONS_TABLE)
    if "note" not in table.column_names:
        table = table.append_column("note", pa.repeat("", table.num_rows))
    prompts = {request.key: captioner.prompt(request) for request in requests}
    rows = zip(table["key"].to_pylist(), table["prompt"].to_pylist())
    return table.filter([key in prompts and prompt in (BY_HAND, prompts[key]) for key, prompt in rows])


def _in_order(table: pa.Table, requests: Sequence[CaptionRequest]) -> pa.Table:
    """Return the rows in the order of the requests."""
    place = {key: number for number, key in enumerate(table["key"].to_pylist())}
    return table.take([place[request.key] for request in requests if request.key in place])


def without_captions(where: object, out: Path, missing: Mapping[str, str], total: int, fix: str) -> UserError:
    """Write the list OUT-missing.csv (key, reason, and an empty text), or remove it where nothing is missing; return
    the error that names the first of `missing` (key -> reason)."""
    path = out.with_name(f"{out.name}-missing.csv")
    path.unlink(missing_ok=True)
    if missing:
        with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("key", "reason", "text"), *((*item, "") for item in missing.items())])
    first = [f"{key!r} ({reason})" if reason else repr(key) for key, reason in list(missing.items())[:3]]
    listed = ", ".join(first) + (", ..." if len(missing) > 3 else "")
    skip = ", or leave them out with --skip-missing" if len(missing) < total else ""
    return UserError(
        f"{where}: has no caption for {len(missing)} of {total} images: {listed}; all are listed in {path}. {fix}{skip}"
    )


def check_made_from(directory: Path, stage: str, inputs: Mapping[str, Path]) -> None:
    """Raise UserError unless `directory` was made by `stage` from the directories `inputs`, as they are now."""
    manifest = read_manifest(directory, stage)
    for name, path in inputs.items():
        if manifest.inputs.get(name) != read_manifest(path).sha256:
            other = f"from other {name} than {path}" if name in manifest.inputs else f"without --{name} {path}"
            raise UserError(f"{directory}: was made {other}; run `tessera {stage}` again")


def check_captions_of(directory: Path, inputs: Mapping[str, Path]) -> None:
    """Raise UserError unless `directory` has the captions of `inputs`: images, or with a recipe its mixed ones."""
    check_made_from(directory, "caption", inputs)
    if "recipe" in read_manifest(directory).inputs and "recipe" not in inputs:
        raise UserError(f"{directory}: holds captions of augmented images; give the --recipe that they were made with")
