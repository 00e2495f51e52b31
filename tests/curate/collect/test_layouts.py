"""collect: ImageNet in every layout gives the same set, and each fault of a layout is said."""

import functools
import io
import json
import re
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tessera.cli import main
from tessera.config import UserError
from tessera.curate.collect import collect as collect_module
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.curate.index import read_images
from tessera.stages import read_manifest
from tessera.workers import map_chunks
from tiny.class_folders import FOLDER, put
from tiny.layouts import (
    CONFIG,
    KAGGLE,
    ORDER,
    SYNSETS,
    add,
    jpeg,
    make_class_tars,
    make_kaggle,
    make_parquet,
    make_plain,
    make_tar,
    make_torchvision,
    make_webdataset,
    mapping_file,
    rotated,
    write_folders,
)

drawn = functools.cache(jpeg)  # its noise is another each time


@pytest.fixture(scope="module")
def pictures() -> dict[tuple[str, str], bytes]:
    """(synset, stem) -> bytes: ImageNet's own oddities are among them."""
    found = {(synset, f"{synset}_{i}"): jpeg(i + 3 * n) for n, synset in enumerate(ORDER) for i in range(3)}
    png, cmyk = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (20, 30), (10, 200, 30)).save(png, "PNG")
    Image.new("CMYK", (30, 20), (10, 200, 30, 0)).save(cmyk, "JPEG")
    found["n02099601", "n02099601_7"] = png.getvalue()  # named .JPEG all the same
    found["n02099601", "n02099601_8"] = cmyk.getvalue()
    found["n02099712", "n02099712_9"] = rotated()
    found["n01440764", "n01440764_90"] = b""
    found["n01440764", "n01440764_91"] = jpeg(1)[:-150]
    return found


LAYOUTS = {
    "class folders": make_plain,
    "torchvision": make_torchvision,
    "kaggle": make_kaggle,
    "tar of tars": make_tar,
    "class tars": make_class_tars,
    "parquet": make_parquet,
    "webdataset": make_webdataset,
}


def crops(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.glob("*/*.png")}


@pytest.fixture(scope="module")
def expected(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    collect(folder / "images", CONFIG, make_plain(folder / "source", pictures))
    return folder / "images"


def test_imagenets_oddities_are_kept_and_its_damage_is_named(expected):
    manifest = read_manifest(expected)
    assert manifest.rejects == {
        "n01440764/n01440764_90.JPEG": "empty file",
        "n01440764/n01440764_91.JPEG": "truncated",
    }
    assert manifest.counts == {"images": 12, "classes": 3, "rejected": 2, "ignored": 1}
    assert manifest.facts["classes"] == {"tench": 3, "golden retriever": 5, "Labrador retriever": 4}
    assert manifest.facts["class_names"].startswith("LOC_synset_mapping.txt@")
    assert manifest.facts["exif_rotation"] == "ignored"
    rows = {row.key: row for row in read_images(expected)}
    assert rows["n02099601/n02099601_8"].class_name == "golden retriever"
    turned = rows["n02099712/n02099712_9"]
    assert (turned.width, turned.height) == (45, 30)  # as it is stored, though EXIF says otherwise


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_set(name, pictures, expected, tmp_path):
    source, out = LAYOUTS[name](tmp_path / "set" / "source", pictures), tmp_path / "images"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*")}
    collect(out, CONFIG, source)
    assert crops(out) == crops(expected)
    found, wanted = read_images(out), read_images(expected)
    columns = ["key", "class", "file", "width", "height"]
    assert found.table.select(columns).equals(wanted.table.select(columns))
    assert sorted(read_manifest(out).rejects.values()) == ["empty file", "truncated"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*")} == before  # read in place
    collect(out, CONFIG, source)


@pytest.mark.parametrize("name", ["class folders", "tar of tars", "parquet", "webdataset"])
def test_processes_give_the_same_bytes(name, pictures, tmp_path, monkeypatch):
    source = LAYOUTS[name](tmp_path / "source", pictures)
    collect(tmp_path / "one", CONFIG, source)
    monkeypatch.setattr("tessera.workers.usable_cores", lambda: 2)
    monkeypatch.setattr(
        collect_module, "map_chunks", lambda f, items, **_: map_chunks(f, items, chunk=1, parallel_from=1)
    )
    collect(tmp_path / "two", CONFIG, source)
    for file in ("images.parquet", "manifest.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert crops(tmp_path / "one") == crops(tmp_path / "two")


def relabelled(source: Path) -> None:
    with tarfile.open(source / "a.tar", "w") as tar:
        for i, label in enumerate(("dog", "cat") if (source / "once").exists() else ("cat", "dog")):
            add(tar, f"{i}.jpg", drawn(i))
            add(tar, f"{i}.cls", label.encode())


def redrawn(source: Path) -> None:
    seeds = (3, 4) if (source / "once").exists() else (0, 1)
    images = [{"bytes": drawn(seed), "path": f"{i}.jpg"} for i, seed in enumerate(seeds)]
    pq.write_table(pa.table({"image": images, "label": ["cat", "dog"]}), source / "a.parquet")


def renamed(source: Path) -> None:
    images = [{"bytes": drawn(i), "path": f"{i}.jpg"} for i in range(2)]
    pq.write_table(pa.table({"image": images, "label": [0, 1]}), source / "a.parquet")
    (source / "classnames.txt").write_text("dog\ncat\n" if (source / "once").exists() else "cat\ndog\n")


@pytest.mark.parametrize(("write", "said"), [(relabelled, "images"), (redrawn, "images"), (renamed, "class names")])
def test_labels_pictures_and_names_that_change_alone_are_noticed(tmp_path, write, said):
    source = tmp_path / "source"
    source.mkdir()
    write(source)
    config = CollectConfig(source="source", size=16)
    collect(tmp_path / "before", config, source)
    (source / "once").touch()
    write(source)
    with pytest.raises(UserError, match=f"its {said} were changed since"):
        collect(tmp_path / "before", config, source)
    collect(tmp_path / "after", config, source)
    # Later stages know their input by its manifest.
    assert read_manifest(tmp_path / "after").sha256 != read_manifest(tmp_path / "before").sha256


def test_kaggles_validation_set_by_its_csv(pictures, tmp_path):
    root = make_kaggle(tmp_path, pictures)
    (root / KAGGLE / "val").mkdir()
    for i in range(4):
        (root / KAGGLE / "val" / f"ILSVRC2012_val_0000000{i}.JPEG").write_bytes(jpeg(i))
    val = CollectConfig(source="imagenet", size=16, split="val")
    with pytest.raises(UserError, match=r"val: has 4 images, but no class folders, nor is .* LOC_val_solution.csv ab"):
        collect(root / "out", val, root)
    lines = [f"ILSVRC2012_val_0000000{i},{ORDER[i]} 1 2 3 4 {ORDER[i]} 5 6 7 8 \n" for i in range(3)]
    (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "".join(lines))
    collect(root / "out", val, root)
    rows = {row.key: row.class_name for row in read_images(root / "out")}
    assert rows == {
        "n01440764/ILSVRC2012_val_00000000": "tench",
        "n02099601/ILSVRC2012_val_00000001": "golden retriever",
        "n02099712/ILSVRC2012_val_00000002": "Labrador retriever",
    }
    assert read_manifest(root / "out").rejects == {"val/ILSVRC2012_val_00000003.JPEG": "not in LOC_val_solution.csv"}


def test_splits_are_chosen_by_the_files_names(pictures, tmp_path):
    source = make_parquet(tmp_path / "source", pictures)
    collect(tmp_path / "val", CollectConfig(source="imagenet", size=16, split="val"), source)
    assert len(read_images(tmp_path / "val")) + len(read_manifest(tmp_path / "val").rejects) == 1
    (source / "data" / "validation-00000-of-00001.parquet").unlink()
    with pytest.raises(UserError, match="no files of the split val, only of train"):
        collect(tmp_path / "again", CollectConfig(source="imagenet", size=16, split="val"), source)


def test_wordnet_ids_need_names(pictures, tmp_path):
    source = write_folders(tmp_path / "deep" / "er" / "and" / "source", pictures)
    with pytest.raises(UserError, match=r"no file near it names 3 of 3 classes \(n01440764, .*--class-names FILE"):
        collect(tmp_path / "out", CONFIG, source)
    names = tmp_path / "mine.json"
    names.write_text(json.dumps({str(i): [s, SYNSETS[s].split(",")[0].replace(" ", "_")] for i, s in enumerate(ORDER)}))
    collect(tmp_path / "out", CollectConfig(source="imagenet", size=16, class_names=str(names)), source)
    assert {row.class_name for row in read_images(tmp_path / "out")} == {
        "tench", "golden retriever", "Labrador retriever"
    }  # fmt: skip
    assert read_manifest(tmp_path / "out").config["class_names"].startswith("mine.json@")
    names.write_text(json.dumps({"n01440764": "tench"}))
    with pytest.raises(UserError, match=r"mine\.json does not name 2 of 3 classes"):
        collect(tmp_path / "o2", CollectConfig(source="i", size=16, class_names=str(names)), source)


def test_a_set_without_one_usable_picture_is_none(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i in range(3):
            add(tar, f"{i}.jpg", jpeg(i))
    with pytest.raises(UserError, match=r"none of its 3 images can be used \('a.tar/0.jpg': no class with it"):
        collect(tmp_path / "images", CollectConfig(source="a", size=16), tmp_path / "a.tar")
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        for name in ("cats", "dogs"):
            add(tar, f"{name}/1.jpg", jpeg(1))
    with pytest.raises(UserError, match="give --single-class NAME; if a tar's folders are the classes, unpack it"):
        collect(tmp_path / "images", CollectConfig(source="b", size=16), tmp_path / "b.tar")


PACKED = (("gz", b"\x1f\x8b\x08"), ("bz2", b"BZh91AY"), ("xz", b"\xfd7zXZ\0"), ("zst", b"\x28\xb5\x2f\xfd"))


def test_mixed_and_unknown_layouts(pictures, tmp_path):
    def fails(source, message, **options):
        with pytest.raises(UserError, match=message) as caught:
            collect(tmp_path / "out", CollectConfig(source="x", size=16, **options), source)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()

    both = make_parquet(tmp_path / "both", pictures)
    make_class_tars(both, pictures)
    fails(both, r"has tar files \(n01440764.tar\) and Parquet files \(data/train-.*layouts are mixed; give the folder")
    folders = write_folders(tmp_path / "folders", pictures)
    make_tar(folders, pictures)
    fails(folders, r"has tar files .* and class folders: layouts are mixed")
    mapping_file(tmp_path / "half")
    fails(tmp_path / "half", r"has LOC_synset_mapping.txt, but no ILSVRC/Data/CLS-LOC")
    fails(make_kaggle(tmp_path / "kaggle", pictures), "has no folder of the split val, only test, train", split="val")
    (tmp_path / "a.zip").write_bytes(b"PK")
    fails(tmp_path / "a.zip", "is not a folder, nor a .tar or .parquet file; it is compressed, .*; unpack it")
    for name in ("a.tar.gz", "b.tgz", "c.tar.zst"):
        (tmp_path / name / "inside").mkdir(parents=True)
        (tmp_path / name / "inside" / name).write_bytes(b"\x1f\x8b")
        fails(tmp_path / name, rf"inside/{name} is compressed, so that its images cannot be read in place; unpack it")
    shutil.copytree(both / "data", tmp_path / "packed")
    (tmp_path / "packed" / "train-00002-of-00003.parquet.gz").write_bytes(b"\x1f\x8b")
    fails(tmp_path / "packed", r"parquet\.gz is compressed")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    fails(tmp_path / "bad.parquet", r"bad.parquet: is not a Parquet file or is damaged")
    pq.write_table(pa.table({"text": ["a"], "label": [1]}), tmp_path / "text.parquet")
    fails(tmp_path / "text.parquet", "has the columns text, label; expected are the columns image")
    pq.write_table(pa.table({"image": ["a"], "label": [1]}), tmp_path / "path.parquet")
    fails(tmp_path / "path.parquet", "its column image is string, without bytes: it holds only")
    for name, begin in (
        ("gz", b"\x1f\x8b\x08"),
        ("bz2", b"BZh91AY"),
        ("xz", b"\xfd7zXZ\0"),
        ("zst", b"\x28\xb5\x2f\xfd"),
    ):
        (tmp_path / f"{name}.tar").write_bytes(begin + bytes(600))
        fails(tmp_path / f"{name}.tar", rf"{name}.tar: is compressed, so that it cannot be read in place; unpack it")
    (tmp_path / "cut.tar").write_bytes(make_tar(tmp_path / "whole", pictures).read_bytes()[:700])
    fails(tmp_path / "cut.tar", r"cut.tar: is not a whole tar file")


def test_keys_that_occur_twice(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for number in range(2):
        with tarfile.open(source / f"{number}.tar", "w") as tar:
            add(tar, "A1.jpg" if number else "a1.jpg", jpeg(number))
            add(tar, "A1.cls" if number else "a1.cls", b"fox")
    with pytest.raises(UserError, match=r"1 images have the key of another: '0.tar/a1.jpg' and '1.tar/A1.jpg' are"):
        collect(tmp_path / "out", CONFIG, source)
    shutil.copy(source / "0.tar", source / "1.tar")
    with tarfile.open(source / "1.tar", "a") as tar:
        add(tar, "a1.png", jpeg(1))
    with pytest.raises(UserError, match=r"1\.tar: sample 'a1' has two images, 'a1.jpg' and 'a1.png'"):
        collect(tmp_path / "out", CONFIG, source)


def test_labels_must_count_the_sorted_ids(pictures, tmp_path):
    source = make_parquet(tmp_path / "source", pictures)
    path = tmp_path / "other.txt"
    path.write_text("n00000001 thing\n" + "".join(f"{s} {SYNSETS[s]}\n" for s in ORDER))
    with pytest.raises(UserError, match=r"label 0 stands at n01440764, but n01440764 is not number 0 of other.txt"):
        collect(tmp_path / "out", CollectConfig(source="x", size=16, class_names=str(path)), source)


OWN = '''
from tessera.curate.collect.layouts import of_files


class ByName:
    """Images named CLASS__NUMBER.png in one folder."""

    def open(self, source, out, split):
        return of_files(source, [(path, path.name.partition("__")[0]) for path in source.glob("*.png")], "by name")


class Broken:
    def open(self, source, out, split):
        return [][0]


class Nothing:
    def open(self, source, out, split):
        return None


class NoOpen:
    pass
'''


def test_a_layout_of_the_users_file(tmp_path, monkeypatch, capsys):
    def tessera(*args, code=0):
        with pytest.raises(SystemExit) as exit:
            main(args)
        assert exit.value.code == code

    (tmp_path / "my_parts.py").write_text(OWN)
    (tmp_path / "photos").mkdir()
    for i in range(150):
        name = f"{'red_fox' if i % 2 else 'wolf'}__{i}.png"
        Image.new("RGB", (20, 20), (i, 0, 0)).save(tmp_path / "photos" / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tessera.workers.usable_cores", lambda: 2)
    tessera("collect", "photos", "--out", "images", "--size", "16", "--layout", "my_parts.py:ByName")
    rows = read_images(tmp_path / "images")
    assert [(row.key, row.class_name, row.source) for row in rows][:2] == [
        ("red_fox/red_fox__1", "red fox", "red_fox__1.png"),
        ("red_fox/red_fox__101", "red fox", "red_fox__101.png"),
    ]
    assert len(rows) == 150
    manifest = read_manifest(tmp_path / "images")
    assert manifest.facts["layout"] == "by name"
    assert manifest.config["layout"].startswith("my_parts.py:ByName@")
    tessera("collect", "photos", "--out", "images", "--size", "16", "--layout", "my_parts.py:ByName")  # nothing to do
    for name, message in (
        ("my_parts.py:Broken", r"layout my_parts\.py:Broken: line 14: IndexError"),
        ("my_parts.py:Nothing", r"photos: is not of the layout my_parts\.py:Nothing, whose open\(\) returned NoneType"),
        ("my_parts.py:NoOpen", r"layout my_parts\.py:NoOpen: has no method open\(\)"),
        ("class-folder", r"unknown layout 'class-folder'; did you mean 'class-folders'"),
        ("class-folders", r"photos: has 150 images, but no class folders"),
    ):
        capsys.readouterr()
        tessera("collect", "photos", "--out", "other", "--size", "16", "--layout", name, code=2)
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert re.search(message, line), line
        assert not (tmp_path / "other").exists()


def img2dataset(root: Path, kind: str) -> Path:
    """What img2dataset 1.45 leaves of four links, one of them dead: two shards, with statistics and tables."""
    root.mkdir()
    for shard in range(2):
        name = f"{shard:05}"
        records = []
        with tarfile.open(root / f"{name}.tar", "w") if kind == "webdataset" else open(root / "log", "w") as tar:
            for i in range(2):
                key, dead = f"{name}{i:04}", shard == i == 1
                meta = {
                    "url": f"http://a/{i}",
                    "key": key,
                    "caption": "a fox",
                    "status": "failed" if dead else "success",
                }
                records.append(meta | ({"jpg": None if dead else jpeg(i)} if kind == "parquet" else {}))
                for suffix, data in (("jpg", jpeg(i)), ("txt", b"a fox"), ("json", json.dumps(meta).encode())):
                    if dead or kind == "parquet":
                        continue
                    if kind == "webdataset":
                        add(tar, f"{key}.{suffix}", data)
                    else:
                        (root / name).mkdir(exist_ok=True)
                        (root / name / f"{key}.{suffix}").write_bytes(data)
        pq.write_table(pa.Table.from_pylist(records), root / f"{name}.parquet")
        (root / f"{name}_stats.json").write_text("{}")
    return root


@pytest.mark.parametrize(
    ("kind", "said"),
    [("files", "download of img2dataset"), ("webdataset", "no class with it"), ("parquet", "no column label")],
)
def test_a_download_of_img2dataset_is_one_class(tmp_path, kind, said):
    source = img2dataset(tmp_path / "laion", kind)
    config = CollectConfig(source="laion", size=16)
    with pytest.raises(UserError, match=f"laion: .*{said}.*give --single-class NAME"):
        collect(tmp_path / "out", config, source)
    assert not (tmp_path / "out").exists()
    collect(tmp_path / "out", replace(config, single_class="red fox"), source)
    rows = list(read_images(tmp_path / "out"))
    assert len(rows) == 3
    assert {row.class_name for row in rows} == {"red fox"}
    assert all(row.key.startswith("red fox/") for row in rows)
    manifest = read_manifest(tmp_path / "out")
    assert sorted(manifest.rejects.values()) == (["no bytes in its row"] if kind == "parquet" else [])
    assert manifest.facts["ignored"]["*.json"] == {"files": 5, "webdataset": 2, "parquet": 2}[kind]


def test_download_folders_without_their_tables_are_no_classes_either(tmp_path):
    source = img2dataset(tmp_path / "laion", "files")
    for path in (*source.glob("*.parquet"), *source.glob("*_stats.json")):
        path.unlink()
    config = CollectConfig(source="laion", size=16)
    with pytest.raises(
        UserError, match="give --single-class NAME, or --layout class-folders if its folders are classes"
    ):
        collect(tmp_path / "out", config, source)
    collect(tmp_path / "out", replace(config, layout="class-folders"), source)
    assert {row.class_name for row in read_images(tmp_path / "out")} == {"00000", "00001"}


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name not in ("class folders", "torchvision", "kaggle")])
def test_one_class_of_any_layout(name, pictures, expected, tmp_path):
    source = LAYOUTS[name](tmp_path / "set" / "source", pictures)
    collect(tmp_path / "out", replace(CONFIG, single_class="animal"), source)
    rows = list(read_images(tmp_path / "out"))
    assert len(rows) == len(read_images(expected))
    assert {row.class_name for row in rows} == {"animal"}
    assert len({row.key for row in rows}) == len(rows)
    assert read_manifest(tmp_path / "out").facts["classes"] == {"animal": len(rows)}


def test_links_stay_rejected_in_one_class(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "1.jpg", jpeg(1))
        link = tarfile.TarInfo("2.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "1.jpg"
        tar.addfile(link)
    collect(tmp_path / "out", CollectConfig(source="a", size=16, single_class="fox"), tmp_path / "a.tar")
    assert [row.key for row in read_images(tmp_path / "out")] == ["fox/1"]
    assert list(read_manifest(tmp_path / "out").rejects) == ["a.tar/2.jpg"]


def test_one_class_does_not_hide_tars_among_images(tmp_path):
    source = tmp_path / "both"
    source.mkdir()
    (source / "1.jpg").write_bytes(jpeg(1))
    with tarfile.open(source / "a.tar", "w") as tar:
        add(tar, "2.jpg", jpeg(2))
    one = CollectConfig(source="both", size=16, single_class="fox")
    with pytest.raises(
        UserError, match=r"both: has tar files \(a.tar\) and images: layouts are mixed; .*--layout NAME"
    ):
        collect(tmp_path / "out", one, source)
    collect(tmp_path / "out", replace(one, layout="webdataset"), source)
    assert [row.key for row in read_images(tmp_path / "out")] == ["fox/2"]
    assert read_manifest(tmp_path / "out").facts["ignored"] == {"*.jpg": 1}


@pytest.mark.parametrize("wrapper", ["images", "data/images", "train/images", "Dataset"])
def test_folders_around_the_classes_are_no_class(tmp_path, wrapper):
    for name in ("cat", "dog"):
        put(tmp_path / "s" / wrapper / name / "1.jpg")
    collect(tmp_path / "out", FOLDER, tmp_path / "s")
    assert {row.class_name for row in read_images(tmp_path / "out")} == {"cat", "dog"}


@pytest.mark.parametrize("wrapper", ["flowers", "a/b", "data/flowers"])
def test_an_only_folder_of_folders_is_in_doubt(tmp_path, wrapper):
    for name in ("rose", "tulip"):
        put(tmp_path / "s" / wrapper / name / "1.jpg")
    with pytest.raises(UserError, match=rf"s: has one folder, {wrapper}, with folders of images in it \(rose, tulip\)"):
        collect(tmp_path / "out", FOLDER, tmp_path / "s")
    collect(tmp_path / "out", FOLDER, tmp_path / "s" / wrapper)
    one = replace(FOLDER, single_class="plant")
    collect(tmp_path / "one", one, tmp_path / "s")
    assert [{row.class_name for row in read_images(tmp_path / name)} for name in ("out", "one")] == [
        {"rose", "tulip"}, {"plant"}
    ]  # fmt: skip


@pytest.mark.parametrize("part", ["fold{}", "fold_{}", "Batch-{:03d}", "part {}"])
def test_parts_of_a_set_are_no_classes(tmp_path, part):
    for number in (1, 2):
        for name in ("cat", "dog"):
            put(tmp_path / "s" / part.format(number) / name / f"{number}.jpg")
    with pytest.raises(UserError, match=r"hold the same folders of images \(cat, ...\), .*give the folder of one"):
        collect(tmp_path / "out", FOLDER, tmp_path / "s")
    collect(tmp_path / "one", FOLDER, tmp_path / "s" / part.format(1))
    assert {row.class_name for row in read_images(tmp_path / "one")} == {"cat", "dog"}
    collect(tmp_path / "out", replace(FOLDER, layout="class-folders"), tmp_path / "s")
    assert len({row.class_name for row in read_images(tmp_path / "out")}) == 2


def test_numbered_classes_with_folders_of_their_own_are_classes(tmp_path):
    for name in ("type1/a/1.jpg", "type2/b/1.jpg"):
        put(tmp_path / "s" / name)
    collect(tmp_path / "out", FOLDER, tmp_path / "s")
    assert {row.class_name for row in read_images(tmp_path / "out")} == {"type1", "type2"}
