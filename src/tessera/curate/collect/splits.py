"""Splits of a set, told by the names of its folders and files: train, val and test in any case and spelling.

"Train", "seg_train", "TrainingSet", "train2017", "valid", "dev" and "Testing" all name a split. So does no word that
only contains one ("restrain"), nor a name with two of them ("train_test").
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

from tessera.config import UserError

Split = Literal["train", "val", "test", "all"]
"""The part of a set to take; "all" = every part."""
SPLITS: tuple[str, ...] = get_args(Split)

_WORDS = {
    "train": "train trainval training",
    "val": "val valid validation validate dev eval evaluation",
    "test": "test testing",
}
_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words.split()}
_NEUTRAL = "set sets split data dataset images image imgs img photos folder part"  # say nothing themselves
_JOINED = re.compile(rf"(?<![^\W\d_])({'|'.join(_SPLIT_OF)})({'|'.join(_NEUTRAL.split())})(?![^\W\d_])")  # "trainset"
_TOKENS = re.compile(r"[^\W\d_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def split_of(name: str) -> tuple[str, str] | None:
    """Return the split that a name says, and its frame: the name without the word and numbers; None without a split."""
    for spelled in (_CAMEL.sub(" ", name), name):  # "trainImages"; "trainVal"
        words = _TOKENS.findall(_JOINED.sub(r"\1 \2", spelled.lower()))
        found = [word for word in words if word in _SPLIT_OF]
        if len(found) == 1:
            return _SPLIT_OF[found[0]], " ".join("*" if word == found[0] else word for word in words)
    return None


def says_nothing(name: str) -> bool:
    """Return whether a folder's name holds nothing but words like "images" or "data"."""
    words = _TOKENS.findall(name.lower())
    return bool(words) and {*words} <= {*_NEUTRAL.split()}


def splits_among(names: Iterable[str]) -> tuple[dict[str, str], bool]:
    """Return name -> split of the names of one folder that say one, and True if they are splits beyond doubt.

    They are where two names differ in the split alone, such as seg_train and seg_test. Without such a pair a class may
    be meant, and only names are returned that hold nothing else but words like "set" or "images".
    """
    found = {name: said for name in names if (said := split_of(name)) is not None}
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for split, frame in found.values():
        splits[frame].add(split)
    if any(len(several) > 1 for several in splits.values()):
        return {name: split for name, (split, frame) in found.items() if len(splits[frame]) > 1}, True
    return {
        name: split for name, (split, frame) in found.items() if {*frame.split()} <= {"*", *_NEUTRAL.split()}
    }, False


def split_of_path(path: str) -> tuple[str, str] | None:
    """Return `split_of` the last part of a file's path that names a split; None if none does."""
    for part in reversed(path.split("/")):
        if (said := split_of(part)) is not None:
            return said
    return None


def check_named(source: Path, split: Split, first: str) -> None:
    """Raise UserError where val or test is asked for, and neither the source nor the place in it of its first image
    says that split."""
    said = map(split_of, (*source.resolve().parts, *first.split("/")))
    if split in ("val", "test") and split not in {name for name, _ in filter(None, said)}:
        raise UserError(
            f"{source}: no folder or file is named for the split {split}, so all of it would be taken, such as"
            f" {first!r}; leave --split out if that is meant"
        )
