import shutil
from dataclasses import replace

import numpy as np
import pytest

from tessera.config import UserError
from tessera.demo.browse import PAGE, Browser, find_workspace, show_runs
from tessera.report.arms import loss_points


def test_plain_and_mixed_sets_with_boxes(workspace):
    browser = Browser(workspace)
    assert list(browser.captions) == ["plain-scene", "augmented-scene"]
    plain, mixed = browser.find("plain-scene"), browser.find("augmented-scene")
    assert len(plain) == len(mixed) == 40 > PAGE
    assert browser.cards(plain).count("<img ") == 40
    assert browser.cards(mixed).count("<rect ") == 40
    entry = mixed[0]
    left, top, right, bottom = entry.placement.box
    assert f'x="{left}" y="{top}" width="{right - left}" height="{bottom - top}"' in browser.cards([entry])
    whole = {e.base: browser.pixels(e) for e in plain}
    outside = np.ones((32, 32), bool)
    outside[top:bottom, left:right] = False
    if entry.placement.pattern != "half":  # there the base is moved too
        assert np.array_equal(browser.pixels(entry)[outside], whole[entry.base][outside])


def test_recipes_in_folders_of_their_own(workspace, tmp_path):
    """As the command lines of `tessera plan` make them."""
    shutil.copytree(workspace, tmp_path / "space")
    (tmp_path / "space" / "recipe").rename(tmp_path / "recipe")
    (tmp_path / "space" / "recipe").mkdir()
    (tmp_path / "recipe").rename(tmp_path / "space" / "recipe" / "all")
    whole, moved = (Browser(place).find("augmented-scene") for place in (workspace, tmp_path / "space"))
    assert moved == whole


def test_search_by_words_and_class(workspace):
    browser = Browser(workspace)
    red = browser.find("plain-scene", "RED circle")
    assert red
    assert all("red" in e.captions["long"] and "circle" in f"{e.class_name} {e.captions['long']}" for e in red)
    assert {e.class_name for e in browser.find("plain-scene", "", "circle")} == {"circle"}
    assert all("circle" in e.class_name for e in browser.find("augmented-scene", "", "circle"))
    assert browser.find("plain-scene", "unicorn") == []
    with pytest.raises(UserError, match="plain-scene"):
        browser.find("nothing")


def test_orders(workspace):
    browser = Browser(workspace)
    lengths = [max(map(len, e.captions.values())) for e in browser.find("plain-scene", order="longest caption")]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths != [max(map(len, e.captions.values())) for e in browser.find("plain-scene")]
    shortest = [max(map(len, e.captions.values())) for e in browser.find("plain-scene", order="shortest caption")]
    assert shortest == lengths[::-1]
    few = browser.find("plain-scene")[-1]
    row = browser.rows[few.key]
    browser.rows[few.key] = row._replace(width=9)
    assert browser.find("plain-scene", order="smallest source")[0].key == few.key


def test_words_are_looked_for_in_the_captions_of_all_levels(workspace):
    """The word "photo" is in medium and short captions alone."""
    browser = Browser(workspace)
    found = browser.find("plain-scene", "photo")
    assert found
    every = browser.find("plain-scene")
    assert found == [e for e in every if any("photo" in text.casefold() for text in e.captions.values())]
    assert not any("photo" in entry.captions["long"] for entry in found)
    told = found[0].captions
    assert list(told) == ["long", "medium", "short"]
    shown = browser.cards(found[:1])
    for level, text in told.items():
        assert f"<small>{level}</small> {text}</p>" in shown
    assert f'alt="{told["long"]}"' in shown
    alone = browser.cards([replace(found[0], captions={"long": told["long"]})])
    assert f'<p dir="auto">{told["long"]}</p>' in alone


def test_every_text_is_escaped_and_a_lost_file_is_told(workspace, tmp_path):
    browser = Browser(workspace)
    entry = browser.find("plain-scene")[0]
    bad = '"><script>alert(1)</script>'
    shown = browser.cards([replace(entry, captions={bad: bad, "short": bad}, class_name=bad)])
    assert "<script" not in shown
    assert '""' not in shown
    copy = tmp_path / "copy"
    shutil.copytree(workspace, copy)
    (copy / "images" / f"{entry.key}.png").unlink()
    assert "is not a readable image" in Browser(copy).cards([entry])


def test_images_without_captions_and_folders_without_images(workspace, tmp_path):
    shutil.copytree(workspace / "images", tmp_path / "w" / "images")
    browser = Browser(tmp_path / "w")
    assert list(browser.captions) == ["images"]
    assert len(browser.find("images")) == 40
    assert Browser(tmp_path).captions == {}
    shutil.copytree(workspace / "captions" / "plain-scene", tmp_path / "w" / "captions" / "llava-1.6")
    assert list(Browser(tmp_path / "w").captions) == ["llava-1.6"]
    assert find_workspace(workspace / "export" / "ta") == workspace.resolve()
    assert find_workspace(tmp_path / "a" / "b") is None


def test_runs_show_curves_and_say_what_is_missing(workspace, tmp_path):
    assert loss_points(workspace / "runs" / "ta" / "log.jsonl") == [(10, 0.5), (20, 0.25)]
    shown = show_runs(workspace)
    assert "<svg " in shown
    assert "Nothing was judged" in shown
    assert "no runs" in show_runs(tmp_path)
    (tmp_path / "runs" / "<b>x").mkdir(parents=True)
    (tmp_path / "runs" / "<b>x" / "log.jsonl").write_text('{"num_images": 1, "loss": 0.5}\n')
    assert "<b>x" not in show_runs(tmp_path)
