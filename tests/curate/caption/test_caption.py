"""The stage that writes captions, its configuration, and what a user is told."""

import pytest

from tessera import files as files_module
from tessera.config import UserError
from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.workers import Engine


def test_recipe_of_other_images_is_refused(images, recipe, tmp_path):
    from tessera.curate.collect.collect import CollectConfig, collect
    from tessera.miniature import WorldConfig

    collect(tmp_path / "images", CollectConfig(size=16, world=WorldConfig(size=16, num_images=8, seed=77)))
    with pytest.raises(UserError, match="was made from other images than"):
        caption(tmp_path / "captions", tmp_path / "images", CaptionConfig(), recipe=recipe)


def test_bad_configs():
    for bad, message in (
        (
            {"captioner": "blip"},
            "unknown captioner 'blip'; known: aio, scene, import, join, shorten, summarize, llava, openai,",
        ),
        ({"model": "a/b"}, "the captioner is aio: one of llava, openai, summarize"),
        ({"seed": -1}, "seed is -1; give at least 0"),
        ({"file": "a.csv"}, "the captioner is aio: make it import"),
    ):
        with pytest.raises(UserError, match=message):
            CaptionConfig(**bad)


def test_a_server_that_nobody_asks_is_refused(images, tmp_path):
    for captioner in ("aio", "llava"):
        with pytest.raises(UserError, match=f"the captioner is {captioner}: make it openai or summarize"):
            caption(tmp_path / "out", images, CaptionConfig(captioner=captioner), server="http://127.0.0.1:1/v1")
    assert not (tmp_path / "out").exists()


def test_tasks_of_an_array_job_may_write_the_same_captions_at_once(images, tmp_path, monkeypatch):
    whole, out, task = tmp_path / "whole", tmp_path / "out", Engine(part=(1, 2))
    caption(whole, images, CaptionConfig())
    sync, others = files_module.sync, []

    def sync_while_another_begins(path):
        if path.name.endswith("captions.parquet") and not others:
            others.append(None)
            caption(out, images, CaptionConfig(), engine=Engine(part=(0, 2)))
        sync(path)

    monkeypatch.setattr(files_module, "sync", sync_while_another_begins)
    caption(out, images, CaptionConfig(), engine=task)
    assert others
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in whole.iterdir()
    }
