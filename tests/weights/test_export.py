"""Exports come back bitwise; every mistake is one line that names it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tessera.config import UserError
from tessera.models.build import build_network
from tessera.models.dit import DIT_I_B2, DiT, DiTConfig
from tessera.models.rin import CAD_I_L, RIN
from tessera.records import TextEncoding
from tessera.stages import Stage, open_stage, read_manifest
from tessera.weights import export
from tessera.weights.export import (
    ExportInfo,
    SweepRow,
    SweepTable,
    load_export,
    read_settings,
    save_export,
    save_single_file,
    set_sampling,
)
from tiny.runs import Killed
from tiny.weights import TINY_RIN, one_line

GOLDEN = Path(__file__).parents[1] / "golden" / "cad_i_tiny.safetensors"
DIT = DiTConfig(latent_size=4, width=16, depth=1, heads=2, text_width=6, text_positions=True, conv_stem=True)


def make_export(directory: Path, config=DIT):
    network = build_network(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    info = ExportInfo(
        noise_schedule="linear",
        prediction="x0",
        latent_codec="pixel-unshuffle:4",
        text_encoder="words:6",
        image_size=32,
        latent_shift=(5.81, 3.25, 0.12, -2.15),
        latent_scale=(0.24, 0.22, 0.27, 0.3),
        guidance_scale=3.5,
        sampling_steps=25,
        clip_denoised=1.0,
        arm="ta_ia",
        num_images=123,
        inputs=(("plain", "ab" * 32), ("augmented", "cd" * 32)),
        null_condition=torch.randn(1, 6),
    )
    save_export(directory, network, info)
    return network, info


def outputs(network):
    generator = torch.Generator().manual_seed(0)
    config = network.config
    x = torch.randn(2, config.latent_channels, config.latent_size, config.latent_size, generator=generator)
    text = TextEncoding.stack([torch.randn(n, config.text_width, generator=generator) for n in (3, 5)])
    with torch.no_grad():
        return network(x, torch.tensor([0.2, 0.9]), text)[0]


@pytest.mark.parametrize("config", [DIT, TINY_RIN, replace(TINY_RIN, coherence=True)])
def test_export_comes_back(tmp_path, config):
    network, info = make_export(tmp_path / "export", config)
    loaded, again = load_export(tmp_path / "export")
    assert sorted(path.name for path in (tmp_path / "export").iterdir()) == ["config.json", "model.safetensors"]
    assert loaded.config == config
    assert torch.equal(outputs(loaded), outputs(network))
    assert again.settings == info.settings
    assert torch.equal(again.null_condition, info.null_condition)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_export_in_another_dtype(tmp_path):
    network, _ = make_export(tmp_path)
    loaded, info = load_export(tmp_path, "cpu", torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    assert info.null_condition.dtype == torch.float32
    assert (outputs(loaded) - outputs(network)).norm() < 0.1 * outputs(network).norm()


def test_same_export_is_the_same_bytes(tmp_path):
    network, info = make_export(tmp_path / "a")
    save_export(tmp_path / "b", network, info)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_failed_save_leaves_the_old_export(tmp_path, monkeypatch):
    network, info = make_export(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(tensors, path, metadata=None):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(export, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_export(tmp_path, network, info)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_folder_without_an_export_is_named(tmp_path):
    with pytest.raises(
        UserError, match="nothing: is not an export; give a directory made by `tessera export`"
    ) as error:
        load_export(tmp_path / "nothing")
    assert "nothing" in one_line(error)


def damage_weights(path, change):
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("out_projection.bias"), "missing out_projection.bias"),
        (lambda t: t.update(stranger=torch.zeros(1)), "unexpected stranger"),
        (lambda t: t.update({"out_table": torch.zeros(3, 16)}), r"out_table \(3, 16\) instead of \(2, 16\)"),
        (lambda t: t.pop("null_condition"), "null_condition must be .* missing"),
        (lambda t: t.update(null_condition=torch.zeros(1, 7)), r"null_condition must be \(1, 6\), it is \(1, 7\)"),
    ],
)
def test_wrong_tensors_are_named(tmp_path, change, message):
    make_export(tmp_path)
    damage_weights(tmp_path, change)
    with pytest.raises(UserError, match=message) as error:
        load_export(tmp_path)
    assert "model.safetensors" in one_line(error)


def test_many_wrong_tensors_are_counted(tmp_path):
    make_export(tmp_path)
    damage_weights(tmp_path, lambda t: [t.pop(name) for name in list(t) if name.startswith("text.blocks")])
    with pytest.raises(UserError, match=r"missing text\.blocks\.0.* and \d+ more") as error:
        load_export(tmp_path)
    assert len(one_line(error)) < 500


@pytest.mark.parametrize("config", [DIT, TINY_RIN])
def test_a_single_file_is_the_export(tmp_path, config):
    stage = open_stage(tmp_path / "export", stage="export", config={})
    network, info = make_export(tmp_path / "export", config)
    path = tmp_path / "model.safetensors"
    with pytest.raises(UserError, match="is unfinished"):
        save_single_file(tmp_path / "export", path)
    stage.finish(counts={})
    save_single_file(tmp_path / "export", path)
    loaded, its = load_export(path)
    assert vars(its.settings) == vars(info.settings)
    assert torch.equal(its.null_condition, info.null_condition)
    assert torch.equal(outputs(loaded), outputs(network))
    assert load_file(path).keys() == load_file(tmp_path / "export" / "model.safetensors").keys()


def test_every_tensor_is_in_the_documented_key_map():
    """Keys of the full-size networks against the rows of docs/serve.md: `blocks.N.mlp` stands for all below it."""
    rows = re.findall(r"^\| `([\w.]+)`", (Path(__file__).parents[2] / "docs" / "serve.md").read_text(), re.MULTILINE)
    unused = set(rows)
    stems = (replace(DIT_I_B2, conv_stem=True), replace(CAD_I_L, coherence=True, conv_stem=True))
    for config in (DIT_I_B2, CAD_I_L, *stems):
        with torch.device("meta"):
            keys = [export.NULL_CONDITION, *build_network(config).state_dict()]
        for key in keys:
            found = [row for row in rows if f"{re.sub('[.][0-9]+[.]', '.N.', key)}.".startswith(f"{row}.")]
            assert found, key
            unused -= set(found)
    assert not unused


def test_what_is_no_single_file(tmp_path):
    finished_export(tmp_path / "export")
    with pytest.raises(UserError, match=r"a\.ckpt: a single file is one of safetensors; name it .*a\.safetensors"):
        save_single_file(tmp_path / "export", tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"model\.safetensors: is not an export"):
        load_export(tmp_path / "export" / "model.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"0123456789")
    with pytest.raises(UserError, match=r"b\.safetensors: is damaged, or no safetensors file"):
        load_export(tmp_path / "b.safetensors")


def test_damaged_files_are_named(tmp_path):
    make_export(tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:-9])
    with pytest.raises(UserError, match=r"model\.safetensors: cannot be read as a file of tensors") as error:
        load_export(tmp_path)
    one_line(error)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: there is no such file"):
        load_export(tmp_path)


def test_unknown_setting_is_refused(tmp_path):
    make_export(tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())
    data["settings"]["guidance_scales"] = 2.0
    (tmp_path / "config.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="guidance_scales"):
        load_export(tmp_path)


@pytest.mark.parametrize("change", [{"sampling_steps": 0}, {"image_size": 0}, {"latent_scale": (1.0, 0.0)}])
def test_impossible_settings_are_refused(tmp_path, change):
    _, info = make_export(tmp_path)
    with pytest.raises(UserError, match=next(iter(change))):
        replace(info, **change)


ROWS = (
    SweepRow(guidance_scale=2.5, guidance_interval=(0.1, 0.8), sampling_steps=20, scores={"fid": 5.0}),
    SweepRow(guidance_scale=1.0, guidance_interval=(0.0, 1.0), sampling_steps=20, scores={"fid": 9.0}),
)
TABLE = SweepTable(chosen_by="fid", images=8, results_sha256="ef" * 32, rows=ROWS)


def finished_export(directory):
    stage = open_stage(directory, stage="export", config={"guidance_scale": 3.5})
    make_export(directory)
    stage.finish(counts={"parameters": 7}, facts={"arm": "ta_ia"})
    return read_manifest(directory)


def test_chosen_sampling_is_in_the_export_with_its_table(tmp_path):
    before = finished_export(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    set_sampling(tmp_path, ROWS[0], TABLE)
    settings = load_export(tmp_path)[1].settings
    assert (settings.guidance_scale, settings.guidance_interval, settings.sampling_steps) == (2.5, (0.1, 0.8), 20)
    assert settings.sweep == TABLE
    assert (settings.arm, settings.clip_denoised) == ("ta_ia", 1.0)
    after = read_manifest(tmp_path, "export")
    assert after.sha256 != before.sha256  # what was drawn by the earlier defaults is not this export's
    assert (after.config, after.counts) == (before.config, before.counts)
    assert after.facts["arm"] == "ta_ia"
    assert after.facts["sampling"]["guidance_scale"] == 2.5
    assert (tmp_path / "model.safetensors").read_bytes() == weights
    set_sampling(tmp_path, ROWS[0], TABLE)
    assert read_manifest(tmp_path).sha256 == after.sha256


def test_an_export_is_never_half_changed(tmp_path, monkeypatch):
    """Whatever write the process is killed before: nobody takes the new defaults for the old export's."""
    before = finished_export(tmp_path / "whole")
    set_sampling(tmp_path / "whole", ROWS[0], TABLE)
    writes = export.write_json, Stage.finish
    for number, (place, name) in enumerate([(export, "write_json"), (Stage, "finish")]):
        folder = tmp_path / str(number)
        assert finished_export(folder).sha256 == before.sha256
        monkeypatch.setattr(place, name, lambda *args, **more: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            set_sampling(folder, ROWS[0], TABLE)
        monkeypatch.setattr(place, name, writes[number])
        with pytest.raises(UserError, match="is unfinished"):
            load_export(folder)
        assert read_settings(folder).guidance_scale in (3.5, 2.5)
        set_sampling(folder, ROWS[0], TABLE)
        for file in ("manifest.json", "config.json"):
            assert (folder / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_networks_are_built_by_their_config():
    assert type(build_network(DIT)) is DiT
    assert type(build_network(TINY_RIN)) is RIN
