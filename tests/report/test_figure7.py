"""Figure 7's number: the test of a seam against closed forms and chance, and the command."""

import itertools
import json
import math
from statistics import NormalDist

import numpy as np
import pytest
from PIL import Image

from tessera import cli
from tessera.config import UserError
from tessera.cutmix import edges_of
from tessera.diffusion.schedule import get_schedule
from tessera.report.figure7 import TIMES, TauConfig, detectability, steps_at, tau

BOX = (32, 0, 64, 64)  # the right half of 64 px


def test_edges_inside_the_frame_alone_have_steps():
    assert edges_of(BOX, 64, 16) == [(2, 8, 0, 16)]
    assert edges_of((0, 0, 32, 32), 64, 16) == [(2, 8, 0, 8), (1, 8, 0, 8)]
    assert len(edges_of((16, 16, 32, 32), 64, 16)) == 4
    latents = np.zeros((1, 16, 16))
    latents[:, :, 8:] = 3.0
    # 16 pairs of cells, each difference of variance 2: a step of 3 is 3 / sqrt(2 / 16) deviations.
    assert steps_at(edges_of(BOX, 64, 16), latents) == pytest.approx(3 / math.sqrt(2 / 16))
    assert np.abs(steps_at(edges_of((0, 32, 64, 64), 64, 16), latents)).max() == 0


def test_the_step_s_noise_is_white_of_variance_1():
    noise = np.random.default_rng(0).normal(size=(4000, 2, 16, 16))
    steps = np.array([steps_at(edges_of(BOX, 64, 16), x) for x in noise])
    assert steps.std() == pytest.approx(1, abs=0.03)


def test_detectability_of_a_known_step_is_that_of_two_gaussians():
    """Flat images, one with a step: the score is a chi-square with one degree of freedom, central or not."""
    count, height = 4000, 0.4
    plain = np.zeros((count, 1, 16, 16))
    mixed = plain.copy()
    mixed[..., 8:] = height
    found = detectability(plain, mixed, [BOX] * count, TauConfig(), get_schedule("linear"))
    normal = NormalDist()
    for number in (4, 8, 12, 16):
        alpha_bar = 1 - TIMES[number]
        d = math.sqrt(alpha_bar / (1 - alpha_bar)) * height / math.sqrt(2 / 16)
        assert found["d_prime"][number] == pytest.approx(d, rel=1e-5)
        # P(|N(d, 1)| > |N(0, 1)|): both N(d, 1) - N and N(d, 1) + N are N(d, 2), independent.
        up = normal.cdf(d / math.sqrt(2))
        assert found["auc"][number] == pytest.approx(up**2 + (1 - up) ** 2, abs=0.025)


def test_without_a_seam_there_is_nothing_to_detect():
    x = np.random.default_rng(0).normal(size=(2000, 1, 8, 8))
    found = detectability(x, x, [BOX] * len(x), TauConfig(), get_schedule("cosine"))
    assert np.abs(np.array(found["auc"]) - 0.5).max() < 0.04


def test_the_command_and_its_files(tmp_path, capsys):
    for name in ("fox", "cat"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for i in range(5):
            value = (60 if name == "fox" else 190) + i
            Image.new("RGB", (40, 32), (value, value, 128)).save(tmp_path / "in" / name / f"{i}.png")
    words = ["figure", "tau", "--images", str(tmp_path / "in"), "--size", "32", "--pictures", "10"]
    words += ["--schedule", "cosine", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 0
    data = json.loads((tmp_path / "out" / "tau.json").read_text())
    assert data["schedule"] == "cosine"
    assert data["patterns"]["quarter"]["auc"][0] == 1  # flat images of two classes: every seam is seen
    falling = data["patterns"]["half"]["d_prime"]
    assert all(a > b for a, b in itertools.pairwise(falling))
    assert "cosine" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "tau.png") as picture:
        assert picture.width > 400
    before = (tmp_path / "out" / "tau.png").read_bytes()
    (tmp_path / "again").mkdir()
    tau(tmp_path / "again", tmp_path / "in", TauConfig(schedule="cosine", size=32, num_images=10))
    assert (tmp_path / "again" / "tau.png").read_bytes() == before
    Image.new("RGB", (40, 32), (1, 2, 3)).save(tmp_path / "in" / "fox" / "0.png")
    with pytest.raises(UserError, match=r"made otherwise: images\.fox/0\.png"):
        tau(tmp_path / "again", tmp_path / "in", TauConfig(schedule="cosine", size=32, num_images=10))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("scale", 0.0, "scale"),
        ("size", 8, "size"),
        ("size", 30, "multiple of 4, not 30"),
        ("num_images", 2, "num_images"),
        ("schedule", "linaer", "did you mean"),
    ],
)
def test_bad_settings(tmp_path, field, value, words):
    with pytest.raises(UserError, match=words):
        tau(tmp_path / "out", None, TauConfig(**{field: value}))
    assert not (tmp_path / "out").exists()


def test_too_few_images(tmp_path):
    with pytest.raises(UserError, match="holds 0 images"):
        tau(tmp_path / "out", tmp_path, TauConfig())
