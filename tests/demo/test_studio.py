"""Drawings of visitors"""

import json
import threading

import pytest

from tessera.config import UserError
from tessera.demo.drawing import MAX_PROMPT, Drawer, Request, find_rival
from tessera.demo.studio import GALLERY, MAX_WAITING, SETTINGS_KEY, Line, Studio
from tiny.demo import HOSTILE

ASKED = {"prompt": "a red circle", "guidance_scale": 2.0, "steps": 5, "seed": 7, "count": 3}


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
        ("negative_prompt", None),
        ("negative_prompt", "\ud800"),
        ("sampler", "eulr"),
        ("guidance_from", 1.5),
        ("guidance_to", None),
        ("guidance_to", -0.1),
    ],
)
def test_wrong_requests_are_told(field, value, workspace, tmp_path):
    with pytest.raises(UserError, match=field.split("_")[0]):
        Request(**ASKED | {field: value})
    studio = Studio([Drawer(workspace / "export" / "ta", "cpu")], tmp_path)
    (shown,) = studio.draw("me", "ta", **ASKED | {field: value})
    assert 'role="alert"' in shown.status
    assert "Traceback" not in shown.status
    assert shown.new == []


def test_two_models_on_one_seed_keep_their_settings(workspace, tmp_path):
    export = workspace / "export" / "ta"
    assert find_rival(export) == (workspace / "export" / "ta_ia").resolve()
    studio = Studio([Drawer(export, "cpu"), Drawer(find_rival(export), "cpu")], tmp_path)
    assert studio.choices == ["ta", "ta_ia", "ta and ta_ia"]
    *_, last = studio.draw("me", "ta and ta_ia", **ASKED)
    assert [image.settings["model"] for image in last.new] == ["ta"] * 3 + ["ta_ia"] * 3
    assert {image.settings["seed"] for image in last.new} == {7}
    for image in last.new:
        assert read_settings(image.path) == image.settings
        assert image.caption.endswith("seed 7, 5 steps, guidance 2 \u00b7 a red circle")
    *_, alone = studio.draw("me", "ta_ia", **ASKED)
    for color in ("arm-0", "arm-1"):  # TA and TA+IA, as in reports
        assert f'class="{color}"' in last.preview
    *_, near = studio.draw("me", "ta", near=lambda drawn: f"<b>near {len(drawn)}</b>", **ASKED)
    assert near.preview.count("<b>near 3</b>") == 1
    pairs = zip(last.new[3:], alone.new)
    assert all(read_pixels(a.path) == read_pixels(b.path) for a, b in pairs)
    assert GALLERY >= 6
    (shown,) = studio.draw("me", "<b>other</b>", **ASKED)
    assert "&lt;b&gt;" in shown.status
    assert studio._stops == []


def read_settings(path):
    """Return what `Studio` writes next to the pixels."""
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
    assert last.new == []


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
    assert len(last.new) == 3
    assert studio._stops == []


def test_a_full_line_refuses(workspace, tmp_path):
    studio = Studio([Drawer(workspace / "export" / "ta", "cpu")], tmp_path)
    line = [studio.draw(str(n), "ta", **ASKED | {"steps": 1000}) for n in range(1 + MAX_WAITING)]
    assert all(next(drawing).drawing for drawing in line)
    (refused,) = studio.draw("late", "ta", **ASKED)
    assert "The queue is full: 16 drawings wait already" in refused.status
    assert refused.new == []
    for drawing in line:
        drawing.close()
    *_, last = studio.draw("late", "ta", **ASKED)
    assert len(last.new) == 3


def test_damaged_export_is_a_message(tmp_path):
    from tiny.demo import save_model

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
    assert read_settings(last.new[0].path)["prompt"] == prompt
    assert "<script" not in last.preview
    assert "</textarea" not in last.preview
    if len(prompt) > 5000:
        assert "the model read the first" in last.status


def test_first_come_first_served_and_who_leaves_makes_room():
    line = Line(most=2)
    with line.place() as first:
        second, third = line.place(), line.place()
        waits = [second.__enter__(), third.__enter__()]
        assert [wait(0) for wait in (first, *waits)] == [0, 1, 2]
        with pytest.raises(UserError, match="The queue is full: 2 drawings wait already"), line.place():
            pass
        second.__exit__(None, None, None)
        assert waits[1](0) == 1
        with line.place() as last:
            assert last(0) == 2
        third.__exit__(None, None, None)
    with line.place() as alone:
        assert alone(0) == 0


def test_waiting_ends_when_the_one_before_leaves():
    line = Line(most=1)
    first = line.place()
    first.__enter__()
    with line.place() as wait:
        assert wait(0.01) == 1
        timer = threading.Timer(0.05, first.__exit__, (None, None, None))
        timer.start()
        assert wait(60) == 0
        timer.join()
