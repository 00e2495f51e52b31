"""preview: a page about each kind of directory, self-contained and escaped."""

import base64
import functools
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tessera.cli import curate as cli
from tessera.config import UserError
from tessera.curate.augment import AugmentConfig, augment
from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.caption.table import read_captions, read_levels
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.curate.encode import EncodeConfig, encode
from tessera.curate.index import read_images, read_recipe
from tessera.cutmix import compose
from tessera.encoded.store import open_encoded
from tessera.images import read_rgb
from tessera.report.dataset_page import preview as preview_all
from tiny.chromium import check_file

preview = functools.partial(preview_all, most=0)  # the list is tests/report/sections/test_all_records.py's
EVIL = '</p><script>alert("1")</script><img src=x onerror=alert(2)> & "quoted"\nnext line'


class Page(HTMLParser):
    """Tags and text of a page; everything must be closed."""

    def __init__(self, path):
        super().__init__()
        self.images, self.boxes, self.captions, self.text, self.tags = [], [], [], "", []
        self._open, self._caption, self.addresses = [], False, []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.addresses += [attrs[name] for name in ("src", "href", "action", "srcset", "data") if name in attrs]
        if tag == "img":
            self.images.append(attrs)
        if tag == "rect" and attrs["class"] == "over":
            self.boxes.append(tuple(int(attrs[name]) for name in ("x", "y", "width", "height")))
        if tag not in ("img", "meta", "link", "rect"):
            self._open.append(tag)
        self._caption = attrs.get("class") == "caption"
        if self._caption:
            self.captions.append("")

    def handle_endtag(self, tag):
        if tag not in ("img", "meta", "link", "rect"):
            assert self._open.pop() == tag
        self._caption = False

    def handle_data(self, data):
        self.text += data
        if self._caption:
            self.captions[-1] += data


def pixels(image) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))))


def shows_nothing_from_elsewhere(page):
    assert len(page.addresses) > 1
    assert all(address.startswith("data:") for address in page.addresses)
    assert not {"script", "iframe", "object", "style"} & set(page.tags[page.tags.index("body") :])
    assert "url(" not in page.source.partition("</style>")[0]
    assert "@import" not in page.source.partition("</style>")[0]
    assert all(image["alt"] for image in page.images)
    assert 'name="viewport"' in page.source
    assert "prefers-color-scheme: dark" in page.source


@pytest.fixture(scope="module")
def made(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    (folder / "images").symlink_to(images)
    augment(folder / "recipe", images, AugmentConfig(half_view="centre"))
    caption(folder / "captions" / "mixed", images, CaptionConfig(captioner="scene"), recipe=folder / "recipe")
    encode(folder / "encoded", images, folder / "captions" / "mixed", EncodeConfig(), recipe=folder / "recipe")
    return folder


def test_pictures(images, tmp_path):
    preview(images, tmp_path / "page.html", number=10)
    page = Page(tmp_path / "page.html")
    shows_nothing_from_elsewhere(page)
    known = [read_rgb(images / str(row.file)).tobytes() for row in read_images(images)]
    assert len(page.images) == 10
    assert all(pixels(image).tobytes() in known for image in page.images)
    assert page.boxes == page.captions == []
    preview(images, tmp_path / "again.html", number=10)
    assert (tmp_path / "again.html").read_bytes() == (tmp_path / "page.html").read_bytes()
    preview(images, tmp_path / "all.html", number=1000, seed=3)
    assert len(Page(tmp_path / "all.html").images) == 24


@pytest.mark.parametrize("name", ["recipe", "captions/mixed", "encoded"])
def test_mixes_with_their_boxes_and_captions(made, tmp_path, name):
    preview(made / name, tmp_path / "page.html", number=24)
    page = Page(tmp_path / "page.html")
    shows_nothing_from_elsewhere(page)
    rows = read_recipe(made / "recipe").rows
    images = {row.key: row for row in read_images(made / "images")}
    for row, image, box in zip(rows, page.images, page.boxes, strict=True):
        base, partner = (read_rgb(made / "images" / f"{key}.png") for key in (row.base, row.partner))
        assert np.array_equal(pixels(image), compose(base, partner, row.placement, "centre"))
        left, top, right, bottom = row.placement.box
        assert box == (left, top, right - left, bottom - top)
        assert image["alt"].startswith(f"{images[row.base].class_name} + {images[row.partner].class_name}")
        assert row.key in page.text
    if name != "recipe":
        texts = read_captions(made / "captions" / "mixed")
        levels = read_levels(made / "captions" / "mixed")
        every = {key: " ".join(f"[{level}] {told[key]}" for level, told in levels.items()) for key in texts}
        assert page.captions == [every[row.key] for row in rows]
    if name == "encoded":
        store = open_encoded(made / "encoded")
        for place in range(len(store)):
            for number, level in enumerate(("long", "medium", "short")):
                record = store.read(place, number)
                sizes = f"{len(record.text_codes)} tokens, {len(record.caption.split())} words"
                assert f"{level}: {sizes}" in page.text


def test_rejects_by_reason_and_escaped_text(messy, tmp_path):
    source = tmp_path / "photos"
    for name in ("red_fox", "<i>cats & dogs"):
        (source / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (300, 200), (90 * i, 9, 9)).save(source / name / f"{i}.png")
    (source / "red_fox" / "<b>.jpg").write_bytes(b"")
    (source / "red_fox" / "3.jpg").write_bytes(b"")
    (source / "red_fox" / "4.jpg").write_bytes(b"no picture at all")
    images = tmp_path / "images"
    collect(images, CollectConfig(source="photos", size=160), source)
    lines = [f'"{row.key}","{EVIL.replace(chr(34), chr(34) * 2)}"' for row in read_images(images)]
    (tmp_path / "mine.csv").write_text("key,text\n" + "\n".join(lines) + "\n")
    caption(tmp_path / "captions", images, CaptionConfig(captioner="import", file=str(tmp_path / "mine.csv")))
    preview(tmp_path / "captions", tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    shows_nothing_from_elsewhere(page)
    assert page.captions == [EVIL] * 4
    assert {tag for tag in page.tags if tag in ("i", "script")} == set()
    assert page.images[0]["src"].startswith("data:image/jpeg")
    assert page.images[0]["alt"].endswith(EVIL)
    table = " ".join(page.text.partition("Left out, by reason")[2].split())
    assert "empty file2red_fox/3.jpg, red_fox/<b>.jpg not an image, or an unknown format1red_fox/4.jpg" in table


def test_of_a_crop_the_window_is_shown_on_the_picture(images, made, tmp_path):
    augment(made / "windows", images, AugmentConfig(pattern="crop"))
    preview(made / "windows", tmp_path / "page.html", number=24)
    page = Page(tmp_path / "page.html")
    for row, image, box in zip(read_recipe(made / "windows").rows, page.images, page.boxes, strict=True):
        assert np.array_equal(pixels(image), read_rgb(images / f"{row.base}.png"))
        assert box[:2] == row.placement.box[:2]


def test_one_of_several_recipes_is_found(images, tmp_path):
    """As the command lines of `tessera plan` make them."""
    (tmp_path / "images").symlink_to(images)
    for pattern in ("half", "quarter"):
        augment(tmp_path / "recipe" / pattern, images, AugmentConfig(pattern=pattern))
    caption(
        tmp_path / "captions" / "quarter", images, CaptionConfig(captioner="scene"), recipe=tmp_path / "recipe/quarter"
    )
    preview(tmp_path / "captions" / "quarter", tmp_path / "page.html")
    assert "quarter, box" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_what_is_not_found_is_named(images, made, tmp_path):
    alone = tmp_path / "deep" / "down" / "captions"
    caption(alone, images, CaptionConfig())
    with pytest.raises(UserError, match=r"captions: its images directory is not nearby; give --images"):
        preview(alone, tmp_path / "page.html")
    (tmp_path / "deep" / "app").mkdir()
    (tmp_path / "deep" / "app" / "manifest.json").write_text('{"name": "another program"}')
    with pytest.raises(UserError, match=r"captions: its images directory is not nearby; give --images"):
        preview(alone, tmp_path / "page.html")
    preview(alone, tmp_path / "page.html", images=images)
    with pytest.raises(UserError, match=r"recipe: is not what .*captions was made from; give --images"):
        preview(alone, tmp_path / "page.html", images=made / "recipe")
    with pytest.raises(UserError, match="number is 0"):
        preview(images, tmp_path / "page.html", number=0)
    with pytest.raises(UserError, match=r"has no manifest\.json"):
        preview(tmp_path, tmp_path / "page.html")
    for folder in (tmp_path, Path(".")):
        with pytest.raises(UserError, match=r"is a directory; give the page a name, such as .*preview\.html"):
            preview(images, folder)


@pytest.mark.parametrize("name", ["recipe", "encoded"])
def test_for_everybody(browser, made, tmp_path, name):
    """On a phone and at a desk, light and dark, by keyboard, read out; nothing is asked of the network."""
    preview_all(made / name, tmp_path / "page.html", number=6)
    check_file(browser, tmp_path / "page.html")


def test_what_was_left_out_for_everybody(browser, messy, tmp_path):
    collect(tmp_path / "images", CollectConfig(source="photos", size=64), messy)
    preview(tmp_path / "images", tmp_path / "page.html")
    assert "Left out, by reason" in (tmp_path / "page.html").read_text()
    check_file(browser, tmp_path / "page.html")


def test_a_page_is_named_as_its_directory(images, tmp_path, capsys):
    for name in ("short0.25", "short0.5"):
        caption(tmp_path / name, images, CaptionConfig())
        cli.preview(tmp_path / name, images=images)
    assert {path.name for path in tmp_path.glob("*.html")} == {"short0.25.html", "short0.5.html"}
    assert "short0.25.html" in capsys.readouterr().out
