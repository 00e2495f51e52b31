import json
import threading

import numpy as np
import pytest
from tests.demo.conftest import HOSTILE

from tessera.config import UserError
from tessera.demo.drawing import MAX_PROMPT, Drawer, Request, find_rival
from tessera.demo.studio import KEPT, MAX_WAITING, SETTINGS_KEY, Studio
from tessera.generate.folder import GenerateConfig, generate

ASKED = {"prompt": "a red circle", "guidance_scale": 2.0, "steps": 5, "seed": 7, "count": 3}


def test_pictures_are_those_of_generate(workspace, tmp_path):
    from PIL import Image

    export = workspace / "export" / "ta"
    updates = list(Drawer(export, "cpu").draw(Request(**ASKED), threading.Event()))
    assert [update.state for update in updates[:-1]] == ["drawing"] * (len(updates) - 1)
    assert updates[-1].state == "done"
    previews = [update for update in updates[:-1] if update.pictures is not None]
    assert [update.step for update in previews] == [1, 2, 3, 4]
    assert not np.array_equal(previews[0].pictures, updates[-1].pictures)
    generate(tmp_path / "out", export, ["a red circle"], GenerateConfig(per_prompt=3, seed=7, steps=5), device="cpu")
    for k, pixels in enumerate(updates[-1].pictures):
        with Image.open(tmp_path / "out" / "00000" / "samples" / f"{k:04d}.png") as image:
            assert np.array_equal(np.asarray(image), pixels)


def test_seed_and_prompt_make_the_picture(workspace):
    drawer = Drawer(workspace / "export" / "ta", "cpu")

    def draw(**changes):
        *_, last = drawer.draw(Request(**ASKED | changes), threading.Event())
        return last.pictures

    assert np.array_equal(draw(), draw())
    assert not np.array_equal(draw(), draw(seed=8))
    assert not np.array_equal(draw(), draw(prompt="a blue ring"))


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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("steps", 2.5),
        ("steps", None),
        ("steps", 1001),
        ("steps", True),
        ("count", 9),
        ("count", "2"),
        ("seed", -1),
        ("seed", 2**32),
        ("seed", float("nan")),
        ("guidance_scale", float("inf")),
        ("guidance_scale", None),
        ("guidance_scale", -1),
        ("prompt", "x" * (MAX_PROMPT + 1)),
        ("prompt", None),
        ("prompt", "\ud800"),
    ],
)
def test_wrong_requests_are_told(field, value, workspace, tmp_path):
    with pytest.raises(UserError, match=field.split("_")[0]):
        Request(**ASKED | {field: value})
    studio = Studio([Drawer(workspace / "export" / "ta", "cpu")], tmp_path)
    (shown,) = studio.draw("me", "ta", **ASKED | {field: value})
    assert 'role="alert"' in shown.status
    assert "Traceback" not in shown.status
    assert shown.kept == []


def test_two_models_on_one_seed_keep_their_settings(workspace, tmp_path):
    export = workspace / "export" / "ta"
    assert find_rival(export) == (workspace / "export" / "ta_ia").resolve()
    studio = Studio([Drawer(export, "cpu"), Drawer(find_rival(export), "cpu")], tmp_path)
    assert studio.choices == ["ta", "ta_ia", "ta beside ta_ia"]
    *_, last = studio.draw("me", "ta beside ta_ia", **ASKED)
    assert [kept.settings["model"] for kept in last.kept] == ["ta"] * 3 + ["ta_ia"] * 3
    assert {kept.settings["seed"] for kept in last.kept} == {7}
    for kept in last.kept:
        assert read_settings(kept.path) == kept.settings
        assert kept.caption.endswith("seed 7, 5 steps, guidance 2 \u00b7 a red circle")
    *_, alone = studio.draw("me", "ta_ia", **ASKED)
    pairs = zip(last.kept[3:], alone.kept)
    assert all(read_pixels(a.path) == read_pixels(b.path) for a, b in pairs)
    assert KEPT >= 6
    (shown,) = studio.draw("me", "<b>other</b>", **ASKED)
    assert "&lt;b&gt;" in shown.status
    assert studio._stops == {}


def read_settings(path):
    """Return what `Studio` writes beside the pixels."""
    from PIL import Image

    with Image.open(path, formats=("PNG",)) as image:
        image.load()
        return json.loads(image.info[SETTINGS_KEY])


def read_pixels(path):
    from PIL import Image

    with Image.open(path) as image:
        return image.tobytes()


def test_stop_is_the_visitors_own(workspace, tmp_path):
    studio = Studio([Drawer(workspace / "export" / "ta", "cpu")], tmp_path)
    drawing = studio.draw("me", "ta", **ASKED | {"steps": 1000})
    next(drawing)
    studio.stop("somebody else")
    assert next(drawing).drawing
    studio.stop("me")
    *_, last = drawing
    assert "Stopped after step" in last.status
    assert last.kept == []


def test_who_waits_is_told_and_can_leave(workspace, tmp_path):
    studio = Studio([Drawer(workspace / "export" / "ta", "cpu")], tmp_path)
    first = studio.draw("me", "ta", **ASKED | {"steps": 1000})
    assert next(first).drawing
    waiting = [studio.draw(name, "ta", **ASKED) for name in ("second", "third")]
    assert ["1 drawing comes" in next(waiting[0]).status, "2 drawings come" in next(waiting[1]).status] == [True, True]
    studio.stop("second")
    (left,) = waiting[0]
    assert "Stopped before it began" in left.status
    assert "1 drawing comes" in next(waiting[1]).status
    first.close()  # as when the visitor leaves: the turn is the next one's
    *_, last = waiting[1]
    assert len(last.kept) == 3
    assert studio._stops == {}


def test_a_full_line_refuses(workspace, tmp_path):
    studio = Studio([Drawer(workspace / "export" / "ta", "cpu")], tmp_path)
    line = [studio.draw(str(n), "ta", **ASKED | {"steps": 1000}) for n in range(1 + MAX_WAITING)]
    assert all(next(drawing).drawing for drawing in line)
    (refused,) = studio.draw("late", "ta", **ASKED)
    assert "The queue is full: 16 drawings wait already" in refused.status
    assert refused.kept == []
    for drawing in line:
        drawing.close()
    *_, last = studio.draw("late", "ta", **ASKED)
    assert len(last.kept) == 3


def test_damaged_export_is_a_message(tmp_path):
    from tests.demo.conftest import save_model

    export = save_model(tmp_path / "export", 0)
    (export / "model.safetensors").write_bytes(b"nonsense")
    (shown,) = Studio([Drawer(export, "cpu")], tmp_path / "drawn").draw("me", "export", **ASKED)
    assert "model.safetensors" in shown.status
    with pytest.raises(UserError, match="nowhere"):
        Drawer(tmp_path / "nowhere")


@pytest.mark.parametrize("prompt", HOSTILE)
def test_hostile_prompts_are_kept_and_escaped(prompt, workspace, tmp_path):
    studio = Studio([Drawer(workspace / "export" / "ta", "cpu")], tmp_path)
    *_, last = studio.draw("me", "ta", **ASKED | {"prompt": prompt, "count": 1})
    assert read_settings(last.kept[0].path)["prompt"] == prompt
    assert "<script" not in last.preview
    assert "</textarea" not in last.preview
    if len(prompt) > 5000:
        assert "the model read the first" in last.status
