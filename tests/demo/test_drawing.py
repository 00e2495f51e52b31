"""Requests checked, drawn step by step, and stopped."""

import threading

import numpy as np

from tessera.demo.drawing import Drawer, Request
from tessera.generate.folder import GenerateConfig, generate
from tessera.weights.export import CaptionsSeen
from tiny.exports import write_export

ASKED = {"prompt": "a red circle", "guidance_scale": 2.0, "steps": 5, "seed": 7, "count": 3}


def test_images_are_those_of_generate(workspace, tmp_path):
    from PIL import Image

    export = workspace / "export" / "ta"
    updates = list(Drawer(export, "cpu").draw(Request(**ASKED), threading.Event()))
    assert [update.state for update in updates[:-1]] == ["drawing"] * (len(updates) - 1)
    assert updates[-1].state == "done"
    previews = [update for update in updates[:-1] if update.images is not None]
    assert [update.step for update in previews] == [1, 2, 3, 4]
    assert not np.array_equal(previews[0].images, updates[-1].images)
    generate(tmp_path / "out", export, ["a red circle"], GenerateConfig(per_prompt=3, seed=7, steps=5), device="cpu")
    for k, pixels in enumerate(updates[-1].images):
        with Image.open(tmp_path / "out" / "00000" / "samples" / f"{k:04d}.png") as image:
            assert np.array_equal(np.asarray(image), pixels)


def test_seed_and_prompt_make_the_picture(workspace):
    drawer = Drawer(workspace / "export" / "ta", "cpu")

    def draw(**changes):
        *_, last = drawer.draw(Request(**ASKED | changes), threading.Event())
        return last.images

    assert np.array_equal(draw(), draw())
    assert not np.array_equal(draw(), draw(seed=8))
    assert not np.array_equal(draw(), draw(prompt="a blue ring"))


def test_further_settings_are_those_of_the_pipeline(workspace):
    drawer = Drawer(workspace / "export" / "ta", "cpu")

    def draw(**changes):
        *_, last = drawer.draw(Request(**ASKED | {"count": 1} | changes), threading.Event())
        return last.images

    plain = draw()
    assert np.array_equal(draw(guidance_from=0.0, guidance_to=1.0, negative_prompt=""), plain)
    for changes in ({"sampler": "dpmpp_2m"}, {"negative_prompt": "a blue ring"}, {"guidance_to": 0.5}):
        assert not np.array_equal(draw(**changes), plain), changes
    off = draw(guidance_scale=1.0)
    assert np.array_equal(draw(guidance_scale=1.0, negative_prompt="a blue ring"), off)
    expected = drawer.pipeline.images(["a red circle"], [(0, 0)], seed=7, steps=5, guidance_scale=2.0, sampler="heun")
    assert np.array_equal(draw(sampler="heun"), expected)


def test_stop_before_and_while(workspace):
    drawer = Drawer(workspace / "export" / "ta", "cpu")
    stop = threading.Event()
    stop.set()
    (update,) = drawer.draw(Request(**ASKED), stop)
    assert update.state == "stopped"
    stop = threading.Event()
    states = []
    for update in drawer.draw(Request(**ASKED | {"steps": 1000}), stop):
        states.append(update)
        if update.step > 0:
            stop.set()
    assert states[-1].state == "stopped"
    assert 0 < states[-1].step < 1000
    before = threading.active_count()
    drawing = drawer.draw(Request(**ASKED | {"steps": 1000}), threading.Event())
    next(drawing)
    drawing.close()  # as when the visitor leaves
    assert threading.active_count() == before
    *_, last = drawer.draw(Request(**ASKED), threading.Event())
    assert last.state == "done"


def test_a_prompt_unlike_the_captions_is_noted(tmp_path):
    seen = CaptionsSeen(tokens=(3, 9), vocabulary=("a", "red", "circle"))
    drawer = Drawer(write_export(tmp_path / "export", captions=seen), "cpu")
    assert drawer.prompt_note("a red circle") == ""
    assert (
        drawer.prompt_note("a scarlet circle") == "Words of no training caption mean nothing to this model: 'scarlet'."
    )
    assert drawer.prompt_note("red " * 300).startswith("The prompt has 301 tokens")
