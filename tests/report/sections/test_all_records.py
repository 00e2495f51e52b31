"""The list of all records: its data, and what it does in a browser."""

import base64
import io
import json

import numpy as np
from PIL import Image

from tessera.report.render import render
from tessera.report.sections.all_records import BLOCK, Record, all_records

EVIL = "</script><script>document.title = 'broken'</script> <b>bold</b>"


def page_of(count, path):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1) for _ in range(count)]
    images[1] = images[0]
    records = [
        Record(
            key=f"c/{number}",
            class_name="rare" if number == 3 else f"class {number % 2}",
            caption=EVIL if number == 5 else "word " * (number + 1),
            source_side=1000 - number,
        )
        for number in range(count)
    ]
    section = all_records(records, images)
    page = {"title": "Set", "lead": "", "facts": [], "samples": [], "column": 10, "rejects": []}
    path.write_text(render("dataset.html.j2", page | {"all": section, "block_size": BLOCK}), encoding="utf-8")
    return section, images


def test_classes_blocks_and_near_duplicates(tmp_path):
    section, images = page_of(BLOCK + 7, tmp_path / "page.html")
    assert [(row["name"], row["count"]) for row in section.classes] == [("class 0", 104), ("class 1", 102), ("rare", 1)]
    assert (section.near, section.other_classes, section.total) == (2, 0, BLOCK + 7)
    assert [len(json.loads(block)) for block in section.blocks] == [BLOCK, 7]
    drawn = Image.open(io.BytesIO(base64.b64decode(json.loads(section.blocks[1])[6])))
    assert np.abs(np.asarray(drawn).astype(int) - images[-1]).mean() < 12
    index = json.loads(section.index)
    assert index["captions"][5] == EVIL
    assert [index["groups"][number] for number in (0, 1, 2)] == [0, 0, -1]


def test_filters_orders_and_pages_in_a_browser(tmp_path, browser):
    page_of(BLOCK + 7, tmp_path / "page.html")
    page = browser.new_page(viewport={"width": 390, "height": 844})
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto((tmp_path / "page.html").as_uri())

    def shown():
        keys = [key.split(",")[0] for key in page.locator("#records small").all_inner_texts()]
        return keys, page.locator("#where").inner_text()

    keys, where = shown()
    assert (keys[:2], where) == (["c/0", "c/1"], f"1 to 60 of {BLOCK + 7}")
    for _ in range(3):
        page.click("#after")
    keys, where = shown()
    assert (keys[-1], where) == (f"c/{BLOCK + 6}", f"181 to {BLOCK + 7} of {BLOCK + 7}")
    assert page.locator("#after").is_disabled()
    assert page.evaluate("[...document.querySelectorAll('#records img')].every(i => i.naturalWidth === 32)")
    page.select_option("#order", "long")
    assert shown()[0][0] == f"c/{BLOCK + 6}"
    page.select_option("#order", "short")
    assert shown()[0][0] == "c/0"
    page.select_option("#order", "small")
    assert shown()[0][0] == f"c/{BLOCK + 6}"
    page.select_option("#class", label="rare")
    assert shown() == (["c/3"], "1 to 1 of 1")
    page.select_option("#class", "")
    page.check("#near")
    assert shown()[0] == ["c/0", "c/1"]
    page.uncheck("#near")
    page.fill("#words", "BOLD c/5")
    page.wait_for_function("document.getElementById('where').textContent === '1 to 1 of 1'")
    assert page.locator("#records .caption").inner_text() == EVIL
    page.fill("#words", "nowhere")
    page.wait_for_function("document.getElementById('where').textContent === 'nothing found'")
    page.fill("#words", "")
    page.locator("summary").click()
    page.locator("[data-class]", has_text="rare").click()
    assert shown() == (["c/3"], "1 to 1 of 1")
    assert (page.title(), faults) == ("Set", [])
    page.close()
