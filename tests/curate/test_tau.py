"""tau for each image, on sets whose borders are known."""

from pathlib import Path

import numpy as np
import pytest

from curate.test_partners import pictures
from tessera.config import UserError, to_dict
from tessera.curate.augment import AugmentConfig, draw_recipe
from tessera.curate.index import RECIPE_TABLE
from tessera.curate.tau import TIMES, TauConfig, hidden_from, smooth, steps_and_passes, tau
from tessera.cutmix import PATTERNS, near_seam
from tessera.encoded.record import EncodedRecord
from tessera.encoded.seams import read_seams
from tessera.encoded.store import open_encoded
from tessera.files import write_table
from tessera.randomness import philox
from tessera.stages import open_stage, read_manifest
from tiny.training_sets import WIDTH, write_set

SIZE, CELLS = 64, 8
CONTRASTS = (0.0, 0.5, 1.0, 2.0)


def record(key: str, latents: np.ndarray) -> EncodedRecord:
    one = np.zeros((1, WIDTH), np.int8), np.zeros((1, 1), np.float16)
    mean, std = latents.astype(np.float16), np.zeros_like(latents, np.float16)
    names = {"key": key, "class_name": "a", "caption": "a"}
    return EncodedRecord(**names, text_codes=one[0], text_scale=one[1], latent_mean=mean, latent_std=std)


def image(number: int) -> np.ndarray:
    return philox(0, "tau/image", number).standard_normal((2, CELLS, CELLS))


def contrast_of(number: int) -> float:
    return CONTRASTS[number % len(CONTRASTS)]


def sets(folder: Path, count: int, *, contrast: bool, pattern: str = "all") -> tuple[Path, Path, Path]:
    """Plain white images, and mixes whose border is a line, a cell wide, that is brighter by the image's contrast in
    half of them and darker in the others; without contrast, mixes are images like the plain ones."""
    config = AugmentConfig(pattern=pattern)
    rows = draw_recipe(pictures(count // 2, count // 2), config, SIZE)
    stage = open_stage(folder / "recipe", stage="augment", config=to_dict(config))
    write_table(folder / "recipe" / RECIPE_TABLE, rows.table)
    stage.finish({"records": count}, facts={"image_size": SIZE})
    mixes = []
    for number, row in enumerate(rows):
        latents = image(count + number)
        if contrast:
            line = near_seam(row.placement.box, SIZE, CELLS, 1)
            latents[:, line] += contrast_of(number) * (-1) ** (number // len(CONTRASTS))
        mixes.append(record(row.key, latents))
    plain = write_set(folder / "plain", [record(f"a/{n}", image(n)) for n in range(count)], shape=(2, CELLS, CELLS))
    inputs = {"recipe": folder / "recipe"}
    return plain, write_set(folder / "mixed", mixes, shape=(2, CELLS, CELLS), inputs=inputs), folder / "recipe"


NOISE = {"noise_schedule": "linear", "latent_shift": [0.0], "latent_scale": [1.0]}


@pytest.fixture(scope="module")
def visible(tmp_path_factory):
    folder = tmp_path_factory.mktemp("visible")
    made = sets(folder, 384, contrast=True, pattern="quarter")
    tau(folder / "tau", *made, TauConfig())
    return folder, made


def test_tau_rises_with_the_contrast_of_the_border(visible):
    folder, (_, mixed, _) = visible
    seams = read_seams(folder / "tau", open_encoded(mixed), NOISE, "recipe")
    means = [seams.min_t[np.arange(len(seams.min_t)) % len(CONTRASTS) == n].mean() for n in range(len(CONTRASTS))]
    assert means[0] < 0.2, means
    assert np.all(np.diff(means) > 0.1), means
    facts = read_manifest(folder / "tau").facts
    assert facts["times"] == list(TIMES)
    for pattern, found in facts["patterns"].items():
        assert (pattern, found["images"]) == ("quarter", 384)
        assert found["auc"][0] > 0.75 > 0.65 > found["auc"][-1]
        assert 0.1 < found["min_t"] < 0.9


def test_small_sets_are_gone_through_until_borders_are_found(tmp_path):
    made = sets(tmp_path, 96, contrast=True, pattern="half")
    tau(tmp_path / "tau", *made, TauConfig())
    seams = read_seams(tmp_path / "tau", open_encoded(made[1]), NOISE, "recipe")
    means = [seams.min_t[np.arange(len(seams.min_t)) % len(CONTRASTS) == n].mean() for n in range(len(CONTRASTS))]
    assert means[0] < 0.2, means
    assert means[2] > 0.5, means
    assert read_manifest(tmp_path / "tau").facts["patterns"]["half"]["min_t"] > 0.5
    assert steps_and_passes(range(60), range(200)) == (7, 18)
    assert steps_and_passes(range(1000), range(5000)) == (125, 1)


def test_mixes_without_a_seam_are_used_from_the_start(tmp_path):
    made = sets(tmp_path, 384, contrast=False, pattern="half")
    tau(tmp_path / "tau", *made, TauConfig())
    seams = read_seams(tmp_path / "tau", open_encoded(made[1]), NOISE, "recipe")
    assert seams.min_t.mean() < 0.05
    assert {each["min_t"] for each in read_manifest(tmp_path / "tau").facts["patterns"].values()} == {0.0}


def test_the_same_sets_have_the_same_answers(tmp_path):
    made = sets(tmp_path, 24, contrast=True)
    for name in ("one", "other"):
        tau(tmp_path / name, *made, TauConfig(noise_schedule="cosine", latent_scale=(0.5,)))
    assert set(read_manifest(tmp_path / "one").facts["patterns"]) == set(PATTERNS)
    files = [(tmp_path / name / "seams.parquet").read_bytes() for name in ("one", "other")]
    assert files[0] == files[1]
    tau(tmp_path / "one", *made, TauConfig(noise_schedule="cosine", latent_scale=(0.5,)))  # complete: nothing is done
    with pytest.raises(UserError, match="latent_scale"):
        tau(tmp_path / "one", *made, TauConfig(noise_schedule="cosine"))


def test_hidden_from_is_where_the_last_visible_time_ends():
    values = np.full(len(TIMES), 0.5)
    assert hidden_from(values) == 0
    values[[2, 7]] = 0.6
    assert hidden_from(values) == TIMES[8]
    values[-1] = 0.61
    assert hidden_from(values) == 1


def test_what_is_refused(tmp_path):
    plain, mixed, _ = sets(tmp_path / "a", 16, contrast=True)
    _, crops, of_crops = sets(tmp_path / "b", 16, contrast=False, pattern="crop")
    with pytest.raises(UserError, match=r"recipe: is not the recipe that .*mixed was encoded with; give that one"):
        tau(tmp_path / "tau", plain, mixed, of_crops, TauConfig())
    with pytest.raises(UserError, match=r"recipe: mixes nothing \(pattern crop\), so there is no border"):
        tau(tmp_path / "tau", plain, crops, of_crops, TauConfig())
    with pytest.raises(UserError, match="augment"):
        tau(tmp_path / "tau", plain, mixed, plain, TauConfig())
    with pytest.raises(UserError, match="latent_scale"):
        TauConfig(latent_scale=(0.0,))
    with pytest.raises(UserError, match=r"latent_shift: 3 numbers for .*plain, whose latents have 2 channels; give"):
        tau(tmp_path / "tau", plain, mixed, tmp_path / "a" / "recipe", TauConfig(latent_shift=(0.0, 0.0, 0.0)))
    with pytest.raises(UserError, match=r"mixed: holds augmented images .* as --plain a set that was encoded without"):
        tau(tmp_path / "tau", mixed, mixed, tmp_path / "a" / "recipe", TauConfig())
    assert not (tmp_path / "tau").exists()


def test_answers_are_averaged_over_times_nearby():
    answers = np.zeros((1, len(TIMES)))
    answers[0, [0, 10]] = 0.6, 1.0
    found = smooth(answers)[0]
    assert found[[0, 1, 2, 3]].tolist() == pytest.approx([0.2, 0.15, 0.12, 0])
    assert found[[7, 8, 10, 12, 13]].tolist() == pytest.approx([0, 0.2, 0.2, 0.2, 0])
