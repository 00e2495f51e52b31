"""Presets by name, built in or of a user's file."""

import json

import pytest

from tessera.config import UserError, from_dict, to_dict
from tessera.presets.config import RunConfig
from tessera.presets.lookup import RUN_PRESETS, load_run_preset, load_train_preset
from tessera.presets.miniature import miniature_smoke
from tessera.train.dataset_checks import check_starts


@pytest.mark.parametrize("name", RUN_PRESETS)
def test_presets_survive_json(name):
    config = RUN_PRESETS[name]()
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(config))), name) == config


@pytest.mark.parametrize("name", RUN_PRESETS)
def test_no_preset_ends_before_its_phases(name):
    assert [note for arm in RUN_PRESETS[name]().arms for note in check_starts(arm.train)] == []


def test_user_presets_and_variants(tmp_path):
    assert load_run_preset("miniature-smoke") == miniature_smoke()
    one = load_run_preset("my-pictures", images=tmp_path, single_class="cat")
    assert [arm.name for arm in one.arms] == ["aio"]
    assert one.arms[0].train.augment_prob == 0
    with pytest.raises(UserError, match="brings its own images; for --captions use"):
        load_run_preset("miniature-smoke", with_captions=True)
    with pytest.raises(UserError, match="brings its own images; for --single-class use"):
        load_run_preset("miniature-smoke", single_class="cat")
    with pytest.raises(UserError, match="brings its own images; for --num-images use"):
        load_run_preset("miniature-smoke", num_images=64)
    with pytest.raises(UserError, match="preset emoji brings its own images; for --images use"):
        load_run_preset("emoji", images=tmp_path)
    with pytest.raises(UserError, match="preset miniature has no styles; for --styles use: tessera run emoji"):
        load_run_preset("miniature", styles=("noto",))
    large = load_run_preset("my-pictures", images=tmp_path, size=64, network="cad", num_images=1000)
    assert (large.collect.size, large.arms[0].train.num_images) == (64, 1024)
    told = load_run_preset("my-pictures", images=tmp_path, with_captions=True)
    assert [(arm.name, arm.captioner) for arm in told.arms] == [("ta_ia", "import")]
    assert load_train_preset("miniature:ta", num_images=96, seed=5).seed == 5


def test_unknown_names_name_the_nearest():
    with pytest.raises(UserError, match="did you mean 'miniature'"):
        load_run_preset("miniatur")
    with pytest.raises(UserError, match="did you mean 'cad-i-l'"):
        load_train_preset("cad-i-ll:ta")
    with pytest.raises(UserError, match="say which arm, for example cad-i-l:aio"):
        load_train_preset("cad-i-l")


def test_a_users_function_has_to_return_the_right_kind(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def three():\n    return 3\n")
    with pytest.raises(UserError, match="gives a int, wanted is a RunConfig"):
        load_run_preset(f"{path}:three")
    with pytest.raises(UserError, match="gives a int, wanted is a TrainConfig"):
        load_train_preset(f"{path}:three")


def test_my_pictures_needs_a_folder(tmp_path):
    with pytest.raises(UserError, match="needs your images: add --images FOLDER"):
        load_run_preset("my-pictures")
    assert load_run_preset("my-pictures", images=tmp_path).collect.source == tmp_path.name


def test_an_arm_is_no_file_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def ta(): raise AssertionError('called')")
    with pytest.raises(UserError, match=r"unknown arm of miniature 'mine\.py:ta'; known: ta, ta_ia$"):
        load_train_preset("miniature:mine.py:ta")
