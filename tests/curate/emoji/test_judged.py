"""Captions of emoji that ask for a color, a count, another ground."""

import json

import numpy as np
import pytest

from tessera.config import UserError
from tessera.curate.emoji.judged import CONCEPTS, EmojiCaptions

LONG = "A drawing of an owl, birds, wise, in the flat style of Twemoji, in brown and white on a blue background."


@pytest.fixture
def captions(tmp_path):
    row = {"file_name": "birds/owl twemoji.png", "long": LONG, "short": "an owl"}
    (tmp_path / "captions.jsonl").write_text(json.dumps(row) + "\n")
    return EmojiCaptions(tmp_path / "captions.jsonl")


def test_a_caption_keeps_its_words_but_for_what_is_asked(captions):
    rng = np.random.default_rng(0)
    text, ground, own = captions.tell("owl", None, None, rng), " background.", LONG.rpartition(" on a ")[0]
    assert text.startswith(f"{own} on a ")
    assert text.endswith(ground)
    assert "white background" not in text  # a color of the drawing itself
    red = captions.tell("owl", "red", "three owls", rng)
    assert red.startswith("A drawing of three owls, birds, wise, in the flat style of Twemoji, in red on a ")


def test_names_that_no_drawing_has(captions):
    with pytest.raises(UserError, match="concept 'cat': no drawing of the set has this name"):
        captions.tell("cat", None, None, np.random.default_rng(0))


def test_the_list_is_as_long_as_it_says():
    assert 12 <= len(set(CONCEPTS)) == len(CONCEPTS) <= 100
