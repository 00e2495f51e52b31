"""evaluate on folders whose content is known: a perfect artist, a careless one, plain prompts, damaged folders."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tessera.cli.output import say_scores
from tessera.config import UserError
from tessera.evaluate.intervals import paired_difference, task_numbers
from tessera.evaluate.miniature import shipped
from tessera.evaluate.miniature.evaluate import MEASURES, EvaluateConfig, asked_colors, evaluate
from tessera.evaluate.scores import Protocol, Scores, read_scores
from tessera.miniature import WorldConfig, render
from tessera.prompts.geneval import TASKS
from tessera.prompts.miniature import PromptConfig, draw_prompts, extend, prompts_sha256
from tessera.randomness import philox
from tessera.records import Scene
from tessera.stages import open_stage, read_manifest
from tiny.scores import judged

WORLD = WorldConfig(seed=5)
PER_TASK = 4
LINES = draw_prompts(WORLD, PromptConfig(per_task=PER_TASK, seed=3))
QUICK = EvaluateConfig(judge_renders=10)


def scene_of(number: int) -> Scene:
    """The scene which the extended text of prompt `number` says."""
    task = LINES[number]["tag"]
    return extend(LINES[number], WORLD, philox(3, f"prompts/extended/{task}", number % PER_TASK))


def samples(
    directory: Path,
    picture: Callable[[int], np.ndarray],
    lines: list[dict[str, Any]] = LINES,
    extended: bool = True,
    per_prompt: int = 1,
) -> Path:
    """A folder as `generate` leaves it, with `picture(prompt number)` for each prompt."""
    stage = open_stage(directory, stage="generate", config={"extended": extended, "per_prompt": per_prompt})
    for number, line in enumerate(lines):
        folder = directory / f"{number:05d}"
        (folder / "samples").mkdir(parents=True)
        for k in range(per_prompt):
            Image.fromarray(picture(number)).save(folder / "samples" / f"{k:04d}.png")
        (folder / "metadata.jsonl").write_text(json.dumps({**line, "text": line["prompt"]}) + "\n")
    stage.finish({"prompts": len(lines), "images": len(lines) * per_prompt})
    return directory


@pytest.fixture(scope="module")
def perfect(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("perfect")
    evaluate(root / "scores", samples(root / "samples", lambda n: render(scene_of(n), 32)), QUICK)
    return root / "scores"


@pytest.fixture(scope="module")
def careless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draws for each prompt the scene of one of the next task."""
    root = tmp_path_factory.mktemp("careless")
    drawn = samples(root / "samples", lambda n: render(scene_of((n + PER_TASK + 1) % len(LINES)), 32))
    evaluate(root / "scores", drawn, QUICK)
    return root / "scores"


def test_a_perfect_artist(perfect: Path):
    scores = read_scores(perfect)
    assert scores.number("overall").value >= 0.95
    for name in ("single_object", "two_object", "colors", "position", "color_attr"):
        assert scores.number(name).value == 1, [v for v in scores.items if v["tag"] == name]
        assert (scores.number(name).value, scores.number(name).high) == (1, 1)
        assert 0 < scores.number(name).low < 1  # other prompts may fail
        assert (scores.number(name).n, scores.number(name).clusters) == (PER_TASK, PER_TASK)
    assert scores.number("both_colors").value == scores.number("colors_in_relation").value == 1
    assert scores.number("both_colors").n == scores.number("colors_in_relation").n == 3 * PER_TASK
    assert scores.number("seam").value < 0.02
    assert scores.number("seam_visible").value == 0
    assert scores.facts["judge"]["one_object"] >= 0.9


def test_a_careless_artist(careless: Path):
    scores = read_scores(careless)
    assert scores.number("overall").value <= 0.3
    assert scores.number("colors_in_relation").value <= 0.3
    assert all(item["reason"].startswith("expected") for item in scores.items if not item["correct"])


def test_the_protocol_and_verdicts_are_told(perfect: Path):
    scores = read_scores(perfect)
    protocol = scores.number("overall").protocol
    assert protocol.prompts_sha256 == prompts_sha256(LINES)
    assert protocol.images == len(LINES)
    assert len(protocol.encoder_sha256) == 64
    assert protocol.settings["extended"] is True
    assert protocol.extender.model == "tessera-scene-1"
    assert scores.facts["judge_renders"] == 10
    assert [v["prompt"] for v in scores.items] == list(range(len(LINES)))
    first = scores.items[0]
    assert first["file"] == "00000/samples/0000.png"
    assert first["tag"] == "single_object"
    assert first["correct"] is True
    assert first["reason"].startswith("found ")
    assert first["values"].keys() == {"overall", "single_object", "seam", "seam_visible"}
    (seen,) = first["detections"]
    assert seen["class"] == LINES[0]["include"][0]["class"]
    assert [round(edge) for edge in seen["box"]] == pytest.approx(
        [32 * (c + s * scene_of(0).objects[0].diameter / 2) for s in (-1, 1) for c in scene_of(0).objects[0].center],
        abs=1.6,
    )
    assert [patch["color"] for patch in first["color_objects"]] == [seen["color"]]
    assert read_manifest(perfect, "evaluate").counts == {"images": len(LINES), "prompts": len(LINES)}


def test_arms_are_compared_in_pairs(perfect: Path, careless: Path):
    good, bad = read_scores(perfect), read_scores(careless)
    for name in ("overall", "both_colors", "colors_in_relation"):
        difference = paired_difference(bad, good, name)
        assert difference.low > 0, name
        assert difference.value == pytest.approx(good.number(name).value - bad.number(name).value)
    same = paired_difference(good, good, "overall")
    assert same.low < same.value == 0 < same.high
    with pytest.raises(UserError, match="judged different images"):
        paired_difference(good, replace(bad, items=bad.items[:-1]), "overall")


def test_short_prompts_ask_for_fewer_colors(tmp_path: Path):
    lines = [line for line in LINES if line["tag"] in ("position", "color_attr")]
    start = LINES.index(lines[0])
    drawn = samples(
        tmp_path / "samples", lambda n: render(scene_of(start + n), 32), lines, extended=False, per_prompt=2
    )
    evaluate(tmp_path / "scores", drawn, QUICK)
    scores = read_scores(tmp_path / "scores")
    assert scores.number("overall") is None  # four tasks are missing
    assert scores.number("single_object") is None
    assert scores.number("position").n == 2 * PER_TASK
    assert scores.number("position").clusters == PER_TASK
    assert scores.number("both_colors").n == 2 * PER_TASK  # only color_attr asks for two colors
    assert scores.number("colors_in_relation") is None
    assert scores.number("position").protocol.extender is None


def test_two_runs_give_the_same_bytes_and_the_second_call_nothing(tmp_path: Path, perfect: Path):
    drawn = samples(tmp_path / "samples", lambda n: render(scene_of(n), 32))
    out = tmp_path / "scores"
    evaluate(out, drawn, QUICK)
    assert (out / "scores.json").read_bytes() == (perfect / "scores.json").read_bytes()
    before = (out / "scores.json").stat().st_mtime_ns
    evaluate(out, drawn, QUICK)
    assert (out / "scores.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="judge_renders"):
        evaluate(out, drawn, EvaluateConfig(judge_renders=12))


def test_finished_scores_of_another_detector_are_refused(tmp_path: Path, perfect: Path):
    """Not silently taken for what this version would give."""
    shutil.copytree(perfect, tmp_path / "scores")
    manifest = tmp_path / "scores" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(shipped.detector_sha256(), "0" * 64))
    with pytest.raises(UserError, match=rf'detector_sha256: the directory has "{"0" * 64}", this call'):
        evaluate(tmp_path / "scores", perfect.parent / "samples", QUICK)


def test_finished_scores_are_looked_at_without_torch(perfect: Path):
    program = "import sys; from pathlib import Path\n"
    program += "from tessera.evaluate.miniature.evaluate import EvaluateConfig, evaluate\n"
    program += "evaluate(*map(Path, sys.argv[1:]), EvaluateConfig(judge_renders=10)); print('torch' in sys.modules)"
    words = [str(perfect), str(perfect.parent / "samples")]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_plain_prompts_only_get_a_seam_score(tmp_path: Path):
    halves = np.full((32, 32, 3), 60, dtype=np.uint8)
    halves[:, 16:] = 200
    drawn = samples(tmp_path / "samples", lambda n: halves, [{"prompt": "a street at night"}] * 3, extended=False)
    evaluate(tmp_path / "scores", drawn, QUICK)
    scores = read_scores(tmp_path / "scores")
    assert scores.number("seam").value == pytest.approx(140 / 255, abs=1e-3)
    assert scores.number("seam_visible").value == 1
    assert all(scores.number(name) is None for name in MEASURES if not name.startswith("seam"))
    assert {item["correct"] for item in scores.items} == {None}


def test_prompts_without_metadata_among_others_are_counted(tmp_path: Path, capsys):
    """Their images count in no task, which the numbers alone do not tell."""
    lines = [*LINES[:2], {"prompt": "a street at night"}]
    drawn = samples(tmp_path / "samples", lambda n: render(scene_of(n), 32), lines, extended=False, per_prompt=2)
    evaluate(tmp_path / "scores", drawn, QUICK)
    said = "2 of 6 images: no include in their metadata, first 00002/samples/0000.png"
    assert read_scores(tmp_path / "scores").facts["passed_over"] == said
    say_scores(tmp_path / "scores")
    told = capsys.readouterr().out
    assert f"  passed over: {said}\n" in told
    assert "  the judge takes 1.00 of sound renders for right, " in told


@pytest.mark.parametrize(
    ("line", "extended", "asked"),
    [
        ({"include": [{"class": "ring"}]}, False, None),
        (
            {"include": [{"class": "ring", "color": "red"}, {"class": "star", "color": "blue"}]},
            False,
            ("red", "blue", None),
        ),
        ({"include": [{"class": "ring", "color": "red"}, {"class": "star", "color": "red"}]}, False, None),
        ({"include": [{"class": "ring", "color": "red"}, {"class": "star"}]}, False, None),
        (
            {"include": [{"color": "red"}, {"color": "blue", "position": ["above", 0]}]},
            False,
            ("red", "blue", "above"),
        ),
        (
            {
                "extended": {
                    "objects": [{"color": "red", "center": [0.25, 0.5]}, {"color": "pink", "center": [0.75, 0.5]}]
                }
            },
            True,
            ("red", "pink", "right of"),
        ),
        (
            {
                "extended": {
                    "objects": [{"color": "red", "center": [0.5, 0.75]}, {"color": "pink", "center": [0.5, 0.25]}]
                }
            },
            True,
            ("red", "pink", "above"),
        ),
        ({"prompt": "anything"}, True, None),
    ],
)
def test_what_a_prompt_asks_of_colors(line: dict[str, Any], extended: bool, asked: tuple[str, str, str | None] | None):
    assert asked_colors(line, extended) == asked


def numbers(*rows: tuple[int, str, bool]) -> Scores:
    items = [judged(prompt, sample, tag, right) for sample, (prompt, tag, right) in enumerate(rows)]
    return Scores(
        kind="miniature", name="a", numbers=task_numbers(items, MEASURES, Protocol(metric="", name=""), TASKS.index)
    )


def test_overall_is_the_mean_of_the_tasks():
    rows = [(0, TASKS[0], True), (1, TASKS[0], True), (2, TASKS[0], False)]
    rows += [(10 + i, task, i == 0) for i, task in enumerate(TASKS[1:])]
    found = numbers(*rows)
    assert found.number("single_object").value == pytest.approx(2 / 3)
    overall = found.number("overall")
    assert overall.value == pytest.approx((2 / 3 + 1) / 6)  # not 3 of 8
    assert overall.low < overall.value < overall.high


def test_images_of_one_prompt_are_no_independent_evidence():
    right = [p % 2 == 0 for p in range(20)]
    once = numbers(*[(p, TASKS[0], right[p]) for p in range(20)]).number("single_object")
    often = numbers(*[(p, TASKS[0], right[p]) for p in range(20) for _ in range(8)]).number("single_object")
    assert often.n == 160
    assert often.high - often.low == pytest.approx(once.high - once.low, abs=0.03)
    assert 0.3 < once.high - once.low < 0.6


def test_users_are_told(tmp_path: Path):
    good = samples(tmp_path / "good", lambda n: render(scene_of(n), 32), LINES[:2], extended=False)

    def spoilt(name: str, spoil: Callable[[Path], Any]) -> Path:
        copy = tmp_path / name
        shutil.copytree(good, copy)
        spoil(copy)
        return copy

    def line(text: str) -> Callable[[Path], Any]:
        return lambda copy: (copy / "00001" / "metadata.jsonl").write_text(text.replace("{", '{"prompt": "p", ', 1))

    def picture(size: tuple[int, int]) -> Callable[[Path], Any]:
        return lambda copy: Image.new("RGB", size).save(copy / "00001" / "samples" / "0000.png")

    cases: dict[str, tuple[Callable[[Path], Any], str]] = {
        "class": (
            line('{"include": [{"class": "dog", "count": 1}]}'),
            "00001/metadata.jsonl: include.0.: the judge knows no class 'dog'",
        ),
        "near": (line('{"include": [{"class": "cirle", "count": 1}]}'), "did you mean 'circle'"),
        "color": (line('{"include": [{"class": "star", "count": 1, "color": "teal"}]}'), "knows no color 'teal'"),
        "count": (line('{"include": [{"class": "star", "count": 0}]}'), "positive integer"),
        "clause": (line('{"include": ["star"]}'), "list of objects {class, count"),
        "nothing": (line('{"include": [{"count": 1}]}'), "knows no class None"),
        "position": (
            line('{"include": [{"class": "star", "count": 1, "position": ["left of", 0]}]}'),
            "number of an earlier clause",
        ),
        "tag": (
            line('{"include": [{"class": "star", "count": 1}], "tag": "color"}'),
            "needs a tag, one of single_object",
        ),
        "no tag": (line('{"include": [{"class": "star", "count": 1}]}'), "needs a tag, one of single_object"),
        "empty": (line('{"include": [], "tag": "colors"}'), "include must not be empty"),
        "list": (line("[]"), "must hold an object"),
        "json": (line("{"), "is not JSON"),
        "other size": (picture((48, 48)), "48 x 48"),
        "not square": (picture((32, 30)), "32 x 30"),
        "damaged": (
            lambda copy: (copy / "00001" / "samples" / "0000.png").write_bytes(b"no"),
            "not a readable image",
        ),
        "nothing there": (
            lambda copy: [shutil.rmtree(copy / name) for name in ("00000", "00001")],
            "4 of 4 files are missing",
        ),
    }
    for name, (spoil, message) in cases.items():
        with pytest.raises(UserError, match=message) as error:
            evaluate(tmp_path / f"out {name}", spoilt(name, spoil), QUICK)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="tessera generate"):
        evaluate(tmp_path / "out", tmp_path / "nowhere", QUICK)
    for bad in ({"judge_renders": 1}, {"threads": 0}):
        with pytest.raises(UserError, match=next(iter(bad))):
            EvaluateConfig(**bad)
