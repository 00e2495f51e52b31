"""Whose folder a working folder is."""

from dataclasses import replace

import pytest

from tessera.config import UserError, to_dict
from tessera.presets.lookup import load_run_preset
from tessera.presets.miniature import miniature_smoke
from tessera.presets.working_folder import as_begun, check, claim
from tessera.stages import SWEPT, open_stage, reopen
from tessera.train.optim.config import OptimConfig


def test_what_a_killed_call_left_of_its_first_file_is_in_nobodys_way(tmp_path):
    (tmp_path / ".tmp-0123abcd-config.json").write_text("{")
    claim(tmp_path, miniature_smoke())
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_folder_of_another_configuration_or_with_others_files_is_refused(tmp_path):
    claim(tmp_path / "out", miniature_smoke())
    check(tmp_path / "out", miniature_smoke())
    with pytest.raises(UserError, match="was made otherwise"):
        check(tmp_path / "out", load_run_preset("miniature"))
    with pytest.raises(UserError, match="has files in it that tessera did not make"):
        check(tmp_path, miniature_smoke())
    with pytest.raises(UserError, match=r"config\.json: is a file; give a directory"):
        check(tmp_path / "out" / "config.json", miniature_smoke())


def test_a_short_run_that_trains_longer_keeps_its_warm_up(tmp_path, capsys):
    """Of 320 images it is 80, of 640 it would be 160."""

    def config(**options):
        return load_run_preset("my-pictures", images=tmp_path, **options)

    claim(tmp_path / "out", config(num_images=320))
    longer = as_begun(tmp_path / "out", config(num_images=640))
    assert [(arm.train.num_images, arm.train.optim.warmup_images) for arm in longer.arms] == [(640, 80)]
    assert "keeps the warm-up that it began with, 80 images" in capsys.readouterr().err
    claim(tmp_path / "out", longer)
    shorter = as_begun(tmp_path / "out", config(num_images=320))
    assert shorter == config(num_images=320)
    other = config(num_images=320, size=64)
    assert as_begun(tmp_path / "out", other) == other


def test_nothing_is_removed_for_a_budget_that_an_arm_cannot_have(tmp_path):
    """Of three arms that have finished, the last one's rate has fallen to its end."""

    def config(**last):
        smoke = miniature_smoke()
        optims = [OptimConfig(decay=decay) for decay in ("constant", "constant", "cosine")]
        trains = [replace(smoke.arms[0].train, optim=optim) for optim in optims]
        changes = ({"num_images": 2 * trains[0].num_images} if last else {}, {}, last)
        arms = [
            replace(smoke.arms[0], name=f"arm{n}", train=replace(train, **changed))
            for n, (train, changed) in enumerate(zip(trains, changes))
        ]
        return replace(smoke, arms=tuple(arms))

    first = config()
    claim(tmp_path, first)
    images = first.arms[0].train.num_images
    for arm in first.arms:
        run = tmp_path / "runs" / arm.name
        open_stage(run, stage="train", config=to_dict(arm.train)).finish({"num_images": images})
        (run / "checkpoints" / f"{images:012d}").mkdir(parents=True)
    for made in ("export", "samples", "scores", "learning", "report"):
        (tmp_path / made).mkdir()
    before = sorted(tmp_path.rglob("*"))
    for last, said in (
        ({"num_images": 2 * images}, r"arm2: cannot be extended, its learning rate has fallen to its end"),
        ({"num_images": images - 32}, f"arm2: has seen {images} images, more than num_images {images - 32}"),
        ({"checkpoint_every_images": 7}, r"arm2: was made otherwise: checkpoint_every_images: the directory has"),
    ):
        with pytest.raises(UserError, match=said):
            claim(tmp_path, config(**last))
        assert sorted(tmp_path.rglob("*")) == before
        check(tmp_path, first)
    claim(tmp_path, config(num_images=images))  # the first arm's budget alone is another one
    assert not (tmp_path / "export").exists()


def test_what_an_export_drew_before_a_sweep_is_made_anew(tmp_path, capsys):
    config = miniature_smoke()
    claim(tmp_path, config)
    for arm in config.arms:
        export = tmp_path / "export" / arm.name
        open_stage(export, stage="export", config={}).finish({})
        for kind in ("short", "long"):
            samples = tmp_path / "samples" / arm.name / kind
            open_stage(samples, stage="generate", config={}, inputs={"export": export}).finish({})
            (tmp_path / "scores" / arm.name / kind).mkdir(parents=True)
    (tmp_path / "report").mkdir()
    before = sorted(tmp_path.rglob("*"))
    claim(tmp_path, config)
    assert sorted(tmp_path.rglob("*")) == before
    reopen(export, {}).finish({}, facts={SWEPT: {"sampling_steps": 8}})
    claim(tmp_path, config)
    assert f"run: {export} was swept" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "export", "samples", "scores"}
    assert [[path.name for path in (tmp_path / made).iterdir()] for made in ("samples", "scores")] == [["ta"], ["ta"]]
