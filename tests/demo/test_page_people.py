"""The page for everybody: by phone, in the dark, by keyboard; for several at once."""

import pytest

from tiny.chromium import DESK, PHONE, check_keyboard, faults
from tiny.demo import draw, fill

TABS = ("Draw", "Data", "Runs")


def opened(context, server):
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(server.address)
    page.wait_for_selector("#prompt textarea")
    return page


@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("colors", ["light", "dark"])
def test_every_tab_for_everybody(browser, server, viewport, colors):
    context = browser.new_context(viewport=viewport, color_scheme=colors)
    page = opened(context, server)
    assert page.evaluate("document.body.classList.contains('dark')") == (colors == "dark")
    draw(page, "a red circle", count=2, steps=3)
    page.locator("#gallery .grid-container button").first.click()
    page.wait_for_selector("#settings td")
    for tab, shown in zip(TABS, ("#settings td", "#found .cards img", "#runs svg[role=img] >> visible=true")):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_selector(shown)
        assert faults(page) == [], tab
        width = page.evaluate("document.querySelector('.gradio-container').clientWidth")
        assert width == min(viewport["width"], 1180), f"{tab} is as wide as what it shows"
        check_keyboard(page)
    context.close()


def test_all_of_it_by_keyboard(browser, server):
    context = browser.new_context(viewport=DESK)
    page = opened(context, server)
    page.locator("#prompt textarea").focus()
    page.keyboard.type("a blue star")
    page.locator("#steps input").fill("3")
    page.locator("#draw").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#gallery .grid-container img")
    assert "a blue star" in page.locator("#gallery .grid-container img").first.get_attribute("alt")
    page.locator("#gallery .grid-container button").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#gallery .preview")
    page.wait_for_selector("#settings >> text=a blue star")
    page.keyboard.press("Escape")
    page.wait_for_selector("#gallery .preview", state="detached")
    page.get_by_role("tab", name="Draw").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#found .cards img")
    context.close()


def test_who_waits_is_told_and_who_closes_the_page_gives_up_the_turn(browser, server):
    context = browser.new_context()
    first, second = opened(context, server), opened(context, server)
    for page, steps, count in ((first, 1000, 8), (second, 3, 1)):
        fill(page, "prompt", "a star")
        fill(page, "steps", steps)
        fill(page, "count", count)
    first.click("#draw")
    first.wait_for_selector("#status progress")
    second.click("#draw")
    second.wait_for_selector("#status >> text=Waiting: 1 drawing comes before this one.")
    second.click("#stop")
    second.wait_for_selector("#status >> text=Stopped before it began.")
    second.click("#draw")
    second.wait_for_selector("#status >> text=Waiting")
    first.close()
    second.wait_for_selector("#gallery .grid-container img")
    context.close()
