"""Captions by models: a pruned LLaVA on any engine, and a server that fails, stalls and babbles."""

import shutil
import threading
from collections import Counter

import pytest

from tessera.config import UserError
from tessera.curate.caption import model as captioning
from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.caption.table import read_captions
from tessera.curate.encode import EncodeConfig, encode
from tessera.curate.index import read_images, read_recipe
from tessera.files import read_table
from tessera.images import read_rgb
from tessera.pretrained.captioner.llava import Llava
from tessera.pretrained.captioner.prompt import MIX_PROMPT, PROMPT, make_question
from tessera.pretrained.chat import Retry
from tessera.stages import read_manifest
from tessera.workers import Engine
from tiny.caption_server import CaptionServer, digest
from tiny.chat_server import completion

OPENAI = CaptionConfig(captioner="openai")


pytest.importorskip("openai")
HASTY = {"retry": Retry(first_pause=0.01, timeout=0.7), "shard": 10}


def pixels_of(images) -> dict:
    return {row.key: read_rgb(images / f"{row.key}.png") for row in read_images(images)}


def test_a_bad_server_gives_all_captions_none_twice(images, tmp_path):
    out = tmp_path / "captions"
    with CaptionServer(fail=0.2, stall=0.05, junk=0.1) as stub:
        caption(out, images, OPENAI, server=stub.address, **HASTY, concurrency=4)
    expected = {key: f'told "{digest(pixels)}",\n\tassistant <b>' for key, pixels in pixels_of(images).items()}
    assert read_captions(out) == expected
    assert len(stub.asked) > 24
    assert set(stub.answered.values()) == {1}
    assert stub.most <= 4
    assert set(stub.prompts.values()) == {PROMPT}
    row = read_table(out / "captions.parquet").to_pylist()[0]
    assert row["captioner"] == "openai"
    assert row["prompt"] == PROMPT
    assert row["revision"] == "lab/stub"
    config = read_manifest(out).config
    assert (config["model"], config["revision"]) == ("stub", "lab/stub")
    assert sorted(path.name for path in out.iterdir()) == ["captions.parquet", "manifest.json"]


def test_mixes_show_the_quarter_with_the_pasted_picture(images, recipe, tmp_path):
    with CaptionServer() as stub:
        caption(tmp_path / "captions", images, OPENAI, recipe=recipe, server=stub.address, **HASTY)
    assert set(stub.prompts.values()) == {MIX_PROMPT}
    patterns = Counter(row.placement.pattern for row in read_recipe(recipe).rows)
    assert Counter(stub.images.values()) == {1: patterns["half"], 2: 24 - patterns["half"]}
    assert list(read_captions(tmp_path / "captions")) == [row.key for row in read_recipe(recipe).rows]


def test_a_server_that_goes_down_loses_nothing(images, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    with CaptionServer() as stub:
        caption(whole, images, OPENAI, server=stub.address, **HASTY, concurrency=3)
    with CaptionServer(down_after=14) as stub:
        with pytest.raises(UserError, match=r"overloaded.*What is done is kept") as error:
            caption(out, images, OPENAI, server=stub.address, **HASTY, concurrency=3)
        assert "\n" not in str(error.value)
        first = Counter(stub.answered)
    assert sum(first.values()) >= 14
    with open(next((out / "parts").glob("*.journal")), "ab") as file:
        file.write(b'["circle/0000')  # a line cut by a kill
    with CaptionServer() as stub:
        caption(out, images, OPENAI, server=stub.address, **HASTY, concurrency=3)
        assert set((first + stub.answered).values()) == {1}
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in whole.iterdir()
    }


def test_server_errors(images, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"Connection error.*What is done is kept") as error:
        caption(out, images, OPENAI, server="http://127.0.0.1:9/v1", **HASTY)
    assert "\n" not in str(error.value)
    with CaptionServer() as stub, pytest.raises(UserError, match="has no model 'other'; it has stub"):
        caption(out, images, CaptionConfig(captioner="openai", model="other"), server=stub.address, **HASTY)
    with pytest.raises(UserError, match="needs a server: its base URL"):
        caption(out, images, OPENAI)
    with pytest.raises(UserError, match="is no address"):
        caption(out, images, OPENAI, server="localhost:8000")
    with pytest.raises(UserError, match="concurrency is 0; give at least 1"):
        caption(out, images, OPENAI, server="http://127.0.0.1:9/v1", **HASTY, concurrency=0)
    assert not out.exists()


def test_llava_here_and_in_parts_of_an_array_job(images, recipe, llava_folder, tmp_path):
    small = {"device": "cpu", "shard": 7, "max_new_tokens": 4}
    config = CaptionConfig(captioner="llava", model=str(llava_folder))
    out = tmp_path / "whole"
    caption(out, images, config, recipe=recipe, **small)
    row = read_recipe(recipe).rows[1]
    told = read_table(out / "captions.parquet").to_pylist()
    llava = Llava(str(llava_folder), "cpu")
    assert told[1]["prompt"] == MIX_PROMPT
    assert told[1]["revision"] == llava.revision == llava.folder.sha256[:12]
    from tessera.cutmix import compose

    pictures = pixels_of(images)
    mixed = compose(pictures[row.base], pictures[row.partner], row.placement, "centre")
    assert told[1]["text"] == llava.caption([make_question(mixed, row.placement, llava.side)], 4)[0].text
    assert "/" not in read_manifest(out).config["model"]
    for part in (2, 0):
        caption(tmp_path / "parts", images, config, recipe, **small, engine=Engine(part=(part, 3)))
        assert not read_manifest(tmp_path / "parts", must_be_complete=False).complete
    caption(tmp_path / "parts", images, config, recipe, **small, engine=Engine(part=(1, 3)))
    assert (tmp_path / "parts" / "manifest.json").read_bytes() == (out / "manifest.json").read_bytes()
    assert (tmp_path / "parts" / "captions.parquet").read_bytes() == (out / "captions.parquet").read_bytes()
    shutil.rmtree(tmp_path / "parts")


def test_two_tasks_that_see_the_end_at_once(images, tmp_path, monkeypatch):
    whole, out, task = tmp_path / "whole", tmp_path / "out", Engine(part=(0, 1))
    read, others = captioning.read_table, []

    def read_while_another_ends(*args):
        if not others:
            others.append(None)
            caption(out, images, OPENAI, server=stub.address, **HASTY, engine=task)
        return read(*args)

    with CaptionServer() as stub:
        caption(whole, images, OPENAI, server=stub.address, **HASTY)
        monkeypatch.setattr(captioning, "read_table", read_while_another_ends)
        caption(out, images, OPENAI, server=stub.address, **HASTY, engine=task)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in whole.iterdir()
    }


def test_captions_that_are_asked_for_anew_are_others_to_the_stages_after(images, tmp_path):
    out, encoded = tmp_path / "captions", tmp_path / "encoded"
    for more in ("", " now"):
        with CaptionServer(more=more) as stub:
            caption(out, images, OPENAI, server=stub.address, **HASTY)
        if more:
            with pytest.raises(UserError, match=r"encoded: was made otherwise: input captions"):
                encode(encoded, images, out, EncodeConfig())
        else:
            encode(encoded, images, out, EncodeConfig())
            shutil.rmtree(out)


def test_half_a_character_of_an_answer_is_not_stored(images, tmp_path):
    with CaptionServer(more="\ud83d") as stub:
        caption(tmp_path / "captions", images, OPENAI, server=stub.address, **HASTY)
    assert all(text.endswith("<b>?") for text in read_captions(tmp_path / "captions").values())


def test_images_without_an_answer_are_listed_and_asked_for_again_alone(images, tmp_path):
    out, missing = tmp_path / "captions", tmp_path / "captions-missing.csv"
    bad = {key: digest(pixels) for key, pixels in list(pixels_of(images).items())[3:6]}
    refused = completion("I'm sorry, I can't help with that.")
    replies = dict(zip(bad.values(), ((400, {"error": {"message": "bad image"}}), (200, refused), (500, {}))))
    with CaptionServer(instead=replies) as stub:
        with pytest.raises(UserError, match=r"no caption for 3 of 24 images: .*bad image.*all are listed in") as error:
            caption(out, images, OPENAI, server=stub.address, **HASTY)
        assert "\n" not in str(error.value)
        first = len(stub.asked)
    assert list(read_captions(out)) == [key for key in pixels_of(images) if key not in bad]
    manifest = read_manifest(out)
    assert manifest.rejects.keys() == bad.keys()
    assert manifest.counts == {"records": 21, "distinct": 21, "missing": 3}
    assert [line.split(",")[0] for line in missing.read_text().splitlines()] == ["key", *bad]
    # Without them: nothing is asked, and the directory is as it was.
    before = (out / "manifest.json").read_bytes()
    with CaptionServer() as stub:
        caption(out, images, OPENAI, server=stub.address, **HASTY, skip_missing=True)
        assert not stub.asked
    assert (out / "manifest.json").read_bytes() == before
    # By hand for one of them, and the server for another; the third is still none.
    keys = list(bad)
    missing.write_text(f"key,text\n{keys[0]},by my own hand\n{keys[1]},\n")
    with CaptionServer(instead={bad[keys[2]]: (400, {})}) as stub:
        with pytest.raises(UserError, match="no caption for 1 of 24 images"):
            caption(out, images, OPENAI, captions_file=missing, server=stub.address, **HASTY)
        assert set(stub.asked) == {bad[keys[1]], bad[keys[2]]}
    assert read_captions(out)[keys[0]] == "by my own hand"
    with CaptionServer() as stub:
        caption(out, images, OPENAI, server=stub.address, **HASTY)
        assert stub.asked == [bad[keys[2]]]
    assert list(read_captions(out)) == list(pixels_of(images))
    assert read_manifest(out).counts == {"records": 24, "distinct": 24, "by_hand": 1}
    assert not missing.exists()
    assert first < 24 + 3 + 7 + 1


def test_cut_answers_end_at_a_sentence_and_are_counted(images, tmp_path):
    cut = completion("A fox sits. It lo")
    cut["choices"][0]["finish_reason"] = "length"
    bad = [digest(pixels) for pixels in pixels_of(images).values()][:2]
    with CaptionServer(instead=dict.fromkeys(bad, (200, cut))) as stub:
        caption(tmp_path / "captions", images, OPENAI, server=stub.address, **HASTY)
    assert list(read_captions(tmp_path / "captions").values())[:2] == ["A fox sits."] * 2
    assert read_manifest(tmp_path / "captions").counts["cut"] == 2
    assert read_table(tmp_path / "captions" / "captions.parquet")["note"].to_pylist()[:3] == ["cut", "cut", ""]


@pytest.mark.parametrize("engine", [Engine(), Engine(kind="processes", workers=1)])
def test_a_server_never_waits_for_the_end_of_a_part(images, tmp_path, engine):
    """It answers twelve questions when it has twelve; parts are of five images each."""

    class Together(CaptionServer):
        twelve = threading.Barrier(12)

        def reply(self, body, number):
            self.twelve.wait(60)
            return super().reply(body, number)

    with Together() as stub:
        caption(tmp_path / "c", images, OPENAI, server=stub.address, shard=5, concurrency=12, engine=engine)
        assert stub.most == 12
    assert len(read_captions(tmp_path / "c")) == 24


def test_parts_are_written_as_soon_as_their_last_answer_is_there(images, tmp_path):
    """So that a server that goes down leaves whole parts, and journals of those under way."""
    out = tmp_path / "out"
    with CaptionServer(down_after=16) as stub, pytest.raises(UserError, match="overloaded"):
        caption(out, images, OPENAI, server=stub.address, retry=HASTY["retry"], shard=5, concurrency=2)
    assert len(list((out / "parts").glob("*.parquet"))) == 3
    (journal,) = (path for path in (out / "parts").glob("*.journal") if path.stat().st_size)
    assert len(journal.read_bytes().splitlines()) >= 1
