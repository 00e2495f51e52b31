"""The page of scores: everything escaped, no network, the images that were judged."""

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tessera import cli
from tessera.config import UserError
from tessera.evaluate.quality.features import find_images
from tessera.evaluate.scores import Extender, Number, Protocol, Scores, write_scores
from tessera.report.scores_page import report_scores
from tessera.stages import open_stage
from tiny.chromium import check_file
from tiny.quality_scores import geneval, quality, write_images
from tiny.samples import write_samples


class Page(HTMLParser):
    """Tags, and the addresses that a page would fetch."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.images = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attributes = dict(attrs)
        self.addresses += [attributes[name] for name in ("src", "href", "xlink:href") if attributes.get(name)]
        if tag == "img":
            self.images.append(attributes)


@pytest.fixture
def written(tmp_path):
    a, b = geneval("TA", 0.4), geneval("TA+IA", 0.8, 1)
    for name, scores in {"a": a, "b": b, "q1": quality("TA", 9.5, 1000), "q2": quality("TA", 8.5, 2000)}.items():
        write_scores(tmp_path / name, scores)
    return tmp_path


def test_the_page_stands_alone_and_everything_is_escaped(written):
    pictures = [write_images(written / f"s{n}", n) for n in range(4)]
    report_scores(written / "report", [written / n for n in ("a", "b", "q1", "q2")], pictures)
    text = (written / "report" / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert "http:" not in text.replace("http://www.w3.org/", "")
    assert "&lt;script&gt;" in text
    assert "<b>fox</b>" not in text
    assert "built-in" not in text
    assert len(page.images) == 24 * 4
    assert all(image["alt"] for image in page.images)
    assert {"Paired differences", "as printed", "Over training", "Misprint"} <= set(
        re.findall("Paired differences|as printed|Over training|Misprint", text)
    )
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        assert ElementTree.fromstring(svg).get("aria-label")
    before = (written / "report" / "index.html").stat().st_mtime_ns
    report_scores(written / "report", [written / n for n in ("a", "b", "q1", "q2")], pictures)
    assert (written / "report" / "index.html").stat().st_mtime_ns == before


def test_a_model_has_one_colour_and_the_judges_take_turns(written):
    """A judge of 0..100 does not push one of 0..1 out of the drill-down."""
    for name, skill in (("TA", 0.2), ("TA+IA", 0.9)):
        items = [
            {"prompt": i, "sample": 0, "file": f"{i:05d}/samples/0000.png", "text": f"dense {i}", "reason": "no: Hat?"}
            | {"values": {"dpg/fixed/overall": 100 * skill}}
            for i in range(24)
        ]
        about = Protocol(metric="dpg/fixed/overall", name="dpg-2")
        number = Number(metric="dpg/fixed/overall", value=100 * skill, n=24, protocol=about)
        write_scores(written / f"dpg-{name}", Scores(kind="dpg", name=name, numbers=(number,), items=tuple(items)))
    paths = [written / name for name in ("a", "b", "dpg-TA+IA", "dpg-TA")]
    pictures = [write_images(written / f"s{n}", n) for n in range(4)]
    report_scores(written / "report", paths, pictures)
    text = (written / "report" / "index.html").read_text(encoding="utf-8")
    cards = re.findall(r'<p class="prompt">(.*?)</p>', text)
    assert [card.startswith("dense") for card in cards] == [False, True] * 12
    found = set(re.findall(r'<div class="arm-(\d)"><p class="name">(.*?)</p>', text))
    assert found == {("0", "TA"), ("1", "TA+IA")}
    assert "Overall (fixed) 90.00. no: Hat?" in text
    assert "judged right: found &lt;b&gt;fox" in text


FOREIGN = "a-model-of-somebody-else-with-a-name-that-does-not-break-anywhere-at-all"


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(browser, written, width):
    """Nothing is wider than the screen; each image is reached by keyboard, enlarged, and put back by Escape."""
    llama = Extender(model=f"lab/{'llama' * 20}@{'0' * 40}", prompt="t", seed=0)
    scores = geneval(FOREIGN, 0.5, 2)
    write_scores(written / "c", replace(scores, numbers=tuple(
        replace(number, protocol=replace(number.protocol, extender=llama)) for number in scores.numbers
    )))  # fmt: skip
    pictures = [write_images(written / f"s{n}", n) for n in range(5)]
    report_scores(written / "report", [written / n for n in ("a", "b", "c", "q1", "q2")], pictures)
    page, asked, faults = browser.new_page(viewport={"width": width, "height": 900}), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto((written / "report" / "index.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    button = page.locator(".open").nth(1)
    small = button.bounding_box()["width"]
    button.focus()
    page.keyboard.press("Enter")
    box = page.locator("figure:popover-open").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    assert button.bounding_box()["width"] > 2 * small
    page.keyboard.press("Escape")
    assert page.locator("figure:popover-open").count() == 0
    assert button.bounding_box()["width"] == small
    assert page.evaluate("document.activeElement.matches('.open')")
    assert page.locator(".scroll[tabindex='0'][aria-label]").count() == page.locator(".scroll").count()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert faults == []


def test_scores_for_everybody(browser, written):
    """On a phone and at a desk, light and dark, by keyboard, read out; nothing is asked of the network."""
    pictures = [write_images(written / f"s{n}", n) for n in range(4)]
    report_scores(written / "report", [written / n for n in ("a", "b", "q1", "q2")], pictures)
    check_file(browser, written / "report" / "index.html")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report", "{a}"], "give --out"),
        (["report", "{a}", "{empty}", "--out", "{out}"], "has no scores.json"),
        (["report", "{a}", "--samples", "{empty}", "{empty}", "--out", "{out}"], "2 directories for 1 scores"),
        (["report", "{empty}"], "there is no runs/ARM"),
        (["report", "{empty}/none"], "none: there is no such directory or file"),
        (["report", "{empty}/.."], "has no scores.json itself; give what lies in it, as "),
    ],
)
def test_the_command_tells_scores_from_a_working_folder(written, capsys, words, message):
    places = {"a": written / "a", "empty": written / "empty", "out": written / "out"}
    places["empty"].mkdir()
    with pytest.raises(SystemExit) as end:
        cli.main([word.format(**places) for word in words])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_a_file_without_numbers_is_refused(tmp_path):
    write_scores(tmp_path / "a", Scores(kind="quality", name="a", numbers=()))
    with pytest.raises(UserError, match="holds no numbers"):
        report_scores(tmp_path / "report", [tmp_path / "a"])


@pytest.mark.parametrize("kind", ["geneval", "dpg", "quality"])
def test_pictures_that_were_not_judged_are_refused(tmp_path, kind):
    """Verdicts with another model's images would look like any others."""
    line = {"prompt": "a fox", "tag": "colors"}
    mine, other = (write_samples(tmp_path / name, [{**line, "n": name}] * 6) for name in ("mine", "other"))
    (other / "00000" / "samples" / "0000.png").write_bytes((other / "00001" / "samples" / "0000.png").read_bytes())
    manifest = json.loads((other / "manifest.json").read_text())  # of another model
    manifest["config"]["model"] = "other"
    (other / "manifest.json").write_text(json.dumps(manifest))
    place = tmp_path / "scores" / "original" if kind == "geneval" else tmp_path / "scores"
    if kind == "quality":
        config = {"samples": find_images(mine, "sample").sha256}
        stage = open_stage(tmp_path / "scores", stage="evaluate quality", config=config)
    else:
        inputs = {"original" if kind == "geneval" else "samples": mine}
        stage = open_stage(tmp_path / "scores", stage="evaluate", config={}, inputs=inputs)
    write_scores(place, geneval("m", 0.5, prompts=6))
    stage.finish({})
    for path in (place, place / "scores.json"):
        with pytest.raises(UserError, match=r"other is not what .* judged; give the directories in the order"):
            report_scores(tmp_path / "out", [path], [other])
    with pytest.raises(UserError, match="nowhere: there is no such directory"):
        report_scores(tmp_path / "out", [place], [tmp_path / "nowhere"])
    report_scores(tmp_path / "out", [place], [mine])
    assert (tmp_path / "out" / "index.html").is_file()
    (mine / "00001" / "samples" / "0001.png").write_bytes(b"no picture")
    if kind != "quality":
        with pytest.raises(UserError, match=r"00001/samples/0001\.png: is not a readable image"):
            report_scores(tmp_path / "again", [place], [mine])


def test_several_trainings_of_an_arm_stand_together_and_single_ones_say_what_they_cannot(tmp_path):
    paths = []
    for name, fid in {"ta-0": 8.0, "ta-1": 10.0, "ta_ia-0": 5.0, "ta_ia-1": 5.5}.items():
        write_scores(tmp_path / name, quality(name, fid))
        paths.append(tmp_path / name)
    report_scores(tmp_path / "each", paths)
    for file in ("index.html", "tables.md"):
        assert "Each model was trained once" in (tmp_path / "each" / file).read_text(encoding="utf-8")
    command = ["report", *map(str, paths), "--seeds", "2", "--out", str(tmp_path / "both")]
    with pytest.raises(SystemExit) as ended:
        cli.main(command)
    assert ended.value.code == 0
    text = (tmp_path / "both" / "tables.md").read_text(encoding="utf-8")
    assert "2 trainings of each arm" in text
    assert re.search(r"\| ta, over seeds +\| 9.00 \(\S+ to 21.71\)", text)
    assert "trained once" not in text
