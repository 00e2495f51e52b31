"""Names of emoji in words."""

from tessera.curate.emoji.concepts import Concept, code_of, read_concepts
from tiny.emoji import cache_in, tiny_emoji


def test_flags_keycaps_and_near_duplicates_are_left_out(tmp_path, monkeypatch):
    cache_in(tmp_path, monkeypatch)
    tiny_emoji(monkeypatch)
    found = {concept.name: concept for concept in read_concepts()}
    assert list(found) == ["red apple", "banana", "cat", "ox", "red heart"]
    heart = found["red heart"]
    assert (heart.code, heart.family, heart.tags) == ("2764", "hearts", ("love",))
    assert code_of("1F468-200D-2764-FE0F") == "1f468-200d-2764"


def test_articles():
    said = (
        *("a red apple", "an orange", "an umbrella", "a unicorn", "an hourglass done", "socks", "dumplings with sauce"),
        *("a cactus", "a glass of milk", "cooked rice", "one o'clock", "Leo", "a pair of socks", "an up-right arrow"),
        *("a one-piece swimsuit", "a euro banknote", "an SOS button"),
    )
    for text in said:
        name = text.removeprefix("a ").removeprefix("an ")
        assert _concept(name, "zodiac signs" if name == "Leo" else "things").phrase == text


def _concept(name: str, family: str) -> Concept:
    return Concept(code="0", text="x", name=name, family=family, tags=())
