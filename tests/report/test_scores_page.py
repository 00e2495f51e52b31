"""report SCORES: the paper's numbers to the letter, unlike protocols apart, everything escaped, no network."""

import csv
import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tessera import cli
from tessera.config import UserError
from tessera.evaluate.intervals import WILSON, mean_interval
from tessera.evaluate.quality.features import find_pictures
from tessera.evaluate.scores import Extender, Number, Protocol, Scores, read_scores, write_scores
from tessera.report.scores_page import results
from tessera.report.tables import ablation_tables, curve_points, label, measured_tables, printed_tables
from tessera.report.text_tables import about_intervals
from tessera.stages import open_stage
from tiny.chromium import check_file
from tiny.samples import write_samples

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
HOSTILE = "<script>alert('x')</script> a | red & \"blue\" fox"


def geneval(name: str, skill: float, seed: int = 0, extended: bool = False, prompts: int = 24, **protocol) -> Scores:
    rng = np.random.default_rng(seed)
    extender = Extender(model="llama", prompt="t", seed=0) if extended else None
    items, numbers = [], []
    for i in range(prompts):
        for k in range(2):
            right, tag = bool(rng.random() < skill), TASKS[i % 6]
            values = {"geneval/overall": float(right), f"geneval/{tag}": float(right)}
            items.append(
                {"prompt": i, "sample": k, "file": f"{i:05d}/samples/{k:04d}.png", "text": f"{HOSTILE} {i}", "tag": tag}
                | {"values": values, "correct": right, "reason": "found <b>fox</b>"}
            )
    for task in ("overall", *TASKS):
        rows = [item for item in items if f"geneval/{task}" in item["values"]]
        values = [row["values"][f"geneval/{task}"] for row in rows]
        tags = [row["tag"] for row in rows] if task == "overall" else None
        interval = mean_interval(values, [row["prompt"] for row in rows], tags)
        about = Protocol(metric=f"geneval/{task}", name="geneval", encoder="det", extender=extender, **protocol)
        ends = {"low": interval.low, "value": interval.value, "high": interval.high}
        over = "tags" if task == "overall" else "items"
        numbers.append(Number(metric=about.metric, **ends, n=len(rows), clusters=prompts, over=over, protocol=about))
    return Scores(kind="geneval", name=name, numbers=tuple(numbers), items=tuple(items))


def quality(name: str, fid: float, num_images: int | None = None, **protocol) -> Scores:
    about = Protocol(**{"metric": "fid", "name": "full", "images": 100, **protocol})
    number = Number(metric="fid", value=fid, n=100, protocol=about)
    return Scores(kind="quality", name=name, numbers=(number,), num_images=num_images)


def write_pictures(directory: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    for i in range(24):
        for k in range(2):
            path = directory / f"{i:05d}" / "samples" / f"{k:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.kron(rng.integers(0, 256, (4, 4, 3), np.uint8), np.ones((8, 8, 1), np.uint8))).save(path)
    return directory


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
    pictures = [write_pictures(written / f"s{n}", n) for n in range(4)]
    results(written / "report", [written / n for n in ("a", "b", "q1", "q2")], pictures)
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
    results(written / "report", [written / n for n in ("a", "b", "q1", "q2")], pictures)
    assert (written / "report" / "index.html").stat().st_mtime_ns == before


def test_csv_and_markdown_hold_the_same_numbers(written):
    results(written / "report", [written / "a", written / "b"])
    with open(written / "report" / "tables.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    measured = {(row["model"], row["metric"]): float(row["value"]) for row in rows if row["printed"] == "0"}
    assert measured["TA+IA", "geneval/overall"] == geneval("TA+IA", 0.8, 1).number("geneval/overall").value
    assert sum(row["printed"] == "1" for row in rows) == 6 * 16 + 15 * 7 + 14 * 7 + 8 * 6 + 10 * 3 * 2
    markdown = (written / "report" / "tables.md").read_text(encoding="utf-8")
    assert "| CAD-I, TA+IA | 6.62 | 91.72 | 0.80 | 0.70 | 0.90 | 0.76 | 8.53 | 38.17 |" in markdown
    assert "as printed" in markdown


def test_intervals_and_the_reasons_for_none_stand_in_every_table(tmp_path):
    def number(metric, value, *ends, interval):
        low, high = ends or (None, None)
        about = Protocol(metric=metric.split("/")[0], name="full", images=100)
        return Number(metric=metric, value=value, low=low, high=high, n=100, interval=interval, protocol=about)

    jackknife, few = "jackknife over prompts", "none: 12 prompts | at least 20 are needed"
    numbers = (
        number("fid", 9.5, 9.1, 9.9, interval=jackknife),
        number("kid", 0.0123, 0.0101, 0.0145, interval=jackknife),
        number("precision/full", 0.7, 0.62, 0.78, interval=jackknife),
        number("cmmd", 1.5, interval=few),
        number("recall/full", 0.4, interval=few),
    )
    write_scores(tmp_path / "q", Scores(kind="quality", name="m", numbers=numbers))
    assert read_scores(tmp_path / "q").numbers == numbers
    results(tmp_path / "report", [tmp_path / "q"])
    markdown = (tmp_path / "report" / "tables.md").read_text(encoding="utf-8")
    cells = "9.50 (9.10 to 9.90) | 0.0123 (0.0101 to 0.0145) | 0.70 (0.62 to 0.78) | 1.50 | 0.40 |"
    assert f"| m | {cells}" in markdown
    assert "- No interval for m: CMMD, Recall (full) (12 prompts \\| at least 20 are needed)" in markdown
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "<td>9.50<small>9.10 to 9.90</small></td>" in page
    assert "No interval for m: CMMD, Recall (full) (12 prompts | at least 20 are needed)" in page
    plots = "".join(re.findall(r"<svg[^>]*>", page))
    assert "Precision (full)" in plots
    assert "KID" not in plots  # a distance is no share, however small it is
    with open(tmp_path / "report" / "tables.csv", encoding="utf-8", newline="") as file:
        rows = {row["metric"]: row for row in csv.DictReader(file) if row["model"] == "m"}
    assert (rows["kid"]["low"], rows["kid"]["high"], rows["kid"]["interval"]) == ("0.0101", "0.0145", jackknife)
    assert (rows["cmmd"]["low"], rows["cmmd"]["interval"]) == ("", few)


def test_the_report_says_how_its_intervals_came_about(tmp_path):
    about = Protocol(metric="geneval/counting", name="g")
    number = Number(metric="geneval/counting", value=0.5, low=0.4, high=0.6, n=9, protocol=about)
    given = {
        name: Scores(kind=kind, name=name, numbers=(replace(number, interval=how),))
        for name, kind, how in (
            ("new", "geneval", WILSON),
            ("clip", "quality", "bootstrap over prompts, 9 resamples"),
            ("fid", "quality", "jackknife over prompts"),
            ("folder", "quality", "jackknife over pictures"),
        )
    }
    read = {}
    for name, scores in given.items():
        write_scores(tmp_path / name, scores)
        read[name] = read_scores(tmp_path / name)
    reference = (
        "of distances to a reference, precision, recall, density and coverage the jackknife's, the reference held"
    )
    parts = {
        "new": "of shares and percentages score intervals (Wilson's)",
        "clip": "of CLIPScores the bootstrap's",
        "fid": f"{reference} fixed",
        "folder": f"{reference} fixed (over pictures, where nothing is known of prompts)",
    }
    for names in (["new"], ["clip"], ["fid"], ["folder"], ["new", "clip", "fid"]):
        expected = f"Ranges are 95% intervals over prompts: {'; '.join(parts[name] for name in names)}."
        assert about_intervals(measured_tables([read[name] for name in names])) == expected
    assert about_intervals(printed_tables()) == ""


def test_unlike_protocols_stand_apart_unless_forced():
    a, b, c = geneval("a", 0.5), geneval("b", 0.5, 1), geneval("c", 0.5, 2, encoder_sha256="f" * 64)
    tables = measured_tables([a, b, c])
    assert [[row.model for row in table.rows] for table in tables] == [["a", "b"], ["c"]]
    assert "encoder_sha256" in tables[1].note
    (forced,) = measured_tables([a, b, c], force=True)
    assert [row.model for row in forced.rows] == ["a", "b", "c"]
    assert "do not compare" in forced.note
    apart = measured_tables([a, geneval("e", 0.5, extended=True)])
    assert [table.title for table in apart] == [
        "GenEval (Table 2), original prompts",
        "GenEval (Table 2), prompts extended by llama",
    ]


def test_the_printed_numbers_are_consistent_with_each_other():
    """Overall is the mean of the six tasks wherever the paper prints both, to its two digits; one row is a misprint."""
    tables = {table.title: table for table in printed_tables()}
    off = []
    for title, table in tables.items():
        if "Table 2" not in title:
            continue
        for row in table.rows:
            values = [cell.value for cell in row.cells if cell]
            if values and abs(np.mean(values[1:]) - values[0]) > 0.0151:
                off.append((title, row.model, bool(row.note)))
    assert ("Table 2: GenEval, original prompts, as printed", "CAD-I, AIO", True) in off
    assert not [entry for entry in off if entry[2] is False]
    fid = {
        row.model: row.cells[0].value for row in tables["Table 1: ImageNet validation, 50k pictures, as printed"].rows
    }
    five = next(table for title, table in tables.items() if "Table 5" in title)
    by_p = {row.model: row.cells[0].value for row in five.rows}
    assert (fid["DiT-I, TA"], fid["CAD-I, TA"]) == (by_p["DiT-I, p = 0"], by_p["CAD-I, p = 0"])
    assert (fid["DiT-I, TA+IA"], fid["CAD-I, TA+IA"]) == (8.52, 6.62)


def test_tables_4_and_5_and_the_curves():
    scores = [quality("m", 9.0), geneval("m", 0.5), geneval("m", 0.9, 1, extended=True), quality("alone", 3.0)]
    (table,) = ablation_tables(scores)
    assert [row.model for row in table.rows] == ["m"]
    assert table.rows[0].cells[0].value == 9.0
    assert table.rows[0].cells[1].value < table.rows[0].cells[2].value
    points = [quality("m", 9, 300), quality("m", 7, 100), quality("n", 5, 100), quality("m", 1, 200, images=7)]
    assert curve_points(points, "fid") == [("", {"m": [(100, 7.0), (300, 9.0)]})]
    assert label("clip_score/legacy-cut") == "CLIPScore (legacy-cut) \u2191"
    assert label("dpg/official/overall") == "Overall (official) \u2191"
    assert label("fid") == "FID \u2193"


def test_fid_beside_geneval_is_that_of_the_last_step():
    steps = [quality("m", 9.0, 100), quality("m", 7.0, 300), quality("m", 8.0, 200)]
    assert ablation_tables([*steps, geneval("m", 0.5)])[0].rows[0].cells[0].value == 7.0


def test_no_column_mixes_protocols_that_only_later_rows_share():
    """The first row has FID alone; the others' recall is of two networks."""

    def more(name, encoder):
        scores = quality(name, 5.0)
        about = Protocol(metric="recall/full", name="full", encoder=encoder)
        recall = Number(metric="recall/full", value=0.5, n=100, protocol=about)
        return replace(scores, numbers=(*scores.numbers, recall))

    a, b, c = quality("a", 4.0), more("b", "x"), more("c", "y")
    tables = measured_tables([a, b, c])
    assert [[row.model for row in table.rows] for table in tables] == [["a", "b"], ["c"]]
    assert [table.note for table in tables] == [
        "",
        "Apart, and not paired with the models above, for its protocols differ: encoder: 'x' vs 'y'",
    ]
    (forced,) = measured_tables([a, b, c], force=True)
    assert "do not compare" in forced.note
    assert not measured_tables([a, b], force=True)[0].note


def test_fid_beside_geneval_keeps_unlike_protocols_apart():
    scores = [quality("a", 9.0), quality("b", 8.0, images=7), quality("c", 7.0)]
    scores += [geneval(name, 0.5) for name in "abc"]
    tables = ablation_tables(scores)
    assert [[row.model for row in table.rows] for table in tables] == [["a", "c"], ["b"]]
    assert tables[1].note.startswith("Protocols: see the tables above. Apart, ")
    assert tables[1].note.endswith("its protocols differ: images: 100 vs 7")
    (forced,) = ablation_tables(scores, force=True)
    assert [row.model for row in forced.rows] == ["a", "b", "c"]
    assert "do not compare" in forced.note


def test_every_protocol_has_its_curves():
    """A single number by another protocol, given first, takes no curve away."""
    points = [quality("m", 1, 100, images=7), *(quality("n", i, i) for i in (100, 200, 300))]
    assert curve_points(points, "fid") == [("", {"n": [(100, 100), (200, 200), (300, 300)]})]
    points += [quality("m", 2, 200, images=7)]
    (_, first), (apart, second) = curve_points(points, "fid")
    assert (first, second.keys(), apart) == ({"m": [(100, 1), (200, 2)]}, {"n"}, "images: 7 vs 100")
    steps = [replace(geneval("m", 0.5, extended=long), num_images=i) for i in (1, 2) for long in (False, True)]
    titles = [apart for apart, _ in curve_points(steps, "geneval/overall")]
    assert titles == ["", "prompts extended by llama"]


def test_the_digits_of_a_column_are_one_number(written):
    numbers = {"a": (0.08, 0.03, 0.14), "b": (0.31, 0.25, 0.4), "c": (0.0123, None, None)}
    scores = []
    for name, (value, low, high) in numbers.items():
        about = Protocol(metric="m", name="m")
        scores.append(
            Scores(
                kind="quality",
                name=name,
                numbers=(Number(metric="m", value=value, low=low, high=high, n=9, protocol=about),),
            )
        )
    for chosen, cells in ((scores, ["0.08 (0.03 to 0.14)", "0.31 (0.25 to 0.40)", "0.01"]), (scores[2:], ["0.0123"])):
        (table,) = measured_tables(chosen)
        found = [
            f"{c.text(size)}{f' ({c.interval(size)})' if c.interval(size) else ''}"
            for row in table.rows
            for c, size in zip(row.cells, table.sizes())
        ]
        assert found == cells
    results(written / "report", [written / "a"])
    for name in ("index.html", "tables.md"):
        text = (written / "report" / name).read_text(encoding="utf-8")
        assert "0.0500" not in text  # the paper prints 0.05
        assert "0.0400" not in text


def test_tables_of_pictures_say_which():
    about = {"reference": "r" * 64, "reference_images": 30_000}
    facts = {"size": "256", "prompts": "COCO's captions", "reference": "val2014"}
    coco = replace(quality("m", 9.0, **about), facts=facts)
    other = quality("m", 9.0, reference="s" * 64, reference_images=50_000)
    assert [table.title for table in measured_tables([coco, other])] == [
        "Picture quality (Table 1): 100 pictures of 256 px by COCO's captions, against 30,000 of val2014",
        "Picture quality (Table 1): 100 pictures, against 50,000",
    ]


def test_a_model_has_one_colour_and_the_judges_take_turns(written):
    """A judge of 0..100 does not push one of 0..1 out of the drill-down."""
    for name, skill in (("TA", 0.2), ("TA+IA", 0.9)):
        items = [
            {"prompt": i, "sample": 0, "file": f"{i:05d}/samples/0000.png", "text": f"dense {i}", "reason": "no: Hat?"}
            | {"values": {"dpg/fixed/overall": 100 * skill}}
            for i in range(24)
        ]
        about = Protocol(metric="dpg/fixed/overall", name="dpg-1")
        number = Number(metric="dpg/fixed/overall", value=100 * skill, n=24, protocol=about)
        write_scores(written / f"dpg-{name}", Scores(kind="dpg", name=name, numbers=(number,), items=tuple(items)))
    paths = [written / name for name in ("a", "b", "dpg-TA+IA", "dpg-TA")]
    pictures = [write_pictures(written / f"s{n}", n) for n in range(4)]
    results(written / "report", paths, pictures)
    text = (written / "report" / "index.html").read_text(encoding="utf-8")
    cards = re.findall(r'<p class="prompt">(.*?)</p>', text)
    assert [card.startswith("dense") for card in cards] == [False, True] * 12
    found = set(re.findall(r'<div class="arm-(\d)"><h3>(.*?)</h3>', text))
    assert found == {("0", "TA"), ("1", "TA+IA")}
    assert "Overall (fixed) 90.00. no: Hat?" in text
    assert "judged right: found &lt;b&gt;fox" in text


FOREIGN = "a-model-of-somebody-else-with-a-name-that-does-not-break-anywhere-at-all"


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(browser, written, width):
    """Nothing is wider than the screen; each picture is reached by keyboard, enlarged, and put back by Escape."""
    llama = Extender(model=f"lab/{'llama' * 20}@{'0' * 40}", prompt="t", seed=0)
    scores = geneval(FOREIGN, 0.5, 2)
    write_scores(written / "c", replace(scores, numbers=tuple(
        replace(number, protocol=replace(number.protocol, extender=llama)) for number in scores.numbers
    )))  # fmt: skip
    pictures = [write_pictures(written / f"s{n}", n) for n in range(5)]
    results(written / "report", [written / n for n in ("a", "b", "c", "q1", "q2")], pictures)
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
    pictures = [write_pictures(written / f"s{n}", n) for n in range(4)]
    results(written / "report", [written / n for n in ("a", "b", "q1", "q2")], pictures)
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
        results(tmp_path / "report", [tmp_path / "a"])


@pytest.mark.parametrize("kind", ["geneval", "dpg", "quality"])
def test_pictures_that_were_not_judged_are_refused(tmp_path, kind):
    """Verdicts beside another model's pictures would look like any others."""
    line = {"prompt": "a fox", "tag": "colors"}
    mine, other = (write_samples(tmp_path / name, [{**line, "n": name}] * 6) for name in ("mine", "other"))
    (other / "00000" / "samples" / "0000.png").write_bytes((other / "00001" / "samples" / "0000.png").read_bytes())
    manifest = json.loads((other / "manifest.json").read_text())  # of another model
    manifest["config"]["model"] = "other"
    (other / "manifest.json").write_text(json.dumps(manifest))
    place = tmp_path / "scores" / "original" if kind == "geneval" else tmp_path / "scores"
    if kind == "quality":
        config = {"samples": find_pictures(mine, "sample").sha256}
        stage = open_stage(tmp_path / "scores", stage="evaluate quality", config=config)
    else:
        inputs = {"original" if kind == "geneval" else "samples": mine}
        stage = open_stage(tmp_path / "scores", stage="evaluate", config={}, inputs=inputs)
    write_scores(place, geneval("m", 0.5, prompts=6))
    stage.finish({})
    for path in (place, place / "scores.json"):
        with pytest.raises(UserError, match=r"other is not what .* judged; give the directories in the order"):
            results(tmp_path / "out", [path], [other])
    with pytest.raises(UserError, match="nowhere: there is no such directory"):
        results(tmp_path / "out", [place], [tmp_path / "nowhere"])
    results(tmp_path / "out", [place], [mine])
    assert (tmp_path / "out" / "index.html").is_file()
    (mine / "00001" / "samples" / "0001.png").write_bytes(b"no picture")
    if kind != "quality":
        with pytest.raises(UserError, match=r"00001/samples/0001\.png: is not a readable image"):
            results(tmp_path / "again", [place], [mine])
