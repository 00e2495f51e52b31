"""The concepts of emoji: their names, tags and families, from the package emojibase-data."""

import json
import re
from dataclasses import dataclass

from tessera.miniature import with_article
from tessera.packages import Package, fetch, read_archive

NAMES = Package(
    index="npm",
    name="emojibase-data",
    version="17.0.0",
    sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    license="MIT",
    credit="names and tags: emojibase by Miles Johnson, after Unicode CLDR",
)
_DATA, _FAMILIES, _WORDS = (f"package/{name}.json" for name in ("en/data", "meta/groups", "en/messages"))
_NO_GROUPS = {"component", "flags"}
_NO_FAMILIES = {"keycap"}
_NEAR_DUPLICATE = re.compile(r"\bhair\b|: beard|facing right")
"""In the labels of variants that hardly differ from another emoji. Skin tones are no entries of their own."""
_FAMILY_NAMES = {
    "face-costume": "costumed faces",
    "food-asian": "Asian food",
    "food-prepared": "prepared food",
    "person-activity": "people in action",
    "person-fantasy": "fantasy people",
    "person-gesture": "people with gestures",
    "person-resting": "resting people",
    "person-sport": "athletes",
}
_MASS = {"bread", "broccoli", "cheese", "fog", "garlic", "honey", "ice", "money", "rice", "sushi", "thread", "yarn"}


@dataclass(frozen=True, kw_only=True)
class Concept:
    """An emoji, whoever draws it."""

    code: str
    """Its code points in lower-case hex, joined by "-", without variation selectors."""
    text: str
    """The emoji itself."""
    name: str
    """Such as "red apple"."""
    family: str
    """Such as "fruit"."""
    tags: tuple[str, ...]
    """Words that people find it by, but those of its name."""

    @property
    def phrase(self) -> str:
        """The name as a person would type it, with an article where one belongs: "a red apple"."""
        head = re.split(r" (?:with|of|in|on|and|to)\b", self.name)[0].split()[-1]
        plural = head.endswith("s") and not head.endswith(("ss", "us", "is"))
        if plural or head in _MASS or self.family == "zodiac signs" or re.search("o'clock|-thirty", self.name):
            return self.name
        return with_article(self.name)


def code_of(hexcode: str) -> str:
    """Return a `Concept.code` for code points in hex, as packages name their files."""
    return hexcode.lower().replace("-fe0f", "")


def read_concepts() -> list[Concept]:
    """Return all emoji but flags, keycaps, skin tones and other near duplicates, in Unicode's order; fetch their names.

    Raises UserError, as `tessera.packages.fetch`.
    """
    files = dict(read_archive(fetch(NAMES), {_DATA, _FAMILIES, _WORDS}.__contains__))
    entries, numbers, words = (json.loads(files[name]) for name in (_DATA, _FAMILIES, _WORDS))
    said = {entry["key"]: entry["message"] for entry in words["subgroups"]}
    concepts = []
    for entry in sorted(entries, key=lambda entry: entry.get("order", 0)):
        family = numbers["subgroups"].get(str(entry.get("subgroup")))
        group = numbers["groups"].get(str(entry.get("group")))
        if family in {None, *_NO_FAMILIES} or group in {None, *_NO_GROUPS} or _NEAR_DUPLICATE.search(entry["label"]):
            continue
        name = entry["label"].replace("\u2019", "'").translate({0x201C: None, 0x201D: None}).replace(": ", " with ")
        concepts.append(
            Concept(
                code=code_of(entry["hexcode"]),
                text=entry["emoji"],
                name=name,
                family=_family_name(family, said[family]),
                tags=tuple(tag for tag in entry.get("tags", ()) if tag.lower() not in name.lower().split()),
            )
        )
    return concepts


def _family_name(key: str, message: str) -> str:
    """Return a family in words: "smiling faces" for ("face-smiling", "smiling")."""
    if key in _FAMILY_NAMES:
        return _FAMILY_NAMES[key]
    if key.startswith("face-"):
        return f"faces {message}" if message.startswith("with") else f"{message.split(' / ')[0]} faces"
    return message.removeprefix("other ").replace(" / ", " and ").replace("&", "and")
