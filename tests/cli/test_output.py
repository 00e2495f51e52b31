"""Output of the verbs: lines for people, one JSON object for scripts."""

import json

from tessera.cli import output
from tessera.stages import open_stage
from tiny.commands import call, tessera
from tiny.exports import write_export


def test_json_for_scripts(tmp_path):
    made = tessera("collect", "miniature", "--num-images", 16, "--out", "images", "--json", cwd=tmp_path)
    told = json.loads(made.stdout)
    assert (told["directory"], told["stage"], told["counts"]["images"]) == ("images", "collect", 16)
    assert "--json" in tessera("--help").stdout


def test_every_verb_answers_scripts_with_one_object(tmp_path, capsys, monkeypatch):
    """The verbs that need no pretrained network, one after the other in one folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("a fox\n")
    write_export(tmp_path / "export")

    def told(line):
        assert call(*line.split(), "--json") == 0
        return json.loads(capsys.readouterr().out)

    assert told("collect miniature --num-images 60 --out images")["counts"]["images"] == 60
    assert told("augment images --out recipe")["stage"] == "augment"
    assert told("caption images --recipe recipe --captioner scene --out captions")["directory"] == "captions"
    assert told("encode images captions --recipe recipe --out encoded")["stage"] == "encode"
    assert told("preview captions --out preview.html") == {"files": ["preview.html"]}
    assert told("prompts images --per-task 1 --out prompts")["counts"] == {"prompts": 6}
    assert told("extend-prompts short.txt --extender rules --seed 7 --out long")["counts"] == {"prompts": 1}
    assert json.loads((tmp_path / "long" / "prompts.jsonl").read_text())["extended"]["seed"] == 7
    assert told("generate export --prompts short.txt --per-prompt 1 --out samples")["counts"]["images"] == 1
    assert told("generate export --prompts prompts/prompts.jsonl --per-prompt 1 --out asked")["counts"]["prompts"] == 6
    judged = told("evaluate miniature asked --out scores")["numbers"]
    assert {"overall", "color_attr", "seam"} <= {number["metric"] for number in judged}
    assert all(number["low"] <= number["value"] <= number["high"] for number in judged)
    assert told("figure tau --pictures 16 --out tau")["directory"] == "tau"
    plan = told("plan --images 1000")
    assert plan["bytes"]["images"] > 0
    assert plan["commands"][0].startswith("tessera collect")
    study = told("study claims-smoke --plan --out studies")
    assert (study["plan"], len(study["cells"])) == ("studies/claims-smoke/plan.json", 6)


def test_what_is_said_of_a_directory_for_people_and_for_scripts(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(output, "as_json", False)
    stage = open_stage(tmp_path / "images", stage="collect", config={})
    stage.finish({"images": 3, "classes": 2}, {"a/b.png": "is truncated"}, {"size": 32})
    output.say(tmp_path / "images", "and a word")
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/images: 2 classes, 3 images",
        f"1 rejected; the reasons are in {tmp_path}/images/manifest.json",
        "and a word",
    ]
    output.say_files([tmp_path / "a.html", tmp_path / "b.html"])
    assert capsys.readouterr().out == f"{tmp_path}/a.html\n{tmp_path}/b.html\n"
    output.say_report(tmp_path / "index.html", "two lines\nof it")
    assert capsys.readouterr().out == f"two lines\nof it\nReport: {tmp_path}/index.html\n"
    monkeypatch.setattr(output, "as_json", True)
    output.say(tmp_path / "images", "not for scripts", more=1)
    told = json.loads(capsys.readouterr().out)
    assert told["rejects"] == {"a/b.png": "is truncated"}
    assert (told["counts"]["classes"], told["facts"], told["more"]) == (2, {"size": 32}, 1)
    output.say_files([tmp_path / "a.html"])
    assert json.loads(capsys.readouterr().out) == {"files": [f"{tmp_path}/a.html"]}
