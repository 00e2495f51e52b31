"""Templates: every text escaped, what is missing is an error."""

import pytest

from tessera.report.render import group_rejects, render


def page(**more):
    return {"title": "<b>x & y</b>", "lead": "l", "facts": [], "samples": [], "column": 10, "rejects": []} | {
        "all": None,
        **more,
    }


def test_texts_are_escaped_and_styles_are_not():
    html = render("dataset.html.j2", page(rejects=group_rejects({"<i>.png": "bad <u>"})))
    assert "&lt;b&gt;x &amp; y&lt;/b&gt;" in html
    assert "<b>x" not in html
    assert "&lt;i&gt;.png" in html
    assert "main > section:first-child" in html  # CSS stays as it is


def test_a_page_without_a_part_is_refused():
    from jinja2 import UndefinedError

    with pytest.raises(UndefinedError, match="facts"):
        render("dataset.html.j2", {name: value for name, value in page().items() if name != "facts"})


def test_rejects_are_grouped_the_most_frequent_first():
    rejects = {f"{n}.png": "empty" for n in range(10)} | {"z.png": "not an image"}
    first, second = group_rejects(dict(reversed(rejects.items())))
    assert (first["reason"], first["count"]) == ("empty", 10)
    assert first["names"] == "0.png, 1.png, 2.png, 3.png, 4.png, 5.png, 6.png, 7.png and 2 more"
    assert second == {"reason": "not an image", "count": 1, "names": "z.png"}
