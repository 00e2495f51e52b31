"""Prompts in the style of captions: rules from what captions have in common."""

from tessera.pretrained.text_encoders import split_words
from tessera.prompts.style import extend_in_style

GROUNDS = ("on a pale ground", "on a dark ground")
LONG = [
    f"A drawing of a {color} {thing}, seen from the side, in a flat style {GROUNDS[n % 2]}."
    for n, (color, thing) in enumerate((c, t) for c in ("red", "blue") for t in ("cup", "boat", "door", "apple"))
]
SHORT = [" ".join(caption.split()[4:6]).rstrip(",") for caption in LONG]


def test_the_common_beginning_and_clauses_of_the_longer_captions():
    drawn = {extend_in_style("a green kite", SHORT + LONG, seed) for seed in range(20)}
    assert drawn == {f"A drawing of a green kite, seen from the side, in a flat style {ground}." for ground in GROUNDS}
    assert extend_in_style("a green kite", LONG, 3) == extend_in_style("a green kite", LONG, 3)


def test_what_one_image_shows_is_in_no_rule():
    odd = [f"{caption.rstrip('.')}, next to a {n} o'clock bell." for n, caption in enumerate(["nine", "ten"])]
    words = set(split_words(extend_in_style("cup", LONG + odd, 0)))
    assert not words & {"bell", "next", "clock"}
    assert "boat" not in words


def test_a_prompt_that_says_it_already_and_captions_without_style():
    begun = extend_in_style("A drawing of a red cup", LONG, 0)
    assert begun.count("A drawing of a") == 1
    assert extend_in_style(begun, LONG, 0).count("flat style") == 1
    assert extend_in_style("a cup", ["one", "two things", "more of three"], 0) == "a cup"
    assert extend_in_style("a cup", [], 0) == "a cup"


SHOWS = [
    f"The image shows {what}, in soft light, in front of a plain wall."
    for what in ("a red cup", "an old boat", "two blue doors", "a green apple", "an owl", "three kites", "the tower")
]


def test_a_prompt_keeps_its_own_article_or_number():
    begun = {"a dog": "a dog", "An owl": "an owl", "the sea": "the sea", "two dogs": "two dogs", "3 dogs": "3 dogs"}
    for captions, begin in ((SHORT + LONG, "A drawing of"), (SHOWS, "The image shows")):
        for prompt, kept in begun.items():
            assert extend_in_style(prompt, captions, 0).startswith(f"{begin} {kept}")
    assert extend_in_style("green kite", SHORT + LONG, 0).startswith("A drawing of a green kite")
    assert extend_in_style("A drawing of an owl", SHORT + LONG, 0).count("drawing") == 1
    single = [f"The image shows a single {color} cup." for color in ("red", "blue", "green", "pink")]
    assert extend_in_style("a dog", single, 0).startswith("The image shows a single dog")
    assert extend_in_style("two dogs", single, 0).startswith("The image shows two dogs")
    bare = [f"A {color} {thing}." for color in ("red", "blue") for thing in ("cup", "boat", "door", "apple")]
    assert extend_in_style("two dogs", bare, 0) == "two dogs"  # an article alone is no beginning
