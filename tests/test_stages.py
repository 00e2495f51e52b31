"""Stage directories and their manifests."""

import hashlib
import json
import shutil

import pytest

import tessera
from tessera import files
from tessera.config import UserError
from tessera.files import read_json
from tessera.stages import find_exports, find_stage, open_stage, read_manifest, the_export

CONFIG = {"size": 32, "shapes": ("circle", "star"), "model": {"width": 8, "lr": 0.1}}


def finished(directory, stage="collect", config=CONFIG, inputs=None, **facts):
    work = open_stage(directory, stage=stage, config=config, inputs=inputs)
    if not work.done:
        work.finish({"images": 2}, {"a/b": "truncated"}, facts)
    return directory


def test_stage_from_start_to_done(tmp_path):
    directory = tmp_path / "deep" / "images"
    work = open_stage(directory, stage="collect", config=CONFIG)
    assert (work.done, work.directory) == (False, directory)
    with pytest.raises(UserError, match="is unfinished; run `tessera collect` again to resume it"):
        read_manifest(directory)
    assert not open_stage(directory, stage="collect", config=CONFIG).done
    work.finish({"images": 2}, {"a/b": "truncated"}, {"shape": [1, 2]})
    before = (directory / "manifest.json").read_bytes()
    assert open_stage(directory, stage="collect", config=CONFIG).done
    assert (directory / "manifest.json").read_bytes() == before

    manifest = read_manifest(directory, "collect")
    assert manifest.complete
    assert manifest.config == {"size": 32, "shapes": ["circle", "star"], "model": {"width": 8, "lr": 0.1}}
    assert (manifest.counts, manifest.rejects, manifest.facts) == (
        {"images": 2},
        {"a/b": "truncated"},
        {"shape": [1, 2]},
    )
    assert manifest.sha256 == hashlib.sha256(before).hexdigest()
    assert read_json(directory / "manifest.json")["tool"] == {"name": "tessera", "version": tessera.__version__}


def test_manifests_chain_and_hold_no_paths_or_times(tmp_path):
    bytes_of = []
    for name in ("one", "another"):
        images = finished(tmp_path / name / "images")
        captions = finished(tmp_path / name / "captions", "caption", {"captioner": "aio"}, {"images": images})
        assert read_manifest(captions).inputs == {"images": read_manifest(images).sha256}
        bytes_of.append((captions / "manifest.json").read_bytes())
        assert str(tmp_path).encode() not in bytes_of[-1]
    assert bytes_of[0] == bytes_of[1]


def test_another_configuration_is_refused_field_by_field(tmp_path):
    directory = finished(tmp_path / "images")
    before = (directory / "manifest.json").read_bytes()
    changed = {"size": 64, "shapes": ("circle",), "model": {"width": 8, "lr": 0.2}, "new": True}
    with pytest.raises(UserError) as caught:
        open_stage(directory, stage="collect", config=changed)
    message = str(caught.value)
    assert message.startswith(f"{directory}: ")
    assert "size: the directory has 32, this call has 64" in message
    assert 'shapes: the directory has ["circle", "star"], this call has ["circle"]' in message
    assert "model.lr: the directory has 0.1, this call has 0.2" in message
    assert "new: the directory has nothing, this call has true" in message
    assert "width" not in message
    assert "--out" in message
    assert "delete" in message
    assert "\n" not in message
    with pytest.raises(UserError, match="was made by `tessera collect`, not `tessera encode`"):
        open_stage(directory, stage="encode", config=CONFIG)
    assert (directory / "manifest.json").read_bytes() == before


def test_other_inputs_are_refused(tmp_path):
    images, others = finished(tmp_path / "images"), finished(tmp_path / "others", config={"size": 64})
    captions = finished(tmp_path / "captions", "caption", {}, {"images": images})
    with pytest.raises(UserError, match=r"input images: the directory has [0-9a-f]{12}, this call has [0-9a-f]{12} "):
        open_stage(captions, stage="caption", config={}, inputs={"images": others})
    with pytest.raises(UserError, match=r"input images: the directory has .*, this call has nothing"):
        open_stage(captions, stage="caption", config={})


def test_an_input_must_be_there_and_complete(tmp_path):
    def caption(images):
        return open_stage(tmp_path / "captions", stage="caption", config={}, inputs={"images": images})

    with pytest.raises(UserError, match=r"absent: does not exist, .* needs it as its images; .*`tessera collect`"):
        caption(tmp_path / "absent")
    (tmp_path / "single.safetensors").touch()
    with pytest.raises(UserError, match=r"single\.safetensors: is a file, .* needs it as its images"):
        caption(tmp_path / "single.safetensors")
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match=r"photos: has no manifest\.json, .*`tessera collect`"):
        caption(tmp_path / "photos")
    open_stage(tmp_path / "images", stage="collect", config={})
    with pytest.raises(UserError, match="images: is unfinished; run `tessera collect` again to resume it"):
        caption(tmp_path / "images")
    assert not (tmp_path / "captions").exists()


def test_a_directory_of_someone_else_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="has files in it that tessera did not make; choose a new or empty directory"):
        open_stage(tmp_path, stage="collect", config={})
    assert [entry.name for entry in tmp_path.iterdir()] == ["letter.txt"]
    with pytest.raises(UserError, match="is a file"):
        open_stage(tmp_path / "letter.txt", stage="collect", config={})
    with pytest.raises(UserError, match="cannot be made"):
        open_stage(tmp_path / "letter.txt" / "below", stage="collect", config={})


def test_leftovers_of_a_killed_process_go(tmp_path):
    directory = tmp_path / "images"
    open_stage(directory, stage="collect", config={})
    (directory / "star").mkdir()
    (directory / "star" / ".tmp-0123-a.png").write_bytes(b"half")
    (directory / "star" / "b.png").write_bytes(b"whole")
    open_stage(directory, stage="collect", config={})
    assert [entry.name for entry in (directory / "star").iterdir()] == ["b.png"]

    (directory / "manifest.json").rename(directory / ".tmp-0123-manifest.json")  # killed before the first rename
    shutil.rmtree(directory / "star")
    assert not open_stage(directory, stage="collect", config={}).done
    assert [entry.name for entry in directory.iterdir()] == ["manifest.json"]


def test_processes_that_see_the_end_together_all_complete_it(tmp_path, monkeypatch):
    """One finishes while the other's manifest is on its way to the disk."""
    one, other = (open_stage(tmp_path / "samples", stage="generate", config={}, shared=True) for _ in range(2))
    (tmp_path / "samples" / ".tmp-0123-a.png").write_bytes(b"half")
    sync, turns = files.sync, iter([lambda: other.finish({"images": 2})])

    def meanwhile(path):
        next(turns, lambda: None)()
        sync(path)

    monkeypatch.setattr(files, "sync", meanwhile)
    one.finish({"images": 2})
    assert read_manifest(tmp_path / "samples", "generate").counts == {"images": 2}
    assert [entry.name for entry in (tmp_path / "samples").iterdir()] == ["manifest.json"]


def test_other_ranks_wait_for_rank_0_and_say_so(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="rank 0 did not start it within 0 s"):
        open_stage(tmp_path / "out", stage="generate", config={}, shared=True, patience=0)
    assert not (tmp_path / "out").exists()


def test_damaged_manifests_are_named(tmp_path):
    directory = finished(tmp_path / "images")
    path = directory / "manifest.json"
    whole = path.read_text()
    path.write_text(whole[:50])
    with pytest.raises(UserError, match=r"manifest\.json: is not JSON"):
        open_stage(directory, stage="collect", config=CONFIG)
    path.write_text(json.dumps({"name": "another program's"}))
    with pytest.raises(UserError, match="is not a manifest of tessera"):
        read_manifest(directory)


def test_a_directory_of_another_format_is_refused_by_its_name(tmp_path):
    directory = finished(tmp_path / "images")
    path = directory / "manifest.json"
    data = json.loads(path.read_text())
    for kind, text in (({}, "format None"), ({"format": 99}, "format 99")):
        path.write_text(json.dumps({name: value for name, value in data.items() if name != "format"} | kind))
        said = f"^{directory}: was made by another version .*\\({text}, .*; delete it and make it again"
        with pytest.raises(UserError, match=said):
            read_manifest(directory)
        with pytest.raises(UserError, match=said):
            open_stage(directory, stage="collect", config=CONFIG)
        with pytest.raises(UserError, match=said):
            open_stage(tmp_path / "captions", stage="caption", config={}, inputs={"images": directory})


def test_read_manifest_errors(tmp_path):
    with pytest.raises(UserError, match=r"there is no such directory; give a directory made by `tessera train`$"):
        read_manifest(tmp_path / "absent", "train")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file: is a file; give a directory made by tessera$"):
        read_manifest(tmp_path / "file")
    with pytest.raises(UserError, match=r"has no manifest\.json; give a directory made by tessera$"):
        read_manifest(tmp_path)
    directory = finished(tmp_path / "images")
    with pytest.raises(UserError, match=r"give a directory made by `tessera collect`, such as .*images$"):
        read_manifest(tmp_path, "collect")
    with pytest.raises(UserError, match=r"give a directory made by `tessera train`$"):
        read_manifest(tmp_path, "train")
    said = "images: was made by `tessera collect`; give a directory made by `tessera encode` or `tessera train`$"
    with pytest.raises(UserError, match=said):
        read_manifest(directory, ("encode", "train"))
    assert read_manifest(directory, ("encode", "collect")).stage == "collect"


@pytest.mark.parametrize("given", ["runs/ta", "runs/ta/checkpoints", "runs", "export", ".", "images"])
def test_what_lies_elsewhere_in_the_working_folder_is_named(given, tmp_path):
    finished(tmp_path / "images")
    open_stage(tmp_path / "runs" / "ta", stage="train", config={}).finish({"num_images": 1})
    asked = tmp_path / given
    asked.mkdir(exist_ok=True)
    with pytest.raises(UserError, match=r"give a directory made by `tessera export`"):
        read_manifest(asked, "export")
    for name in ("aio", "ta"):
        open_stage(tmp_path / "export" / name, stage="export", config={}).finish({"parameters": 1})
    named = "ta" if given == "runs/ta" else "aio"
    with pytest.raises(UserError, match=rf"give a directory made by `tessera export`, such as .*/export/{named}$"):
        read_manifest(asked, "export")


def test_a_run_without_an_export_is_told_how_to_make_one(tmp_path):
    run = tmp_path / "ta"
    open_stage(run, stage="train", config={}).finish({"num_images": 1})
    said = rf"ta: was made by `tessera train`; .*`tessera export`, .* into one: tessera export {run} --out DIR$"
    with pytest.raises(UserError, match=said):
        read_manifest(run, "export")


def test_a_stage_is_found_without_writing(tmp_path):
    call = {"stage": "collect", "config": CONFIG}
    assert find_stage(tmp_path / "images", **call) is None
    assert not (tmp_path / "images").exists()
    work = open_stage(tmp_path / "images", **call)
    before = (tmp_path / "images" / "manifest.json").read_bytes()
    found = find_stage(tmp_path / "images", **call)
    assert found is not None
    assert not found.done
    work.finish({"images": 2})
    found = find_stage(tmp_path / "images", **call)
    assert found is not None
    assert found.done
    with pytest.raises(UserError, match="size"):
        find_stage(tmp_path / "images", stage="collect", config=CONFIG | {"size": 64})
    assert (tmp_path / "images" / "manifest.json").read_bytes() != before


def test_what_a_run_has_begun_is_resumed_by_run(tmp_path):
    (tmp_path / "config.json").write_text('{"arms": [], "collect": {}}')
    for place in ("images", "runs/ta", "captions/plain"):
        open_stage(tmp_path / place, stage="train", config={})
        said = rf"is unfinished; run `tessera run PRESET --out \S*{tmp_path.name}` again to resume it$"
        with pytest.raises(UserError, match=said):
            read_manifest(tmp_path / place)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is unfinished; run `tessera train` again"):
        read_manifest(tmp_path / "runs" / "ta")


def test_exports_near_a_folder_and_the_one_that_is_meant(tmp_path):
    run = tmp_path / "out" / "mine"
    assert the_export(run) == run
    finished(run / "images")
    assert the_export(run) == run
    made = [run / "export" / name for name in ("ta", "ta_ia")]
    open_stage(made[0], stage="export", config={}).finish({})
    open_stage(made[1], stage="export", config={})
    assert the_export(run) == the_export(made[0]) == made[0]  # the other one is unfinished
    assert find_exports(tmp_path) == find_exports(tmp_path / "out") == made[:1]
    open_stage(made[1], stage="export", config={}).finish({})
    with pytest.raises(UserError, match=f"mine: has several exports; give one of {made[0]}, {made[1]}$"):
        the_export(run)
    assert the_export(run, or_last=True) == made[1]
