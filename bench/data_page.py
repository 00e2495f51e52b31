"""The page of `tessera preview` with 20,000 records in Chromium: first paint, whole list, memory, paging by phone.

    python bench/data_page.py            # makes the page first, about half a minute on an idle core

Images of 32 px, no two alike, with captions of 20 words in 200 classes. Prints the size of the file, seconds from
opening it to the first paint and to the first screen of the list, milliseconds for a search and for the next screen,
and the memory of the page's process after ten screens, in MB. The window is a phone's, 390 x 844.
"""

import argparse
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tessera.files import write_text
from tessera.report.render import render
from tessera.report.sections.all_records import BLOCK, Record, all_records


def images(count: int) -> Iterator[NDArray[np.uint8]]:
    """Yield random images of 4 x 4 colors with a little noise, uint8 (32, 32, 3)."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        colors = rng.integers(0, 256, (4, 4, 3)).repeat(8, 0).repeat(8, 1)
        yield np.clip(colors + rng.integers(-20, 21, (32, 32, 3)), 0, 255).astype(np.uint8)


def make(path: Path, count: int) -> None:
    """Write the page."""
    rng = np.random.default_rng(1)
    words = [f"word{number}" for number in range(2000)]
    records = [
        Record(
            key=f"class {number % 200}/{number:06d}",
            class_name=f"class {number % 200}",
            caption=" ".join(rng.choice(words, 20)),
            source_side=int(rng.integers(20, 900)),
        )
        for number in range(count)
    ]
    page = {"title": "A large set", "lead": "", "facts": [], "samples": [], "column": 10, "rejects": []}
    page |= {"all": all_records(records, images(count)), "block_size": BLOCK}
    write_text(path, render("dataset.html.j2", page))


def memory_of_renderers() -> float:
    """Return the largest proportional memory of a process of Chromium that shows a page, MB."""
    found = [0.0]
    for line in subprocess.run(
        ["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True
    ).stdout.splitlines():
        pid, _, command = line.strip().partition(" ")
        rollup = Path("/proc", pid, "smaps_rollup")
        if "--type=renderer" in command and rollup.exists():
            sizes = [row.split()[1] for row in rollup.read_text().splitlines() if row.startswith("Pss:")]
            found += [int(size) / 1024 for size in sizes]
    return max(found)


def main() -> None:
    """Make the page, open it and print what it takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as player:
        path = Path(folder, "page.html")
        make(path, args.records)
        print(f"{path.stat().st_size / 1e6:.1f} MB")
        browser = player.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.goto(path.as_uri(), wait_until="commit")
        page.wait_for_selector("#records li", timeout=120_000)
        ready = page.evaluate("performance.now()") / 1000
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000
        print(f"first paint after {paint:.2f} s, list after {ready:.2f} s")
        for what, script in (
            ("a search", "document.getElementById('order').value = 'long';"
                         " document.getElementById('order').dispatchEvent(new Event('change'))"),
            ("the next screen", "document.getElementById('after').click()"),
        ):  # fmt: skip
            spent = page.evaluate(f"() => {{ const t = performance.now(); {script}; document.body.offsetHeight;"
                                  " return performance.now() - t }")  # fmt: skip
            print(f"{what}: {spent:.0f} ms")
        for _ in range(9):
            page.evaluate("document.getElementById('after').click()")
            page.mouse.wheel(0, 3000)
            time.sleep(0.2)
        print(f"memory {memory_of_renderers():.0f} MB")
        browser.close()


if __name__ == "__main__":
    main()
