import json
import shutil

import pytest

from tessera import doctor
from tessera.cli import main


def run(capsys, *args):
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *map(str, args)])
    return ended.value.code, capsys.readouterr().out


def finding(name, folder):
    (found,) = [f for f in doctor.examine(folder) if f.what == name]
    return found


def test_json_and_text_tell_the_same(tmp_path, capsys):
    code, text = run(capsys, tmp_path / "not" / "there" / "yet")
    again, shown = run(capsys, tmp_path / "not" / "there" / "yet", "--json")
    data = json.loads(shown)
    assert code == again == (0 if data["ready"] else 2)
    assert {"python", "torch", "cpu", "disk", "extra hub", "extra demo"} <= {f["what"] for f in data["findings"]}
    for found in data["findings"]:
        assert f" {found['what']}: " in text
        assert (found["fix"] == "") == (found["state"] == "ok")
    assert not (tmp_path / "not").exists()


def test_what_lacks_is_named_with_its_command(tmp_path, monkeypatch):
    there = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "gradio" else there(name))
    found = finding("extra demo", tmp_path)
    assert (found.state, found.fix) == ("note", "pip install 'tessera-t2i[demo]'")
    monkeypatch.setattr(doctor, "_version", lambda name: "2.4.1+cpu" if name == "torch" else there(name))
    assert finding("torch", tmp_path).state == "lack"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    assert finding("disk", tmp_path).state == "lack"
    assert not doctor.to_json(doctor.examine(tmp_path))["ready"]


def test_weights_are_looked_for_where_the_hub_keeps_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert finding("google/flan-t5-xl", tmp_path).fix == "hf download google/flan-t5-xl"
    snapshot = tmp_path / "models--google--flan-t5-xl" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert finding("google/flan-t5-xl", tmp_path).state == "ok"
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    assert doctor.hub_cache() == tmp_path / "home" / "hub"
