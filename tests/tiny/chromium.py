"""Debian's Chromium, headless, and what a page has to be in it for everybody: by phone, in the dark, by keyboard."""

from contextlib import contextmanager
from pathlib import Path

import pytest

PROGRAM = next((path for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser") if Path(path).exists()), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}

# Sentences about what is wrong in the page as it is now.
_FAULTS = """() => {
  const found = [], root = document.documentElement;
  const seen = e => e.checkVisibility({visibilityProperty: true});
  const said = e => (e.textContent || '').trim().slice(0, 40);
  const named = e => `${e.tagName.toLowerCase()}.${e.className.baseVal ?? e.className} "${said(e)}"`;
  if (root.scrollWidth > root.clientWidth) found.push(`scrolls sideways by ${root.scrollWidth - root.clientWidth} px`);
  for (const e of document.querySelectorAll('img'))
    if (!e.alt.trim() && !(e.hasAttribute('alt') && e.closest('button[aria-label]')))
      found.push(`a picture without alt: ${e.outerHTML.slice(0, 80)}`);
  for (const e of document.querySelectorAll('svg'))
    if (!e.closest('[aria-hidden=true], button, label, .dropdown-arrow') && !e.matches('[role=img][aria-label]'))
      found.push(`a drawing without a name: ${e.outerHTML.slice(0, 80)}`);
  let level = 0;
  for (const e of document.querySelectorAll('h1, h2, h3, h4, h5')) {
    const now = Number(e.tagName[1]);
    if (now > level + 1) found.push(`heading ${now} after ${level}: ${named(e)}`);
    level = now;
  }
  for (const e of document.querySelectorAll('button, a[href], input, textarea, select, summary, [role=region]')) {
    if (!seen(e)) continue;
    const inside = e.matches('input, [role=region]') ? '' : e.textContent;
    const name = e.getAttribute('aria-label') || e.labels?.[0]?.textContent || inside || e.title;
    if (!name.trim()) found.push(`no name to read out: ${e.outerHTML.slice(0, 80)}`);
  }
  for (const e of document.querySelectorAll('*'))
    if (seen(e) && e !== root && e.scrollWidth > e.clientWidth + 1 && /auto|scroll/.test(getComputedStyle(e).overflowX)
        && e.tabIndex < 0 && !e.querySelector('a, button, input, summary, [tabindex]'))
      found.push(`scrolls sideways out of the keyboard's reach: ${named(e)}`);
  const dot = Object.assign(document.createElement('canvas'), {width: 1, height: 1});
  const pen = dot.getContext('2d', {willReadFrequently: true});
  const known = new Map();
  const light = colors => {
    const key = colors.join('|');
    if (!known.has(key)) {
      for (const color of ['#fff', ...colors]) { pen.fillStyle = color; pen.fillRect(0, 0, 1, 1); }
      const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
      const [r, g, b] = [...pen.getImageData(0, 0, 1, 1).data].map(v => linear(v / 255));
      known.set(key, .2126 * r + .7152 * g + .0722 * b);
    }
    return known.get(key);
  };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !seen(e) || e.closest('svg, script, style, [disabled]')) continue;
    const style = getComputedStyle(e), behind = [];
    for (let a = e; a; a = a.parentElement) behind.unshift(getComputedStyle(a).backgroundColor);
    const [one, two] = [light(behind), light([...behind, style.color])].sort((a, b) => b - a);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.6 && style.fontWeight >= 700);
    const ratio = (one + .05) / (two + .05);
    if (ratio < (large ? 3 : 4.5)) found.push(`contrast ${ratio.toFixed(2)} of ${named(e)}`);
  }
  return found;
}"""

# The focus continues from where it was lost: at the first place of the page.
_FROM_THE_START = """() => {
  const first = Object.assign(document.createElement('span'), {tabIndex: -1});
  document.body.prepend(first);
  first.focus();
  first.remove();
}"""

# Numbers what the keyboard has to reach, in the page's order; how many there are.
_REACHABLE = """() => {
  const stops = [...document.querySelectorAll('button, a[href], input, textarea, select, summary, [tabindex]')]
    .filter(e => !e.disabled && e.tabIndex >= 0 && e.checkVisibility({visibilityProperty: true}));
  stops.forEach((e, number) => { e.keyboardStop = number; });
  return stops.length;
}"""

# What has the focus: its number, its name, and whether the focus can be seen; null = the page as a whole.
_FOCUS = """() => {
  const e = document.activeElement, style = getComputedStyle(e);
  if (e === document.body) return null;
  return {
    number: e.keyboardStop ?? -1,
    name: e.outerHTML.slice(0, 100),
    visible: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0 || style.boxShadow !== 'none',
  };
}"""


@contextmanager
def running():
    """Chromium of Playwright; skips the test where one of them is not there."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if PROGRAM is None:
        pytest.skip("there is no chromium in /usr/bin (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=PROGRAM, args=FLAGS)
        yield chromium
        chromium.close()


def faults(page) -> list[str]:
    """What is wrong in the page as it is now, for whoever reads it on a phone, in the dark, or has it read out."""
    return page.evaluate(_FAULTS)


def check_keyboard(page) -> None:
    """Tab reaches everything that can be used, in the page's order, and shows where it is."""
    count = page.evaluate(_REACHABLE)
    page.evaluate(_FROM_THE_START)
    for number in range(count):
        page.keyboard.press("Tab")
        focus = page.evaluate(_FOCUS)
        assert focus is not None, f"{number} of {count} can be reached"
        assert focus["number"] == number, f"stop {number} is {focus['name']}"
        assert focus["visible"], f"the focus on {focus['name']} cannot be seen"
    page.keyboard.press("Tab")
    assert page.evaluate(_FOCUS) is None, "the focus is caught in the page"


def check_file(browser, path) -> None:
    """A page of a file: nothing wrong at any width or in any colors, all of it by keyboard, no request, no error."""
    for viewport in (PHONE, DESK):
        for colors in ("light", "dark"):
            context = browser.new_context(viewport=viewport, color_scheme=colors)
            page = context.new_page()
            requests, errors = [], []
            page.on("request", lambda request, to=requests: to.append(request.url))
            page.on("pageerror", lambda error, to=errors: to.append(str(error)))
            page.goto(path.resolve().as_uri())
            where = f"{viewport['width']} px, {colors}"
            assert faults(page) == [], where
            dark = page.evaluate(
                "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).every(v => v < 60)"
            )
            assert dark == (colors == "dark"), where
            if viewport is PHONE:
                check_keyboard(page)
                for summary in page.locator("summary").all():  # as Enter does; what was folded away is a part too
                    summary.evaluate("e => e.parentElement.open = true")
                assert faults(page) == [], f"{where}, unfolded"
            assert [url for url in requests[1:] if not url.startswith("data:")] == []
            assert errors == []
            context.close()
