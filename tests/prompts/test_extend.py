"""Longer prompts: by rules, by a tiny language model, and by one that writes nonsense."""

import json

import pytest

from tessera.config import UserError
from tessera.evaluate.samples import extender_of
from tessera.evaluate.scores import Extender
from tessera.pretrained.answers import NoCaption
from tessera.prompts import extend
from tessera.prompts.extend import ExtendConfig, extend_by_rules, extend_prompts, tidy
from tessera.prompts.geneval import CLASSES, COLORS
from tessera.prompts.read import load_prompts
from tiny.chat_server import ChatServer, completion, question_of
from tiny.folders import tree
from tiny.judges import save_llama


def lines_of(out):
    return [json.loads(line) for line in (out / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]


def test_genevals_prompts_by_rules_feed_generate(tmp_path):
    out = tmp_path / "long"
    assert extend_prompts(out, "geneval", ExtendConfig(extender="rules", seed=3))
    lines = lines_of(out)
    originals = [metadata for metadata, _ in load_prompts("geneval").rows]
    assert [{key: value for key, value in line.items() if key != "extended"} for line in lines] == originals
    assert lines[5]["extended"].keys() == {"text", "extender", "template", "seed"}
    texts = [text for _, text in load_prompts(out / "prompts.jsonl", extended=True).rows]
    assert all(line["prompt"].removeprefix("a photo of ") in text for line, text in zip(originals, texts))
    assert all(40 <= len(text.split()) <= 90 for text in texts)
    assert len(set(texts)) > 540  # a prompt that stands there twice has the same text
    assert extender_of(out, lines) == Extender(model="tessera-rules-1", prompt="tessera-rules-1", seed=3)
    before = tree(out)
    assert extend_prompts(out, "geneval", ExtendConfig(extender="rules", seed=3))
    assert tree(out) == before


def test_rules_add_no_object_and_no_color():
    groups = (extend._OPENINGS, extend._BACKGROUNDS, extend._LIGHTS, extend._STYLES)
    words = {word.strip(".,").lower() for group in groups for sentence in group for word in sentence.split()}
    assert not words & {*CLASSES, *COLORS}
    assert extend_by_rules("a cat", 0) == extend_by_rules("a cat", 0) != extend_by_rules("a cat", 1)


def test_a_text_does_not_depend_on_the_prompts_beside_it(tmp_path):
    (tmp_path / "a.txt").write_text("a cat\na dog\n")
    (tmp_path / "b.jsonl").write_text('{"prompt": "a dog", "n": 1, "extended": {"text": "old"}}\n')
    for name in ("a.txt", "b.jsonl"):
        extend_prompts(tmp_path / name[0], tmp_path / name, ExtendConfig(extender="rules"))
    first, second = lines_of(tmp_path / "a")[1], lines_of(tmp_path / "b")[0]
    assert first["extended"] == second["extended"]
    assert second["n"] == 1


def test_a_tiny_llama(tmp_path):
    (tmp_path / "p.txt").write_text("a cat\na dog\na cat\n")
    folder = str(save_llama(tmp_path / "llama"))
    config = ExtendConfig(model=folder, seed=1)
    assert extend_prompts(tmp_path / "long", tmp_path / "p.txt", config, device="cpu")
    extended = [line["extended"] for line in lines_of(tmp_path / "long")]
    assert extended[0] == extended[2]
    assert extended[0]["text"] != extended[1]["text"]
    assert extended[0]["extender"].startswith("llama@")
    assert "{prompt}" in extended[0]["template"]
    other = ExtendConfig(model=folder, seed=2)
    assert extend_prompts(tmp_path / "other", tmp_path / "p.txt", other, device="cpu")
    assert lines_of(tmp_path / "other")[0]["extended"]["text"] != extended[0]["text"]
    (tmp_path / "long" / "texts" / "00001.json").unlink()  # as if it had been stopped there
    manifest = json.loads((tmp_path / "long" / "manifest.json").read_text())
    (tmp_path / "long" / "manifest.json").write_text(json.dumps(manifest | {"complete": False}))
    assert extend_prompts(tmp_path / "long", tmp_path / "p.txt", config, device="cpu")
    assert [line["extended"] for line in lines_of(tmp_path / "long")] == extended
    with pytest.raises(UserError, match="was made otherwise: seed"):
        extend_prompts(tmp_path / "long", tmp_path / "p.txt", other, device="cpu")
    base = ExtendConfig(model=str(save_llama(tmp_path / "base", chat=False)))
    with pytest.raises(UserError, match="has no chat template"):
        extend_prompts(tmp_path / "none", tmp_path / "p.txt", base, device="cpu")


def test_a_server_that_writes_nonsense(tmp_path):
    pytest.importorskip("openai")
    refused = "I'm sorry, I can't help with that."
    answers = ["<think>hm</think>\n**A cat.**", " ... ", refused, "...", refused, "A dog."]
    (tmp_path / "p.txt").write_text("a cat\na dog\n")
    with ChatServer(lambda body, number: (200, completion(answers[number - 1]))) as server:
        config = ExtendConfig(model="m", server=server.address)
        with pytest.raises(UserError, match=r"wrote 3 characters for 'a dog' .* no caption: an empty"):
            extend_prompts(tmp_path / "long", tmp_path / "p.txt", config, device="cpu")
        assert extend_prompts(tmp_path / "long", tmp_path / "p.txt", config, device="cpu")
    assert len({body["seed"] for _, body in server.requests[1:4]}) == 3
    assert all("detailed caption" in question_of(body) for _, body in server.requests)
    assert [line["extended"]["text"] for line in lines_of(tmp_path / "long")] == ["A cat.", "A dog."]


def test_tidy():
    assert tidy(' "A cat\n sits."\n') == "A cat sits."
    assert tidy("\u201cA cat.\u201d") == "A cat."
    assert tidy('A "cat".') == 'A "cat".'
    assert tidy("'A cat's bowl.'") == "A cat's bowl."
    for text in ('"Stop" says the sign beside the door marked "in"', "\u201cStop\u201d, beside \u201cgo\u201d"):
        assert tidy(text) == text
    assert tidy("A cat sits. It lo", cut=True) == "A cat sits."
    with pytest.raises(NoCaption, match="over 4000 characters"):
        tidy(" ".join(map(str, range(3000))) + " cats")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", '{"prompt": 1}\n', "line 1: prompt is not a text"),
        ("p.jsonl", "{\n", "line 1 is not JSON"),
        ("p.txt", "\n", "holds no prompts"),
        ("p.bin", None, "there is no such file"),
        ("p.jsonl", '{"prompt": " "}\n', "has an empty prompt"),
    ],
)
def test_bad_prompts(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        extend_prompts(tmp_path / "long", tmp_path / name, ExtendConfig(extender="rules"))


def test_bad_config():
    for wrong in ({"extender": "magic"}, {"extender": "rules", "model": "m"}, {"seed": -1}):
        with pytest.raises(UserError):
            ExtendConfig(**wrong)
    with pytest.raises(UserError, match="needs the model's name on the server"):
        extend_prompts("x", "geneval", ExtendConfig(server="http://127.0.0.1:1/v1"))
