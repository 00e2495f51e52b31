"""The word encoder: the same vectors in every process, nearly orthogonal, of unit variance."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.config import UserError
from tessera.pretrained.text_encoders import END, Words, load_text_encoder, split_words

CAPTION = "A red circle, left of a large blue star."


def test_words_of_a_text():
    assert split_words("An image of Golden-Retriever_2's!") == ["an", "image", "of", "golden", "retriever", "2's"]
    assert split_words("l\u2019\u00e9t\u00e9  e\u0301te\u0301") == ["l'\u00e9t\u00e9", "\u00e9t\u00e9"]
    assert split_words("\u732b \U0001f600 'quoted'") == ["\u732b", "quoted"]
    assert split_words(" ... ") == []


def test_encoding_is_one_vector_per_word_and_the_end():
    encoder = Words(width=48)
    long, short, empty = encoder.encode([CAPTION, "red star", ""])
    assert [array.dtype for array in (long, short, empty)] == [np.float32] * 3
    assert long.shape == (len(split_words(CAPTION)) + 1, 48)
    assert short.shape == (3, 48)
    assert np.array_equal(short[0], long[1])
    assert np.array_equal(short[1], long[-2])
    assert np.array_equal(empty, encoder.null_condition)
    assert np.array_equal(empty[0], long[-1])


@given(st.text(max_size=40), st.sampled_from([1, 7, 64]))
def test_entries_have_unit_variance(text, width):
    for row in Words(width).encode([text])[0]:
        assert np.square(row, dtype=np.float64).mean() == pytest.approx(1, rel=1e-5)


def test_different_words_are_nearly_orthogonal_and_entries_centred():
    vectors = np.concatenate([rows[:-1] for rows in Words(64).encode([f"word{i}" for i in range(400)])])
    cosines = (vectors @ vectors.T / 64)[np.triu_indices(400, 1)]
    assert abs(cosines.mean()) < 0.002
    assert cosines.std() == pytest.approx(1 / 8, rel=0.05)
    assert np.abs(cosines).max() < 0.75
    assert abs(vectors.mean()) < 0.02


def test_known_values():
    # Pinned: encoded sets and exported models made earlier must keep their meaning.
    digest = hashlib.sha256(np.concatenate(Words(64).encode([CAPTION, ""])).round(4).tobytes()).hexdigest()
    assert digest[:16] == "dc16923e94e5a9af"


def test_same_in_another_process_and_in_any_order():
    source = "from tessera.pretrained.text_encoders import Words"
    code = f"{source}; print(Words(64).encode(['zebra {CAPTION}'])[0].tobytes().hex())"
    other = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)}, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    here = Words(64)
    here.encode(["something met earlier"])
    assert here.encode([f"zebra {CAPTION}"])[0].tobytes().hex() == other.stdout.strip()


def test_cut_keeps_the_end_and_is_counted():
    encoder = Words(8, max_tokens=4)
    text = "one two three four five"
    assert encoder.count_tokens([text, ""]) == [6, 1]
    cut = encoder.encode([text])[0]
    assert cut.shape == (4, 8)
    assert np.array_equal(cut, encoder.encode(["one two three"])[0])


def test_end_token_is_no_word():
    assert END not in split_words(f"a {END} b")


def test_load_by_id():
    encoder = load_text_encoder("words:32")
    assert (encoder.id, encoder.width, encoder.null_condition.shape) == ("words:32", 32, (1, 32))
    assert load_text_encoder("words").id == "words:64"
    for unknown in ("t5", "words:", "words:x"):
        with pytest.raises(UserError, match=r"unknown text encoder.*words:<width>"):
            load_text_encoder(unknown)
    with pytest.raises(UserError, match="width from 1 to 4096, not 0"):
        load_text_encoder("words:0")
