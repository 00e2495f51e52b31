"""A user's captions, matched with images and CutMix images by their names."""

import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tessera.config import UserError
from tessera.curate.augment import AugmentConfig, augment
from tessera.curate.caption.aio import mix_places
from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.caption.table import read_captions, read_levels
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.curate.index import read_images, read_recipe
from tessera.stages import read_manifest
from tiny.captions import TRICKY, write_captions

IMPORT = CaptionConfig(captioner="import")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("columns", [("key", "text"), ("file_name", "caption")])
def test_import_keeps_texts_as_they_are(images, tmp_path, suffix, columns):
    keys = [row.key for row in read_images(images)]
    texts = {key: f"{TRICKY} {i}" for i, key in enumerate(keys)}
    names = keys if columns[0] == "key" else [f".\\{key}.png".replace("/", "\\") for key in keys]
    rows = [*zip(names, texts.values()), ("stranger/1", "of another set")]
    path = write_captions(tmp_path / f"mine{suffix}", rows, *columns)
    caption(tmp_path / "captions", images, IMPORT, captions_file=path)
    assert read_captions(tmp_path / "captions") == texts
    config = read_manifest(tmp_path / "captions").config
    assert config["file"].startswith(f"mine{suffix}@")
    caption(tmp_path / "captions", images, replace(IMPORT, file=str(path)))
    write_captions(path, [*rows, ("stranger/2", "changed")], *columns)
    with pytest.raises(UserError, match=r"file: the directory has"):
        caption(tmp_path / "captions", images, IMPORT, captions_file=path)


def test_import_for_mixes(images, recipe, tmp_path):
    texts = {row.key: f"both of {row.key}" for row in read_recipe(recipe).rows}
    path = write_captions(tmp_path / "mine.csv", texts.items())
    caption(tmp_path / "captions", images, IMPORT, recipe=recipe, captions_file=path)
    assert read_captions(tmp_path / "captions") == texts


def test_import_of_the_pictures_own_captions_joins_them_for_mixes(images, recipe, tmp_path):
    keys = [row.key for row in read_images(images)]
    rows = read_recipe(recipe).rows
    told = {key: f"A thing called {key}." for key in keys} | {rows[0].key: "both of them"}
    path = write_captions(tmp_path / "mine.csv", told.items())
    caption(tmp_path / "captions", images, IMPORT, recipe=recipe, captions_file=path)
    texts = read_captions(tmp_path / "captions")
    assert texts[rows[0].key] == "both of them"  # the file's own words win
    first = set()
    for row in rows[1:]:
        left, right = (place.capitalize() for place in mix_places(row.placement))
        base, partner = f"{left}, a thing called {row.base}.", f"{right}, a thing called {row.partner}."
        assert texts[row.key] in (f"{base} {partner}", f"{partner} {base}")
        first.add(texts[row.key].startswith(base))
    assert first == {True, False}  # the order does not tell the base
    (tmp_path / "less.csv").write_text("key,text\n" + "".join(f"{key},x\n" for key in keys[1:]))
    with pytest.raises(UserError, match="has no caption for"):
        caption(tmp_path / "other", images, IMPORT, recipe=recipe, captions_file=tmp_path / "less.csv")


def test_texts_that_are_joined_keep_their_ends(images, recipe, tmp_path):
    path = write_captions(tmp_path / "mine.csv", [(row.key, "Is it a dog?") for row in read_images(images)])
    caption(tmp_path / "captions", images, IMPORT, recipe=recipe, captions_file=path)
    for text in read_captions(tmp_path / "captions").values():
        assert text.count(", Is it a dog?") == 2
        assert "?." not in text


def test_import_errors(images, tmp_path):
    out = tmp_path / "captions"
    keys = [row.key for row in read_images(images)]

    def fails(path, message):
        with pytest.raises(UserError, match=message) as caught:
            caption(out, images, IMPORT, captions_file=path)
        assert "\n" not in str(caught.value)

    def text(name, content):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    rows = [(key, "a caption") for key in keys[4:]]
    path = write_captions(tmp_path / "few.csv", [*rows, (keys[0], "  ")])
    fails(
        path, r"few.csv: has no caption for 4 of 24 images: 'circle/000000', 'circle/000003', 'circle/000006', \.\.\."
    )
    fails(
        write_captions(tmp_path / "two.csv", [*rows, (keys[4], "another")]), f"two different captions for '{keys[4]}'"
    )
    fails(tmp_path / "gone.csv", "no such captions file")
    fails(text("a.txt", b""), r"is none of \.csv, \.tsv, \.jsonl, \.json, \.ndjson, \.parquet; convert it")
    fails(text("a.csv", b""), "has no column key, file_name, .* path; it has none; name it: FILE:COLUMN")
    fails(text("a.csv", b"key,words\n"), "has no column text, caption, captions, long, tags, .*; it has key, words")
    fails(text("a.csv", b"key,text\na,b,c\n"), "line 2 has not as many fields")
    fails(text("a.csv", b"key,text\na\n"), "line 2 has not as many fields")
    fails(text("a.csv", b'key,text\na,"b\n'), "is not well formed near line 1")
    fails(text("a.csv", b"key,text\na,\xff\n"), "is not UTF-8")
    fails(text("a.jsonl", b'{"key": "a"\n'), "line 1 is not JSON")
    fails(text("a.jsonl", b"[]\n"), "line 1 is not a JSON object such as")
    fails(text("a.jsonl", b'{"key": 1, "text": "b"}\n'), "key and text must be strings")
    fails(text("a.jsonl", b'{"key": "a", "text": "smile \\ud83d"}\n'), "line 1 has half of a surrogate pair")
    fails(text("a.parquet", b"none"), "not a Parquet file")
    with pytest.raises(UserError, match="import needs --file: a captions file"):
        caption(out, images, IMPORT)
    with pytest.raises(UserError, match="the captioner is aio: make it import"):
        caption(out, images, CaptionConfig(), captions_file=path)


def keys_of(images):
    return [row.key for row in read_images(images)]


def test_import_from_text_files_of_the_same_stem(images, tmp_path):
    texts = {key: f"{TRICKY} {key}" for key in keys_of(images)}
    for key, text in texts.items():
        path = tmp_path / "mine" / f"{key}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
        path.with_suffix(".png").write_bytes(b"the picture beside it")
    caption(tmp_path / "captions", images, IMPORT, captions_file=tmp_path / "mine")
    assert read_captions(tmp_path / "captions") == texts
    assert read_manifest(tmp_path / "captions").config["file"].startswith("mine@")
    (tmp_path / "mine" / "metadata.csv").write_text("file_name,text\n")
    with pytest.raises(UserError, match=r"captions of two kinds, metadata.csv and circle/.*\.txt; give"):
        caption(tmp_path / "other", images, IMPORT, captions_file=tmp_path / "mine")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no captions: no metadata"):
        caption(tmp_path / "other", images, IMPORT, captions_file=tmp_path / "empty")


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_import_from_an_image_folder(images, tmp_path, name):
    texts = {key: f"{TRICKY} {key}" for key in keys_of(images)}
    folder = tmp_path / "mine"
    folder.mkdir()
    write_captions(folder / name, [(f"{key}.png", text) for key, text in texts.items()], "file_name", "text")
    caption(tmp_path / "captions", images, IMPORT, captions_file=folder)
    assert read_captions(tmp_path / "captions") == texts


@pytest.mark.parametrize("header", ["", "key\ttext\n", "id\tkey\tcaption\n"])
def test_import_from_a_tsv_without_quoting(images, tmp_path, header):
    texts = {
        key: f'"The assistant\'s" fox\tsaid: "assistant\nis {key}"\n\n\tand\tmore than "that' for key in keys_of(images)
    }
    before = "7\t" if header.startswith("id") else ""
    text = header + "".join(f"{before}{key}\t{text}\n" for key, text in texts.items())
    (tmp_path / "mine.tsv").write_text(text)
    caption(tmp_path / "captions", images, IMPORT, captions_file=tmp_path / "mine.tsv")
    assert read_captions(tmp_path / "captions") == texts


def test_import_from_the_hub(images, tmp_path, monkeypatch):
    import huggingface_hub

    texts = {key: f"{TRICKY} {key}" for key in keys_of(images)}
    snapshot = tmp_path / "snapshots" / "0123456789abcdef0123"
    (snapshot / "data").mkdir(parents=True)
    items = list(texts.items())
    write_captions(snapshot / "data" / "a.parquet", items[:9])
    write_captions(snapshot / "data" / "b.parquet", items[9:])
    asked = []

    def download(name, allow_patterns, repo_type):
        asked.append((name, repo_type))
        assert not any(pattern.endswith("py") for pattern in allow_patterns)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    caption(tmp_path / "captions", images, IMPORT, captions_file="Somebody/ImageNet_captions")
    assert read_captions(tmp_path / "captions") == texts
    assert asked == [("Somebody/ImageNet_captions", "dataset")]
    assert read_manifest(tmp_path / "captions").config["file"] == "Somebody/ImageNet_captions@0123456789ab"
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"^Some/where: there is no such folder, and fetching it failed"):
        caption(tmp_path / "other", images, IMPORT, captions_file="Some/where")


def test_captions_of_crops_are_those_of_one_picture(images, tmp_path):
    recipe = tmp_path / "recipe"
    augment(recipe, images, AugmentConfig(pattern="crop"))
    classes = keys_of(images)
    rows = read_recipe(recipe).rows
    path = write_captions(tmp_path / "mine.csv", [(key, f"A thing called {key}") for key in classes])
    caption(tmp_path / "own", images, IMPORT, recipe=recipe, captions_file=path)
    assert read_captions(tmp_path / "own") == {row.key: f"A thing called {row.base}" for row in rows}


def test_captions_files_of_other_tools(images, tmp_path):
    """LLaVA's and kohya's JSON, name to text, Flickr's several captions, sidecars, tars and Parquet with images."""
    texts = {key: f"told of {key}" for key in keys_of(images)}
    files = {
        "llava.json": [
            {"id": n, "image": f"photos/{key}.png", "conversations": [
                {"from": "human", "value": "<image>\nDescribe"}, {"from": "gpt", "value": text}]}
            for n, (key, text) in enumerate(texts.items())
        ],
        "kohya.json": {f"/home/me/set/{key}.png": {"caption": text, "tags": "1girl"} for key, text in texts.items()},
        "swift.json": [
            {"images": [f"{key}.png"], "messages": [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe"}]},
                {"role": "assistant", "content": [{"type": "text", "text": text}]}]}
            for key, text in texts.items()
        ],
        "mixed.json": [
            {"id": "text", "conversations": [{"from": "human", "value": "1 + 1"}, {"from": "gpt", "value": "2"}]},
            *({"image": f"{key}.png", "conversations": [{"from": "gpt", "value": text}]} for key, text in texts.items())
        ],
        "named.json": {f"{key}.png": text for key, text in texts.items()},
        "lists.json": [{"file_name": f"{key}.png", "captions": [text, "more"]} for key, text in texts.items()],
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
        caption(tmp_path / f"out-{name}", images, IMPORT, captions_file=tmp_path / name)
        assert read_captions(tmp_path / f"out-{name}") == texts, name


@pytest.mark.parametrize("kind", ["columns", "Flickr8k.token.txt", "Flickr8k.token.tsv", "results.csv", "coco.json"])
def test_five_captions_of_an_image_in_the_forms_of_known_sets(images, tmp_path, kind):
    keys, path = keys_of(images), tmp_path / kind
    told = {key: [f"{n} of {key}, 'quoted" for n in range(5)] for key in keys}
    rows = [(key, n, text) for key, texts in told.items() for n, text in enumerate(texts)]
    if kind == "columns":
        path = tmp_path / "five.jsonl"
        named = [{"filename": f"{key}.png"} | {f"caption_{n}": told[key][n] for n in range(5)} for key in keys]
        path.write_text("\n".join(map(json.dumps, named)))
    elif kind == "results.csv":  # Flickr30k
        lines = ["image_name| comment_number| comment", *(f"{key}.png| {n}| {text}" for key, n, text in rows)]
        path.write_text("\n".join(lines))
    elif kind == "coco.json":
        content = {
            "images": [{"id": n, "file_name": f"{key}.png"} for n, key in enumerate(keys)],
            "annotations": [{"id": n, "image_id": keys.index(key), "caption": text} for key, n, text in rows],
        }
        path.write_text(json.dumps(content))
    else:
        path.write_text("\n".join(f"{key}.jpg#{n}\t{text}" for key, n, text in rows))
    caption(tmp_path / "captions", images, IMPORT, captions_file=path)
    levels = read_levels(tmp_path / "captions")
    assert list(levels) == ["long", "long-2", "long-3", "long-4", "long-5"]
    for n, level in enumerate(levels.values()):
        assert {key: text.strip() for key, text in level.items()} == {key: told[key][n] for key in keys}


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r\n\r\n", ""])
@pytest.mark.parametrize("name", ["caption.txt", "txt", "text.txt"])
def test_texts_next_to_images_end_at_their_words(images, tmp_path, end, name):
    keys = keys_of(images)
    for key in keys:
        place = tmp_path / "mine" / f"{key}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"")
        place.with_suffix(f".{name}").write_bytes(f"told of {key}{end}".encode())
    (tmp_path / "mine" / "meta_lat.json").write_text('{"a": {"train_resolution": [64, 64]}}')  # no captions, of kohya
    caption(tmp_path / "captions", images, IMPORT, captions_file=tmp_path / "mine")
    assert read_captions(tmp_path / "captions") == {key: f"told of {key}" for key in keys}


@pytest.mark.parametrize("kind", [".caption", ".txt", ".json", "img2dataset"])
def test_captions_next_to_the_images(images, tmp_path, kind):
    texts = {key: f"told of {key}" for key in keys_of(images)}
    folder = tmp_path / "mine"
    for key, text in texts.items():
        place = folder / f"{key}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"")
        if kind in (".json", "img2dataset"):
            place.with_suffix(".json").write_text(json.dumps({"caption": text, "key": "0", "status": "success"}))
        if kind != ".json":
            place.with_suffix(".txt" if kind == "img2dataset" else kind).write_text(text)
    (folder / "README.txt").write_text("about the set")
    if kind == "img2dataset":
        (folder / "circle_stats.json").write_text("{}")
        write_captions(folder / "circle.parquet", [("0", "x")])
    caption(tmp_path / "captions", images, IMPORT, captions_file=folder)
    assert read_captions(tmp_path / "captions") == texts


def test_captions_in_tars_and_parquet_are_those_of_their_images(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(buffer, "PNG")
    tars, parquet = tmp_path / "tars", tmp_path / "parquet"
    for folder in (tars, parquet):
        folder.mkdir()
    with tarfile.open(tars / "00000.tar", "w") as tar:
        for n in range(3):
            for suffix, data in (("png", buffer.getvalue()), ("cls", b"cat"), ("txt", f"told of {n}".encode())):
                entry = tarfile.TarInfo(f"00000{n}.{suffix}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    pq.write_table(pa.table({"url": ["a"], "caption": ["b"]}), tars / "00000.parquet")  # as img2dataset leaves it
    (tars / "00000_stats.json").write_text("{}")
    rows = {
        "image": [{"bytes": buffer.getvalue(), "path": f"{n}.png"} for n in range(3)],
        "label": ["cat", "dog", "cat"],
        "text": [[f"told of {n}", "more"] for n in range(3)],
    }
    pq.write_table(pa.table(rows), parquet / "train-00000.parquet", row_group_size=2)
    for folder in (tars, parquet):
        images, out = tmp_path / f"images-{folder.name}", tmp_path / f"captions-{folder.name}"
        collect(images, CollectConfig(source=folder.name, size=16), folder)
        caption(out, images, IMPORT, captions_file=folder)
        assert list(read_captions(out).values()) == [
            f"told of {n}" for n in ((0, 1, 2) if folder == tars else (0, 2, 1))
        ]


@pytest.mark.parametrize("kind", ["texts", "metadata"])
def test_one_folder_with_splits_serves_collect_and_caption(tmp_path, kind):
    photos = tmp_path / "photos"
    for split in ("train", "val"):
        for name in ("cat/1", "cat/2", "dog/1"):
            place = photos / split / f"{name}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20), (len(name), 9, len(split))).save(place)
            if kind == "texts":
                place.with_suffix(".txt").write_text(f"{split} {name}")
        if kind == "metadata":
            rows = [(f"{name}.png", f"{split} {name}") for name in ("cat/1", "cat/2", "dog/1")]
            write_captions(photos / split / "metadata.jsonl", rows, "file_name")
    for split in ("train", "val"):
        images, out = tmp_path / f"images-{split}", tmp_path / f"captions-{split}"
        collect(images, CollectConfig(source="photos", size=16, split=split), photos)
        caption(out, images, IMPORT, captions_file=photos)
        assert list(read_captions(out).values()) == [f"{split} {name}" for name in ("cat/1", "cat/2", "dog/1")]


def test_several_captions_of_most_images_are_levels_and_of_few_an_error(images, tmp_path, capsys):
    keys = keys_of(images)
    path = write_captions(tmp_path / "five.csv", [(key, f"{n} of {key}") for key in keys for n in range(5)])
    caption(tmp_path / "captions", images, IMPORT, captions_file=path)
    assert read_captions(tmp_path / "captions") == {key: f"0 of {key}" for key in keys}
    said = "has several captions of 24 images: the levels long, long-2, long-3, long-4, long-5"
    assert said in capsys.readouterr().err
    assert read_levels(tmp_path / "captions")["long-5"] == {key: f"4 of {key}" for key in keys}
    path = write_captions(tmp_path / "two.csv", [(keys[0], "another"), *((key, f"of {key}") for key in keys)])
    with pytest.raises(UserError, match=f"two different captions for '{keys[0]}'; leave one"):
        caption(tmp_path / "other", images, IMPORT, captions_file=path)


def test_levels_of_some_images_and_of_mixes(images, recipe, tmp_path, capsys):
    keys, rows = keys_of(images), read_recipe(recipe).rows
    lines = [{"key": key, "long": f"A thing called {key}.", "short": key if n else None} for n, key in enumerate(keys)]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    caption(tmp_path / "plain", images, IMPORT, captions_file=path)
    levels = read_levels(tmp_path / "plain")
    assert levels["short"] == {key: key for key in keys[1:]}
    assert list(levels["long"]) == keys
    counts = read_manifest(tmp_path / "plain").counts
    assert (counts["records"], counts["captions_long"], counts["captions_short"]) == (24, 24, 23)
    caption(tmp_path / "mixed", images, IMPORT, recipe=recipe, captions_file=path)
    mixed = read_levels(tmp_path / "mixed")
    for row in rows:
        told = [f"{key} {place}" for key, place in zip((row.base, row.partner), mix_places(row.placement))]
        joined = "and" if row.placement.box[0] > 0 else "above"
        short = {" and ".join(told), " and ".join(told[::-1]), f"{row.base} {joined} {row.partner}"}
        assert mixed["short"].get(row.key) in ({None} if keys[0] in (row.base, row.partner) else short)
        assert mixed["long"][row.key].count("a thing called") == 2
    lines[3]["long"] = lines[3]["short"] = " "
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(UserError, match=f"has no caption for 1 of 24 images: '{keys[3]}'"):
        caption(tmp_path / "less", images, IMPORT, captions_file=path)
    caption(tmp_path / "less", images, IMPORT, captions_file=path, skip_missing=True)
    assert keys[3] not in read_levels(tmp_path / "less")["long"]


def test_names_of_other_images_are_counted_and_shown_beside_those_of_the_set(images, tmp_path):
    keys = keys_of(images)
    path = write_captions(tmp_path / "c.csv", [(f"set/{key}.png", f"of {key}") for key in keys] + [("x/y.jpg", "z")])
    caption(tmp_path / "captions", images, IMPORT, captions_file=path)
    assert read_captions(tmp_path / "captions") == {key: f"of {key}" for key in keys}
    assert read_manifest(tmp_path / "captions").counts["names_of_other_images"] == 1
    path = write_captions(tmp_path / "d.csv", [(f"other-{key}.png", "x") for key in keys])
    with pytest.raises(UserError, match=r"24 names of no image of the set, such as 'other-.*; the set has names like"):
        caption(tmp_path / "out", images, IMPORT, captions_file=path)
