"""The table of borders, written and read, and what is refused."""

import numpy as np
import pytest

from tessera.config import UserError
from tessera.encoded.seams import Seams, read_seams, write_seams
from tessera.encoded.store import open_encoded
from tessera.stages import open_stage
from tiny.training_sets import make_records, write_set

NOISE = {"noise_schedule": "cosine", "latent_shift": [0.0], "latent_scale": [0.2]}


def seams_of(store, patterns=("half", "quarter")) -> Seams:
    count = len(store)
    boxes = np.tile([8, 0, 16, 16], (count, 1)).astype(np.int32)
    names = [patterns[i % len(patterns)] for i in range(count)]
    return Seams(store.keys(), names, boxes, np.linspace(0, 1, count))


def write_tau(directory, augmented, seams, noise=NOISE):
    """A directory as `tau` makes it."""
    stage = open_stage(directory, stage="tau", config=dict(noise), inputs={"augmented": augmented})
    write_seams(directory, seams)
    found = {name: {"min_t": 0.2 + 0.1 * n} for n, name in enumerate(sorted(set(seams.patterns)))}
    stage.finish({"records": len(seams.keys)}, facts={"patterns": found})
    return directory


@pytest.fixture(scope="module")
def augmented(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("seams") / "augmented", make_records(7))


def test_seams_come_back_by_record_by_pattern_or_as_one_number(tmp_path, augmented):
    store = open_encoded(augmented)
    seams = seams_of(store)
    where = write_tau(tmp_path / "tau", augmented, seams)
    found = read_seams(where, store, NOISE, "recipe")
    assert (found.keys, found.patterns) == (seams.keys, seams.patterns)
    assert np.array_equal(found.boxes, seams.boxes)
    assert np.array_equal(found.min_t, seams.min_t)
    assert read_seams(where, store, NOISE, "pattern").min_t.tolist() == pytest.approx([0.2, 0.3] * 3 + [0.2])
    assert read_seams(where, store, NOISE, 0.4).min_t.tolist() == [0.4] * 7
    some = found.select([4, 1])
    assert (some.keys, some.patterns) == ([seams.keys[4], seams.keys[1]], ["half", "quarter"])
    assert some.min_t.tolist() == seams.min_t[[4, 1]].tolist()
    assert some.boxes.shape == (2, 4)


def test_seams_of_another_set_or_another_noise_are_refused(tmp_path, augmented):
    store = open_encoded(augmented)
    other = open_encoded(write_set(tmp_path / "other", make_records(7, seed=1), latent_codec="another"))
    where = write_tau(tmp_path / "tau", augmented, seams_of(store))
    with pytest.raises(UserError, match=r"tau: is of another set than .*other; run `tessera tau` on this one"):
        read_seams(where, other, NOISE, "recipe")
    with pytest.raises(UserError, match=r"noise_schedule is \"cosine\" there, \"linear\" in the training; run"):
        read_seams(where, store, NOISE | {"noise_schedule": "linear"}, "recipe")
    with pytest.raises(UserError, match=r"tau"):
        read_seams(tmp_path / "nothing", store, NOISE, "recipe")


def test_one_pattern_has_one_number(tmp_path, augmented):
    store = open_encoded(augmented)
    where = write_tau(tmp_path / "tau", augmented, seams_of(store, patterns=("ninth",)))
    with pytest.raises(UserError, match=r"one pattern, ninth, so augment_min_t by it is one number; give 0\.2"):
        read_seams(where, store, NOISE, "pattern")
    assert read_seams(where, store, NOISE, "recipe").min_t[-1] == 1
