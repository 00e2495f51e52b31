"""collect: the miniature and users' folders to square crops, resumable, every reject with its reason."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tessera.config import UserError, from_dict
from tessera.curate.collect import collect as collect_module
from tessera.curate.collect import sources
from tessera.curate.collect.class_names import class_name
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.curate.collect.sources import CropWork
from tessera.curate.index import read_images, read_scenes
from tessera.images import read_rgb
from tessera.miniature import WorldConfig, draw_scene, render, scene_key
from tessera.stages import read_manifest
from tessera.workers import map_chunks
from tiny.class_folders import FOLDER, put
from tiny.folders import tree
from tiny.images import damaged, saved, scenery
from tiny.layouts import ORDER, make_kaggle, make_parquet, make_plain, make_tar, make_webdataset, write_folders


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


def test_a_messy_folder_is_collected_and_its_rejects_named(messy, bad_images, tmp_path, capsys):
    out = tmp_path / "images"
    collect(out, FOLDER, messy)
    table = pq.read_table(out / "images.parquet").to_pylist()
    assert len(table) == 300
    assert list(table[0]) == ["key", "class", "file", "width", "height", "source", "reject"]
    rejects = {row["source"].split("/")[-1]: row["reject"] for row in table if row["reject"] is not None}
    assert rejects == {name: reason for name, (_, reason) in bad_images.items()}

    manifest = read_manifest(out, "collect")
    small = sum(min(row["width"], row["height"]) < 16 for row in table if row["reject"] is None)
    assert manifest.counts == {"images": 293, "classes": 5, "rejected": 7, "ignored": 7, "enlarged": small}
    said = f"collect: {small} of 293 images are smaller than 16 px and were enlarged; a smaller --size keeps their d"
    assert said in capsys.readouterr().err
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
        with pytest.raises(KeyboardInterrupt):
            collect(out, FOLDER, source, part_size=8)
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*/*.png")}
    assert len(kept) > 20
    stale = out / "grey-cat" / "gone.png"
    stale.write_bytes(b"of a source that is no more")
    collect(out, FOLDER, source)
    assert tree(out) == tree(whole)
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())


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


def test_a_tree_stays_a_tree_when_something_was_made_beside_it(tmp_path):
    for name in ("train/a/1.png", "val/a/2.png"):
        put(tmp_path / name)
    for size in (16, 32, 16):
        out = tmp_path / f"images{size}"
        collect(out, replace(FOLDER, size=size), tmp_path)
        assert read_manifest(out).facts["layout"] == "ImageNet tree"
        assert [row.key for row in read_images(out)] == ["a/1"]


def test_bad_configs():
    for bad, message in (
        ({"size": 8}, r"size is 8; give a number in \[16, 4096\]"),
        ({"source": " "}, "source is empty"),
        ({"single_class": ""}, "single_class is empty"),
        ({"source": "photos", "world": WorldConfig()}, "world is for the source miniature"),
        ({"size": 64, "world": WorldConfig(size=32)}, "size is 64, but world.size is 32"),
    ):
        with pytest.raises(UserError, match=message):
            CollectConfig(**bad)


@pytest.mark.parametrize("make", [make_plain, make_kaggle, make_tar, make_parquet, make_webdataset, write_folders])
def test_damaged_images_are_rejected_in_every_layout(make, tmp_path):
    whole = saved(scenery(1, 60, 50), "PNG")
    middle = len(whole) // 2
    names = {
        "whole": whole,
        "stretch": damaged(whole, middle, middle + 90),
        "end": whole[:-30],
        "bit": bytearray(whole),
    }
    names["bit"][middle] ^= 4
    pictures = {(synset, f"{synset}_{name}"): bytes(data) for synset in ORDER for name, data in names.items()}
    if make is write_folders:  # not ImageNet's
        pictures = {(f"class {synset[-1]}", name): data for (synset, name), data in pictures.items()}
    source = make(tmp_path / "source", pictures)
    collect(tmp_path / "images", CollectConfig(source="set", size=16), source)
    assert [row.key.rpartition("_")[2] for row in read_images(tmp_path / "images")] == ["whole"] * 3
    assert Counter(read_manifest(tmp_path / "images").rejects.values()) == {"damaged": 6, "truncated": 3}


def test_jpegs_that_simplejpeg_refuses_are_counted_whenever_it_stops(tmp_path, monkeypatch):
    for number in range(12):
        data = saved(scenery(number, 60, 50), "JPEG")
        place = data.index(b"\xff\xdb")
        path = tmp_path / "source" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[:place] + b"\0\0" + data[place:] if number % 3 == 0 else data)
    config, made = replace(FOLDER, fast=True), []

    def stop_at_eight(path, pixels, **how):
        if len(made) == 8:
            raise KeyboardInterrupt
        made.append(path)
        write_png(path, pixels, **how)

    write_png = sources.write_png
    with monkeypatch.context() as patch:
        patch.setattr(sources, "write_png", stop_at_eight)
        with pytest.raises(KeyboardInterrupt):
            collect(tmp_path / "out", config, tmp_path / "source")
    for out in ("out", "whole"):
        collect(tmp_path / out, config, tmp_path / "source")
        assert read_manifest(tmp_path / out).facts["read_by_pillow"] == 4
        assert read_manifest(tmp_path / out).counts["rejected"] == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    collect(tmp_path / "exact", FOLDER, tmp_path / "source")
    assert "read_by_pillow" not in read_manifest(tmp_path / "exact").facts


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
