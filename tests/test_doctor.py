"""doctor: every problem that it finds has a fix, and the Hub is asked only on request."""

import json
import shutil

import pytest

from tessera import doctor, extras
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


def test_what_is_missing_is_named_with_its_command(tmp_path, monkeypatch):
    there = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "gradio" else there(name))
    found = finding("extra demo", tmp_path)
    assert (found.state, found.fix) == ("note", 'pip install "gradio>=6"')
    monkeypatch.setattr(extras, "DISTRIBUTION", "no-such-distribution")  # as from a folder on the path alone
    assert finding("extra demo", tmp_path).fix == 'pip install "no-such-distribution[demo]"'
    monkeypatch.setattr(doctor, "_version", lambda name: "2.4.1+cpu" if name == "torch" else there(name))
    assert finding("torch", tmp_path).state == "missing"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    assert finding("disk", tmp_path).state == "missing"
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


def test_every_problem_has_a_fix(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    monkeypatch.setattr(doctor, "_memory", lambda: 2**30)
    found = doctor.examine(tmp_path)
    assert {f.what for f in found if f.state == "missing"} >= {"torch", "memory"}
    for each in found:
        assert (each.fix == "") == (each.state == "ok"), each


def test_the_hub_is_asked_only_when_that_is_asked_for(tmp_path, monkeypatch):
    hub, httpx = pytest.importorskip("huggingface_hub"), pytest.importorskip("httpx")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    asked = []

    def answer(self, repo, **_):
        asked.append(repo)
        request = httpx.Request("GET", "http://hub.invalid")
        if "llama" in repo.lower():
            raise hub.errors.GatedRepoError("gated", response=httpx.Response(403, request=request))
        if repo == "google/flan-t5-xl":
            raise OSError("no route to host\nand a long story")
        if repo == "Lucasdegeorge/CAD-I":
            raise hub.errors.RepositoryNotFoundError("gone", response=httpx.Response(404, request=request))

    monkeypatch.setattr(hub.HfApi, "auth_check", answer)
    doctor.examine(tmp_path)
    assert asked == []
    found = {f.what: f for f in doctor.examine(tmp_path, online=True)}
    assert asked == list(doctor.WEIGHTS)
    assert found["meta-llama/Llama-3.1-8B-Instruct"].fix.startswith("hf auth login && ")
    assert "cannot be reached (no route to host);" in found["google/flan-t5-xl"].found
    assert "no more" in found["Lucasdegeorge/CAD-I"].found
    assert "can be downloaded" in found["facebook/dinov2-large"].found
    assert all(found[repo].state == "note" for repo in doctor.WEIGHTS)
