"""collect: the miniature and users' folders to square crops, resumable, every reject with its reason."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tessera.config import UserError, from_dict
from tessera.curate.collect import collect as collect_module
from tessera.curate.collect.class_folders import items_of
from tessera.curate.collect.class_names import class_name
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.curate.collect.sources import CropWork
from tessera.curate.index import read_images, read_scenes
from tessera.images import read_rgb
from tessera.miniature import WorldConfig, draw_scene, render, scene_key
from tessera.stages import read_manifest
from tessera.workers import map_chunks
from tiny.folders import tree

FOLDER = CollectConfig(source="my-pictures", size=16)


def put(path, color=(9, 9, 9), size=(20, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


def test_miniature_files_say_what_the_world_says(images, world):
    rows = read_images(images)
    assert [row.key for row in rows] == sorted(scene_key(world, n) for n in range(24))
    assert Counter(row.class_name for row in rows) == {"circle": 8, "square": 8, "star": 8}
    scenes = read_scenes(images)
    for number in range(24):
        key = scene_key(world, number)
        assert scenes[key] == draw_scene(world, number)
        assert np.array_equal(read_rgb(images / f"{key}.png"), render(scenes[key], 16))
    manifest = read_manifest(images, "collect")
    assert manifest.counts == {"images": 24, "classes": 3, "rejected": 0, "ignored": 0}
    assert from_dict(CollectConfig, manifest.config).world == world


def test_miniature_again_and_after_a_stop(images, world, tmp_path, monkeypatch):
    out = tmp_path / "images"
    made = []

    def stop_at_ten(path, pixels, **how):
        if len(made) == 10:
            raise KeyboardInterrupt
        made.append(path)
        write_png(path, pixels, **how)

    write_png = collect_module.write_png
    monkeypatch.setattr(collect_module, "write_png", stop_at_ten)
    with pytest.raises(KeyboardInterrupt):
        collect(out, CollectConfig(size=16, world=world))
    with pytest.raises(UserError, match="unfinished"):
        read_images(out)
    made[0].write_bytes(b"cut short")
    monkeypatch.setattr(
        collect_module, "write_png", lambda path, pixels, **how: (made.append(path), write_png(path, pixels, **how))
    )
    collect(out, CollectConfig(size=16, world=world))
    assert len(made) == 25  # 24 and the one that was cut short
    assert tree(out) == tree(images)
    collect(out, CollectConfig(size=16, world=world))
    assert len(made) == 25


def test_miniature_in_processes_is_the_same(images, world, tmp_path, monkeypatch):
    monkeypatch.setattr("tessera.workers.usable_cores", lambda: 2)
    monkeypatch.setattr(
        collect_module, "map_chunks", lambda f, items, **_: map_chunks(f, items, chunk=5, parallel_from=1)
    )
    collect(tmp_path / "images", CollectConfig(size=16, world=world))
    assert tree(tmp_path / "images") == tree(images)


def test_a_messy_folder_is_collected_and_its_rejects_named(messy, bad_images, tmp_path):
    out = tmp_path / "images"
    collect(out, FOLDER, messy)
    table = pq.read_table(out / "images.parquet").to_pylist()
    assert len(table) == 300
    assert list(table[0]) == ["key", "class", "file", "width", "height", "source", "reject"]
    rejects = {row["source"].split("/")[-1]: row["reject"] for row in table if row["reject"] is not None}
    assert rejects == {name: reason for name, (_, reason) in bad_images.items()}

    manifest = read_manifest(out, "collect")
    assert manifest.counts == {"images": 293, "classes": 5, "rejected": 7, "ignored": 7}
    assert {source.split("/")[-1]: reason for source, reason in manifest.rejects.items()} == rejects
    assert manifest.facts["folders_without_images"] == ["docs"]
    assert set(manifest.facts["classes"]) == {"red fox", "grey cat", "Café noir", "\u732b", "a.b"}
    assert str(messy.parent) not in (out / "manifest.json").read_text()

    rows = read_images(out)
    assert len({row.key.casefold() for row in rows}) == len(rows) == 293
    assert {path for path in tree(out) if path.endswith(".png")} == {row.file for row in rows}
    for row in rows:
        assert row.file == f"{row.key}.png"
        assert read_rgb(out / row.file).shape == (16, 16, 3)
        assert class_name(row.source.split("/")[0]) == row.class_name
        assert (messy / row.source).is_file()
    assert {(row.width, row.height) for row in rows} >= {(3, 2), (200, 150)}

    before = tree(out)
    collect(out, FOLDER, messy)
    assert tree(out) == before


def test_a_stopped_folder_goes_on_with_the_same_bytes(messy, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "out"
    source = tmp_path / "source"
    for name in ("red_fox", "grey-cat"):
        shutil.copytree(messy / name, source / name)
    collect(whole, FOLDER, source)
    done = []

    def crop_some(function, items, **options):
        if not isinstance(function, CropWork):
            return map_chunks(function, items, **options)
        return map_chunks(lambda part: _stop(function(part)), items, chunk=1, parallel_from=10**9)

    def _stop(result):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(result)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(collect_module, "map_chunks", crop_some)
        patch.setattr(collect_module, "_PART", 8)
        with pytest.raises(KeyboardInterrupt):
            collect(out, FOLDER, source)
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*/*.png")}
    assert len(kept) > 20
    stale = out / "grey-cat" / "gone.png"
    stale.write_bytes(b"of a source that is no more")
    collect(out, FOLDER, source)
    assert tree(out) == tree(whole)
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())


def test_a_source_changed_before_the_end_is_cropped_again(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    put(source / "a" / "1.png", (255, 0, 0))
    (source / "b").mkdir()
    (source / "b" / "2.png").write_bytes(b"bad")
    with pytest.raises(UserError, match=r"no readable image of class 'b' \('b/2.png': not an image"):
        collect(out, FOLDER, source)
    time.sleep(0.02)  # file times are of the kernel's ticks
    put(source / "a" / "1.png", (0, 0, 255))
    put(source / "b" / "2.png")
    collect(out, FOLDER, source)
    assert read_rgb(out / "a" / "1.png")[0, 0].tolist() == [0, 0, 255]


def interrupted(out, source, monkeypatch) -> None:
    """All crops are there, and images.parquet is not."""
    with monkeypatch.context() as patch:
        patch.setattr(collect_module, "_check_classes", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            collect(out, FOLDER, source)


def red_and_blue(source: Path) -> Path:
    put(source / "a" / "1.png", (255, 0, 0))
    put(source / "b" / "1.png", (0, 0, 255))
    return source


def colors(out: Path) -> dict[str, list[int]]:
    return {row.key: read_rgb(out / str(row.file))[0, 0].tolist() for row in read_images(out)}


def test_crops_of_another_folder_of_that_name_are_not_kept(tmp_path, monkeypatch):
    out, older = tmp_path / "out", tmp_path / "older" / "my-pictures"
    put(older / "a" / "1.png", (0, 255, 0))
    put(older / "b" / "1.png", (0, 255, 0))
    time.sleep(0.02)
    interrupted(out, red_and_blue(tmp_path / "newer" / "my-pictures"), monkeypatch)
    collect(out, FOLDER, older)
    assert colors(out) == {"a/1": [0, 255, 0], "b/1": [0, 255, 0]}


@pytest.mark.parametrize("whole", [True, False])
def test_folders_that_changed_places_before_the_end_are_cropped_again(tmp_path, monkeypatch, whole):
    source, out = red_and_blue(tmp_path / "sets" / "my-pictures"), tmp_path / "out"
    other = tmp_path / "other"
    if whole:
        red_and_blue(other / "my-pictures")
        put(other / "my-pictures" / "a" / "1.png", (0, 255, 0))
    time.sleep(0.02)
    interrupted(out, source, monkeypatch)
    time.sleep(0.02)
    pairs = [(tmp_path / "sets", other)] if whole else [(source / "a", source / "b")]
    for one, two in pairs:
        one.rename(tmp_path / "third")
        two.rename(one)
        (tmp_path / "third").rename(two)
    collect(out, FOLDER, source)
    assert colors(out) == {"a/1": [0, 255, 0] if whole else [0, 0, 255], "b/1": [0, 0, 255] if whole else [255, 0, 0]}


def test_a_link_that_leads_elsewhere_before_the_end_is_cropped_again(tmp_path, monkeypatch):
    source, out = red_and_blue(tmp_path / "my-pictures"), tmp_path / "out"
    put(tmp_path / "one.png", (0, 0, 0))
    put(tmp_path / "two.png", (9, 9, 9))
    (source / "a" / "2.png").symlink_to(tmp_path / "one.png")
    time.sleep(0.02)
    interrupted(out, source, monkeypatch)
    time.sleep(0.02)
    (source / "a" / "2.png").unlink()
    (source / "a" / "2.png").symlink_to(tmp_path / "two.png")
    collect(out, FOLDER, source)
    assert colors(out)["a/2"] == [9, 9, 9]


def test_a_picture_that_was_damaged_before_the_end_leaves_no_crop(tmp_path, monkeypatch):
    source, out = red_and_blue(tmp_path / "my-pictures"), tmp_path / "out"
    put(source / "a" / "2.png")
    interrupted(out, source, monkeypatch)
    (source / "a" / "2.png").write_bytes(b"bad")
    collect(out, FOLDER, source)
    assert sorted(path.name for path in out.iterdir()) == ["a", "b", "images.parquet", "manifest.json"]
    assert not (out / "a" / "2.png").exists()


def test_a_source_changed_or_gone_after_the_end(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    put(source / "a" / "1.png")
    collect(out, FOLDER, source)
    put(source / "a" / "2.png")
    with pytest.raises(UserError, match=r"changed since .*: 1 images \(\w+\) then, 2 images \(\w+\) now"):
        collect(out, FOLDER, source)
    shutil.rmtree(source)
    collect(out, FOLDER, source)
    assert len(read_images(out)) == 1


def test_single_class_takes_all_below(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    put(source / "1.png")
    put(source / "deep" / "down" / "1.png")
    collect(out, replace(FOLDER, single_class="X-ray"), source)
    assert {(row.key, row.class_name) for row in read_images(out)} == {
        ("X-ray/1", "X-ray"),
        ("X-ray/deep-down-1", "X-ray"),
    }


def test_pictures_beside_class_folders_are_rejected(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    put(source / "a" / "1.png")
    put(source / "2.png")
    collect(out, FOLDER, source)
    assert read_manifest(out).rejects == {"2.png": "lies in no class folder"}
    assert [row.key for row in read_images(out)] == ["a/1"]


def test_links_to_folders_are_not_followed_and_the_output_is_not_a_source(tmp_path):
    source = tmp_path / "source"
    put(source / "a" / "1.png")
    put(tmp_path / "elsewhere" / "2.png")
    (source / "b").symlink_to(tmp_path / "elsewhere")
    (source / "a" / "3.png").symlink_to(tmp_path / "elsewhere" / "2.png")
    (source / "a" / "4.png").symlink_to(tmp_path / "nowhere.png")
    out = source / "images"
    collect(out, FOLDER, source)
    assert [row.key for row in read_images(out)] == ["a/1", "a/3"]
    manifest = read_manifest(out)
    assert manifest.rejects == {"a/4.png": "cannot be opened: No such file or directory"}
    assert manifest.counts["ignored"] == 1
    collect(out, FOLDER, source)


def test_what_was_made_among_the_pictures_is_not_a_source(tmp_path, monkeypatch):
    """As after `cd photos; tessera run my-pictures --images .`, and again."""
    for name in ("fox/1.png", "wolf/2.png"):
        put(tmp_path / name)
    (tmp_path / "wolf" / "manifest.json").write_text('{"tool": "of somebody else"}')
    monkeypatch.chdir(tmp_path)
    for single, keys in ((None, ["fox/1", "wolf/2"]), ("cat", ["cat/fox-1", "cat/wolf-2"])):
        first, second = (Path("out") / str(single) / name for name in ("first", "second"))
        config = replace(FOLDER, single_class=single)
        collect(first, config, Path("."))
        collect(second, replace(config, size=32), Path("."))
        collect(first, config, Path("."))
        for out in (first, second):
            assert [row.key for row in read_images(out)] == keys
            assert read_manifest(out).facts["folders_without_images"] == []


def test_a_tree_stays_a_tree_when_something_was_made_beside_it(tmp_path):
    for name in ("train/a/1.png", "val/a/2.png"):
        put(tmp_path / name)
    for size in (16, 32, 16):
        out = tmp_path / f"images{size}"
        collect(out, replace(FOLDER, size=size), tmp_path)
        assert read_manifest(out).facts["layout"] == "ImageNet tree"
        assert [row.key for row in read_images(out)] == ["a/1"]


def test_bad_folders_say_what_is_expected(tmp_path):
    with pytest.raises(UserError, match="nowhere: there is no such folder or file"):
        collect(tmp_path / "out", FOLDER, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: is empty; expected is .*/CLASS/IMAGE, .* jpeg jpg"):
        collect(tmp_path / "out", FOLDER, tmp_path / "empty")
    (tmp_path / "empty" / "a").mkdir()
    (tmp_path / "empty" / "a" / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match="has no images among its 1 files"):
        collect(tmp_path / "out", FOLDER, tmp_path / "empty")
    put(tmp_path / "flat" / "1.png")
    with pytest.raises(UserError, match=r"1 images, but no class folders; .*/CLASS/IMAGE .*--single-class NAME"):
        collect(tmp_path / "out", FOLDER, tmp_path / "flat")
    with pytest.raises(UserError, match=r"1\.png: is not a folder"):
        collect(tmp_path / "out", FOLDER, tmp_path / "flat" / "1.png")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="source 'photos': give the folder"):
        collect(tmp_path / "out", CollectConfig(source="photos"))


def test_bad_configs():
    for bad, message in (
        ({"size": 8}, "size is 8: give a side from 16"),
        ({"source": " "}, "source is empty"),
        ({"single_class": ""}, "single_class is empty"),
        ({"source": "photos", "world": WorldConfig()}, "world is for the source miniature"),
        ({"size": 64, "world": WorldConfig(size=32)}, "size is 64, but world.size is 32"),
    ):
        with pytest.raises(UserError, match=message):
            CollectConfig(**bad)


def test_keys_differ_in_more_than_case_and_suffix():
    def keys(*names):
        files = [(Path("c") / name, "c", name.rsplit(".", 1)[0].replace("/", "-")) for name in names]
        return [item.key for item in items_of(Path("none"), files)]

    assert keys("a.jpg", "b.jpg") == ["c/a", "c/b"]
    assert keys("a.jpg", "a.png") == ["c/a-jpg", "c/a-png"]
    assert keys("A.jpg", "a.JPG") == ["c/A-jpg", "c/a-JPG-2"]
    assert keys("x/a.jpg", "x-a.jpg") == ["c/x-a-jpg", "c/x-a-jpg-2"]
    assert keys("a.jpg", "a.png", "a-jpg.png") == ["c/a-jpg", "c/a-jpg-2", "c/a-png"]
    assert keys("e\u0301.jpg", "q: *?.png", "nul\x07.png") == ["c/nul-", "c/q- --", "c/\u00e9"]
    long = keys("x" * 300 + "1.png", "x" * 300 + "2.png")
    assert len(set(long)) == 2
    assert all(len(key) < 200 for key in long)


def test_names_that_are_not_utf8(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    put(source / "a" / "1.png")
    try:
        os.rename(source / "a" / "1.png", os.fsencode(source) + b"/a/caf\xe9.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    collect(out, FOLDER, source)
    assert [row.key for row in read_images(out)] == ["a/caf\ufffd"]


def test_damaged_ground_truth_is_named(images, tmp_path):
    copy = shutil.copytree(images, tmp_path / "images")
    pq.write_table(pa.table({"key": ["a"], "scene": [json.dumps({"objects": []})]}), copy / "scenes.parquet")
    with pytest.raises(UserError, match=r"scenes.parquet: is damaged \('backgrounds'\)"):
        read_scenes(copy)
    (copy / "scenes.parquet").unlink()
    with pytest.raises(UserError, match="only the miniature has ground truth"):
        read_scenes(copy)


def test_a_dying_process_is_said(tmp_path):
    code = (
        "import os\nimport tessera.workers as engine\nengine.usable_cores = lambda: 2\n"
        "from tessera.config import UserError\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        with engine.map_chunks(os._exit, [1, 2], chunk=1, parallel_from=1) as results:\n"
        "            list(results)\n"
        "    except UserError as error:\n"
        "        print(error)\n"
    ).replace("os._exit, [1, 2]", "die, [1, 2]")
    code = code.replace("if __name__", "def die(items):\n    os._exit(1)\n\n\nif __name__")
    (tmp_path / "job.py").write_text(code)
    done = subprocess.run(
        [sys.executable, tmp_path / "job.py"], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == "a worker process was killed, probably for want of memory; run again to resume"
