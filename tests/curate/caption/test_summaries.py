"""summarize: a language model shortens the captions of a run, image by image."""

import csv
import json

import pytest

from tessera.config import UserError
from tessera.curate.caption import summaries
from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.caption.summaries import INSTRUCTION
from tessera.curate.caption.table import CAPTIONS_TABLE, read_captions, read_levels
from tessera.files import read_table
from tessera.stages import read_manifest
from tiny.chat_server import ChatServer, completion, question_of
from tiny.judges import save_llama


@pytest.fixture
def told(images, tmp_path):
    caption(tmp_path / "told", images, CaptionConfig(captioner="scene"))
    return tmp_path / "told"


def first_words(instruction):
    return " ".join(instruction.split("\n\n")[1].split()[:4])


def test_a_server_is_asked_with_the_caption_alone(images, told, tmp_path):
    long, out = read_captions(told), tmp_path / "short"
    config = CaptionConfig(captioner="summarize")
    with ChatServer(lambda body, number: (200, completion(first_words(question_of(body))))) as server:
        caption(out, images, config, captions=[told], server=server.address)
        bodies = [body for _, body in server.requests if body]
        assert sorted(question_of(body) for body in bodies) == sorted(
            INSTRUCTION.format(caption=text) for text in long.values()
        )
        assert "image_url" not in json.dumps(bodies)
        caption(out, images, config, captions=[told], server=server.address)
        assert len([body for _, body in server.requests if body]) == len(bodies)  # done
    assert read_captions(out) == {key: " ".join(text.split()[:4]) for key, text in long.items()}
    assert read_manifest(out).config["model"] == "stub"
    asked = [INSTRUCTION.format(caption=text) for text in long.values()]
    assert read_table(out / CAPTIONS_TABLE)["prompt"].to_pylist() == asked
    joined = tmp_path / "joined"
    caption(joined, images, CaptionConfig(captioner="join"), captions=[f"long={told}", f"short={out}"])
    assert read_levels(joined) == {"long": long, "short": read_captions(out)}


def test_captions_that_changed_are_shortened_again(images, told, tmp_path):
    """Of images that are the same; the others keep what they had, in the order of the set."""
    texts = read_captions(told)
    with open(tmp_path / "other.csv", "w", newline="") as file:
        rows = [
            (key, "Another caption, by hand." if number % 3 == 0 else text)
            for number, (key, text) in enumerate(texts.items())
        ]
        csv.writer(file).writerows([("key", "text"), *rows])
    caption(tmp_path / "imported", images, CaptionConfig(captioner="import"), captions_file=tmp_path / "other.csv")
    config = CaptionConfig(captioner="summarize")
    with ChatServer(lambda body, number: (200, completion(first_words(question_of(body))))) as server:
        how = {"captions": [told], "server": server.address}
        caption(tmp_path / "short", images, config, **how)
        before = len(server.requests)
        how["captions"] = [tmp_path / "imported"]
        caption(tmp_path / "again", images, config, reuse=tmp_path / "short", **how)
        asked = [question_of(body) for _, body in server.requests[before:] if body]
        caption(tmp_path / "anew", images, config, **how)
    assert asked == [INSTRUCTION.format(caption="Another caption, by hand.")] * -(-len(texts) // 3)
    assert list(read_captions(tmp_path / "again").items()) == list(read_captions(tmp_path / "anew").items())
    again, anew = ((tmp_path / name / CAPTIONS_TABLE).read_bytes() for name in ("again", "anew"))
    assert again == anew


def test_a_model_of_this_machine_is_asked_again_for_what_is_no_caption(images, told, tmp_path, monkeypatch):
    model, asked = save_llama(tmp_path / "llama"), []

    def write(instruction, seed, max_tokens):
        asked.append((instruction, seed, max_tokens))
        again = [text for text, _, _ in asked].count(instruction) > 1
        return (first_words(instruction) if again else ""), False

    monkeypatch.setattr(summaries, "load_writer", lambda *_: write)
    config = CaptionConfig(captioner="summarize", model=str(model))
    caption(tmp_path / "short", images, config, captions=[told], max_new_tokens=40)
    long = read_captions(told)
    assert read_captions(tmp_path / "short") == {key: " ".join(text.split()[:4]) for key, text in long.items()}
    assert {limit for _, _, limit in asked} == {40}
    assert len({seed for _, seed, _ in asked}) == len(asked) == 2 * len(long)
    assert read_manifest(tmp_path / "short").config["model"].startswith("llama@")


def test_what_is_missing(images, told, tmp_path):
    with pytest.raises(UserError, match="captioner summarize needs --captions with one directory"):
        caption(tmp_path / "short", images, CaptionConfig(captioner="summarize"))
