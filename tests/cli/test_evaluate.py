"""The verbs of judging: what they refuse, in one line, before anything is made."""

import json

import pytest

from tiny.commands import call


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("evaluate miniature absent --out scores", "absent"),
        ("evaluate geneval --samples absent --detector absent --out scores", "absent"),
        ("evaluate dpg --samples absent --questions absent.csv --out scores", "absent"),
        ("evaluate quality --samples absent --reference absent --out scores", "absent"),
        ("evaluate quality --samples absent --reference absent --metrics fidd --out scores", "fidd"),
        ("report absent --out page", "absent"),
    ],
)
def test_what_is_not_there_is_named(line, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(*line.split()) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert said in error
    assert list(tmp_path.iterdir()) == []


def test_prompts_and_their_longer_form(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("a red fox\n")
    assert call("extend-prompts", "short.txt", "--extender", "rules", "--out", "long") == 0
    assert "1 prompts" in capsys.readouterr().out
    (line,) = (tmp_path / "long" / "prompts.jsonl").read_text().splitlines()
    assert json.loads(line)["prompt"] == "a red fox"
    assert "a red fox" in json.loads(line)["extended"]["text"]
