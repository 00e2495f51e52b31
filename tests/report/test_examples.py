"""Training images of the report, and images at rising noise levels."""

import base64
import io

import numpy as np
from PIL import Image

from tessera.report.examples import NoiseSettings, noise_settings, noise_strip, training_examples
from tessera.stages import read_manifest
from tiny.workspaces import make_workspace


def test_noise_strip_starts_clean_and_marks_what_is_never_seen():
    rng = np.random.default_rng(0)
    plain, mixed = (rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(2))
    settings = NoiseSettings(
        schedule="linear", codec="pixel-unshuffle:4", tau=0.5, augmented=True, scale=(2.0,), shift=(0.25,)
    )
    strip = noise_strip([("plain", plain, False), ("CM 1/2", mixed, True)], settings)
    assert [level["t"] for level in strip["levels"]] == ["0", "0.2", "0.5", "0.6", "0.8"]
    assert [level["used"] for level in strip["levels"]] == [False, False, False, True, True]
    assert [level["is_tau"] for level in strip["levels"]] == [False, False, True, False, False]
    assert [cell["never"] for cell in strip["rows"][1]["cells"]] == [True, True, True, False, False]
    assert not any(cell["never"] for cell in strip["rows"][0]["cells"])
    shown = [[pixels_of(cell["image"]).astype(int) for cell in row["cells"]] for row in strip["rows"]]
    np.testing.assert_array_equal(shown[0][0], plain)
    np.testing.assert_array_equal(shown[1][0], mixed)
    errors = [np.abs(image - plain).mean() for image in shown[0]]
    assert errors == sorted(errors)
    assert errors[1] > 10


def pixels_of(image) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(image["uri"].partition(",")[2]))) as opened:
        return np.asarray(opened)


def test_captions_are_those_that_the_runs_were_trained_on(tmp_path):
    workspace = make_workspace(tmp_path, arms=("aio", "ta", "ta_ia"), per_task=1, num_images=12)

    def told(*arms):
        runs = [read_manifest(workspace / "runs" / arm) for arm in arms]
        found = {origin for example in training_examples(workspace, 2, runs) for origin, _ in example.captions}
        return {origin.partition(",")[0].rstrip(")") for origin in found}

    assert told("ta") == {"caption (scene"}
    assert told("aio") == {"caption (aio"}
    assert told("aio", "ta") == {"caption (aio", "caption (scene"}
    assert told("ta_ia") == {"caption of the base (scene", "caption of the CutMix image (scene"}
    assert told() == {"caption of the base (aio", *told("ta_ia")}


def test_settings_come_from_the_augmented_arm(tmp_path):
    workspace = make_workspace(tmp_path, per_task=1, num_images=12)
    settings = noise_settings(workspace, ["ta", "ta_ia"])
    assert settings == NoiseSettings(schedule="linear", codec="pixel-unshuffle:4", tau=0.4, augmented=True)
    assert not noise_settings(workspace, ["ta"]).augmented
    assert noise_settings(workspace, ["nothing"]) is None
