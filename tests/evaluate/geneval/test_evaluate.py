"""Table 2 from images: exact with painted objects and a detector that sees them, and whole with tiny networks."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tessera.config import UserError
from tessera.evaluate.geneval import evaluate as geneval_table
from tessera.evaluate.geneval.evaluate import GenEvalConfig, evaluate_geneval, side_by_side
from tessera.evaluate.scores import Extender, comparable, read_scores
from tessera.pretrained.detector.mask2former import FoundObject, box_of
from tessera.prompts import geneval as geneval_prompts
from tessera.prompts.read import load_prompts
from tiny.folders import end_together, tree
from tiny.judges import save_clip, save_detector
from tiny.samples import write_samples

PAINT = {"dog": (255, 0, 0), "cat": (0, 0, 255), "bus": (0, 255, 0)}
"""The painted objects: the class by hue, whatever its color is called."""
SIDE = 40


def clause(name, count=1, **more):
    return {"class": name, "count": count, **more}


LINES = [
    {"tag": "single_object", "include": [clause("dog")], "prompt": "a photo of a dog"},
    {"tag": "two_object", "include": [clause("dog"), clause("cat")], "prompt": "a photo of a dog and a cat"},
    {
        "tag": "counting",
        "include": [clause("dog", 2)],
        "exclude": [clause("dog", 3)],
        "prompt": "a photo of two dogs",
    },
    {"tag": "colors", "include": [clause("dog", color="red")], "prompt": "a photo of a red dog"},
    {
        "tag": "position",
        "include": [clause("cat"), clause("dog", position=["left of", 0])],
        "prompt": "a photo of a dog left of a cat",
    },
    {
        "tag": "color_attr",
        "include": [clause("dog", color="red"), clause("cat", color="blue")],
        "prompt": "a photo of a red dog and a blue cat",
    },
]
for line in LINES:
    line["extended"] = {"text": f"{line['prompt']}, in the snow", "extender": "rules", "template": "t", "seed": 0}

# What each of the two images of each prompt shows: (class, left, top, side).
SCENES = [
    [[("dog", 5, 5, 8)], []],
    [[("dog", 2, 2, 8), ("cat", 20, 20, 8)], [("dog", 2, 2, 8)]],
    [[("dog", 2, 2, 8), ("dog", 20, 2, 8)], [("dog", 2, 2, 8), ("dog", 20, 2, 8), ("dog", 2, 20, 8)]],
    [[("dog", 5, 5, 8)], [("dog", 5, 5, 8)]],
    [[("dog", 2, 14, 8), ("cat", 28, 14, 8)], [("cat", 2, 14, 8), ("dog", 28, 14, 8)]],
    [[("dog", 2, 2, 8), ("cat", 20, 20, 8)], [("cat", 2, 2, 8)]],
]
CORRECT = [[True, False], [True, False], [True, False], [True, True], [True, False], [True, False]]


def paint(i, k):
    picture = np.full((SIDE, SIDE, 3), 90, np.uint8)
    for name, left, top, side in SCENES[i][k]:
        picture[top : top + side, left : left + side] = PAINT[name]
    return picture


class SeesPaint:
    """A detector of painted squares, each connected one an object of score 0.95."""

    def detect(self, images, min_score):
        assert min_score == 0.3
        return [self._objects(image) for image in images]

    def _objects(self, image):
        found = []
        for name, color in PAINT.items():
            rest = (image == color).all(-1)
            while rest.any():
                top, left = np.argwhere(rest)[0]
                mask = np.zeros_like(rest)
                mask[top : top + 8, left : left + 8] = rest[top : top + 8, left : left + 8]
                found.append(FoundObject(geneval_prompts.CLASSES.index(name), 0.95, box_of(mask), mask))
                rest = rest & ~mask
        return found


class NamesPaint:
    """Calls the most of what is not #999 by its hue."""

    def name(self, image, objects, class_name):
        hues = {(255, 0, 0): "red", (0, 0, 255): "blue", (0, 255, 0): "green"}
        return [hues[tuple(image[mask][0].tolist())] for _, mask in objects]


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    root = tmp_path_factory.mktemp("networks")
    return {"detector": str(save_detector(root / "detector")), "clip": str(save_clip(root / "clip"))}


@pytest.fixture
def sees_paint(monkeypatch, networks):
    monkeypatch.setattr("tessera.pretrained.detector.mask2former.load_detector", lambda path, device: SeesPaint())
    monkeypatch.setattr("tessera.pretrained.detector.colors.load_colors", lambda model, colors, device: NamesPaint())
    return GenEvalConfig(**networks)


def test_a_painted_folder_by_hand(tmp_path, sees_paint):
    samples = write_samples(tmp_path / "short", LINES, paint=paint)
    assert evaluate_geneval(tmp_path / "scores", samples, sees_paint)
    rows = [json.loads((tmp_path / "scores" / "original" / "verdicts" / f"{i:05d}.json").read_text()) for i in range(6)]
    assert [[row["correct"] for row in of_prompt] for of_prompt in rows] == CORRECT
    assert rows[4][1]["reason"] == "expected dog left of cat, found it right of"
    assert rows[2][1]["reason"] == "expected fewer than 3 dog, found 3"
    assert rows[5][0]["detections"] == [
        {"class": "dog", "score": 0.95, "box": [2, 2, 10, 10], "color": "red"},
        {"class": "cat", "score": 0.95, "box": [20, 20, 28, 28], "color": "blue"},
    ]
    assert rows[0][0]["file"] == "00000/samples/0000.png"
    scores = read_scores(tmp_path / "scores" / "original")
    assert not (tmp_path / "scores" / "extended").exists()
    assert {number.metric: number.value for number in scores.numbers} == {
        "geneval/single_object": 0.5,
        "geneval/two_object": 0.5,
        "geneval/counting": 0.5,
        "geneval/colors": 1.0,
        "geneval/position": 0.5,
        "geneval/color_attr": 0.5,
        "geneval/overall": pytest.approx(3.5 / 6),
    }
    overall = scores.number("geneval/overall")
    assert (overall.n, overall.clusters, overall.over) == (12, 6, "tags")
    assert overall.low <= 3.5 / 6 <= overall.high
    assert [item["correct"] for item in scores.items] == [value for row in CORRECT for value in row]
    shown = side_by_side(tmp_path / "scores").splitlines()
    assert shown[0].split() == ["original"]
    assert shown[1].startswith("overall")
    assert "58.3 [" in shown[1]


def test_clauses_of_one_class_all_see_its_colors(tmp_path, sees_paint):
    """Two red dogs, and one: the second clause must not take the first one's colors away."""
    line = {"tag": "colors", "include": [clause("dog", 2, color="red"), clause("dog", color="red")], "prompt": "dogs"}
    samples = write_samples(tmp_path / "s", [line], paint=lambda i, k: paint(2, 0))
    assert evaluate_geneval(tmp_path / "scores", samples, sees_paint)
    rows = json.loads((tmp_path / "scores" / "original" / "verdicts" / "00000.json").read_text())
    assert [row["correct"] for row in rows] == [True, True], rows[0]["reason"]


def test_mirrored_pictures_swap_left_and_right(tmp_path, sees_paint):
    samples = write_samples(tmp_path / "mirrored", LINES, paint=lambda i, k: paint(i, k)[:, ::-1])
    evaluate_geneval(tmp_path / "scores", samples, sees_paint)
    rows = [json.loads((tmp_path / "scores" / "original" / "verdicts" / f"{i:05d}.json").read_text()) for i in range(6)]
    swapped = [row if i != 4 else row[::-1] for i, row in enumerate(CORRECT)]
    assert [[row["correct"] for row in of_prompt] for of_prompt in rows] == swapped


def test_both_columns_stand_side_by_side(tmp_path, sees_paint):
    short, long = (write_samples(tmp_path / str(kind), LINES, paint=paint, extended=kind) for kind in (False, True))
    out = tmp_path / "scores"
    assert evaluate_geneval(out, short, sees_paint, extended=long)
    columns = [read_scores(out / name) for name in ("original", "extended")]
    numbers = [scores.number("geneval/overall") for scores in columns]
    assert numbers[0].protocol.prompts_sha256 == numbers[1].protocol.prompts_sha256
    assert numbers[0].protocol.extender is None
    assert numbers[1].protocol.extender == Extender(model="rules", prompt="t", seed=0)
    assert comparable(*numbers) == [
        "extender: None vs Extender(model='rules', prompt='t', seed=0)",
        "settings.extended: False vs True",
    ]
    assert side_by_side(out).splitlines()[0].split() == ["original", "extended"]


def test_tiny_networks_judge(tmp_path, networks):
    samples = write_samples(tmp_path / "short", LINES[2:5], per_prompt=1)
    config, out = GenEvalConfig(**networks), tmp_path / "scores"
    assert evaluate_geneval(out, samples, config, device="cpu")
    assert all(0 <= number.value <= 1 for number in read_scores(out / "original").numbers)
    found = json.loads((out / "original" / "verdicts" / "00001.json").read_text())
    assert all(item["score"] > 0.3 for row in found for item in row["detections"])
    before = tree(out)
    assert evaluate_geneval(out, samples, config, device="cpu")
    assert tree(out) == before


def test_two_ranks_make_what_one_process_makes(tmp_path, sees_paint, monkeypatch):
    samples = write_samples(tmp_path / "short", LINES, paint=paint)
    evaluate_geneval(tmp_path / "one" / "scores", samples, sees_paint)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, complete in (("0", False), ("1", True)):
        monkeypatch.setenv("RANK", rank)
        assert evaluate_geneval(tmp_path / "two" / "scores", samples, sees_paint) is complete
    assert tree(tmp_path / "one" / "scores") == tree(tmp_path / "two" / "scores")


def test_ranks_that_finish_the_columns_in_another_order_complete_them(tmp_path, sees_paint, monkeypatch):
    """Rank 0 is first through one column and last through the other."""
    short, long = (write_samples(tmp_path / str(kind), LINES, paint=paint, extended=kind) for kind in (False, True))
    monkeypatch.setenv("WORLD_SIZE", "2")
    reached = []

    def run(number):
        monkeypatch.setenv("RANK", str(number))
        return evaluate_geneval(tmp_path / "out", short, sees_paint, extended=long)

    def work_through(directory, *args, whole=geneval_table.work_through, **kwargs):
        if directory.parent.name == "extended" and not reached:  # all of rank 1 between rank 0's two columns
            reached.append(None)
            reached[0] = run(1)
            monkeypatch.setenv("RANK", "0")
        return whole(directory, *args, **kwargs)

    monkeypatch.setattr(geneval_table, "work_through", work_through)
    assert run(0)
    assert reached == [False]
    assert (tmp_path / "out" / "original" / "scores.json").is_file()
    assert (tmp_path / "out" / "extended" / "scores.json").is_file()


def test_ranks_that_end_at_the_same_time_leave_each_other_the_scores(tmp_path, sees_paint, monkeypatch):
    samples = write_samples(tmp_path / "short", LINES, paint=paint)
    assert end_together(monkeypatch, lambda: evaluate_geneval(tmp_path / "out", samples, sees_paint)) == (True, True)
    assert (tmp_path / "out" / "original" / "scores.json").is_file()


@pytest.mark.slow
def test_killed_half_way_gives_the_same_bytes(tmp_path, networks):
    samples = write_samples(tmp_path / "short", LINES, paint=paint)

    def command(out):
        where = ["--samples", str(samples), "--out", str(out), "--device", "cpu"]
        chosen = [f"--{name}={value}" for name, value in networks.items()]
        return [sys.executable, "-m", "tessera.cli", "evaluate", "geneval", *where, *chosen]

    subprocess.run(command(tmp_path / "whole" / "scores"), check=True, timeout=120)
    out = tmp_path / "killed" / "scores"
    process = subprocess.Popen(command(out))
    until = time.monotonic() + 100
    while not list(out.glob("original/verdicts/0000[1-4].json")) and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(out.glob("original/verdicts/0000[1-4].json"))
    assert not (out / "original" / "scores.json").exists()
    subprocess.run(command(out), check=True, timeout=120)
    assert tree(out) == tree(tmp_path / "whole" / "scores")


def processes_of(out):
    """Numbers of the processes that work on `out`: torchrun's ranks, which outlive it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(out).encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes by /proc")
def test_ranks_killed_half_way_and_one_process_that_goes_on_give_the_same_bytes(tmp_path, networks):
    samples = write_samples(tmp_path / "short", LINES, paint=paint, per_prompt=1)
    chosen = [f"--{name}={value}" for name, value in networks.items()]

    def words(out):
        return ["tessera.cli", "evaluate", "geneval", "--samples", samples, "--out", out, "--device", "cpu", *chosen]

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    subprocess.run([*torchrun, *words(tmp_path / "whole" / "scores")], check=True, timeout=400)
    out = tmp_path / "killed" / "scores"
    process = subprocess.Popen([*torchrun, *words(out)])
    try:
        until = time.monotonic() + 300
        while not list(out.glob("original/verdicts/0000?.json")) and time.monotonic() < until:
            time.sleep(0.005)
        assert process.poll() is None
    finally:
        for number in processes_of(out):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        process.wait()
    assert 1 <= len(list(out.glob("original/verdicts/0000?.json"))) < len(LINES)
    # torchrun gives each rank one thread; on more a matrix product may sum in another order.
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", *words(out)], check=True, timeout=200, env=alone)
    assert tree(out) == tree(tmp_path / "whole" / "scores")


def test_the_published_prompts_keep_their_hash(tmp_path):
    shipped = load_prompts("geneval")
    lines = [metadata | {"text": text} for metadata, text in shipped.rows]
    samples = geneval_table.Samples(tmp_path, None, 4, tuple(lines))
    described = geneval_table.protocol_of(samples, {"detector": "", "clip": ""})
    assert described.prompts_sha256 == shipped.sha256
    assert described.images == 2212


def remove_two(samples):
    (samples / "00001" / "samples" / "0001.png").unlink()
    (samples / "00004" / "samples" / "0000.png").unlink()


def corrupt(samples):
    path = samples / "00003" / "samples" / "0001.png"
    path.write_bytes(path.read_bytes()[:60])


def rewrite(samples, **changes):
    path = samples / "00002" / "metadata.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove_two, r"2 of 18 files are missing, the first is 00001/samples/0001.png"),
        (corrupt, r"00003/samples/0001.png: is not a readable image"),
        (
            lambda samples: rewrite(samples, tag="teaser"),
            r"00002/metadata.jsonl: needs a tag \(single_object, .*draw --prompts geneval",
        ),
        (lambda samples: rewrite(samples, include=[]), "needs a tag .* and a list include"),
        (
            lambda samples: rewrite(samples, include=[clause("circle")]),
            r"include\[0\]: the judge knows no class 'circle'",
        ),
        (
            lambda samples: rewrite(samples, include=[clause("dog", position=["left of", 0])]),
            r"include\[0\]: position .* the number of an earlier clause",
        ),
    ],
)
def test_bad_samples(tmp_path, sees_paint, spoil, message):
    samples = write_samples(tmp_path / "short", LINES, paint=paint)
    spoil(samples)
    with pytest.raises(UserError, match=message):
        evaluate_geneval(tmp_path / "scores", samples, sees_paint)


def test_what_was_judged_before_a_damaged_picture_is_kept(tmp_path, sees_paint):
    samples = write_samples(tmp_path / "short", LINES, paint=paint)
    whole = (samples / "00003" / "samples" / "0001.png").read_bytes()
    corrupt(samples)
    with pytest.raises(UserError):
        evaluate_geneval(tmp_path / "scores", samples, sees_paint)
    assert len(list((tmp_path / "scores" / "original" / "verdicts").iterdir())) == 3
    (samples / "00003" / "samples" / "0001.png").write_bytes(whole)
    assert evaluate_geneval(tmp_path / "scores", samples, sees_paint)


def test_folders_that_do_not_belong(tmp_path, sees_paint):
    short = write_samples(tmp_path / "short", LINES)
    long = write_samples(tmp_path / "long", LINES[:5], extended=True)
    out = tmp_path / "scores"
    with pytest.raises(UserError, match="give it as --extended-samples"):
        evaluate_geneval(out, long, sees_paint)
    with pytest.raises(UserError, match="not of the same prompts"):
        evaluate_geneval(out, short, sees_paint, extended=long)
    with pytest.raises(UserError, match="give --samples, --extended-samples or both"):
        evaluate_geneval(out, None, sees_paint)
    with pytest.raises(UserError, match=r"none\.pth: there is no such file of weights"):
        evaluate_geneval(out, short, GenEvalConfig(detector=str(tmp_path / "none.pth"), clip=sees_paint.clip))
    evaluate_geneval(out, short, sees_paint)
    other = Path(tmp_path) / "other.pth"
    other.write_bytes(b"x")
    with pytest.raises(UserError, match=r"was made otherwise: networks.detector"):
        evaluate_geneval(out, short, GenEvalConfig(detector=str(tmp_path / "other.pth"), clip=sees_paint.clip))
