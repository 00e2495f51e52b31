"""GenEval's 553 prompts, made from its published rules (Ghosh et al. 2023, "GenEval", MIT).

Seed 43 gives the published list byte for byte; it ships as the prompt set `geneval` of `tessera generate`.
"""

import hashlib
import json
from typing import Any

import numpy as np

CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "computer mouse", "tv remote", "computer keyboard", "cell phone", "microwave", "oven", "toaster",
    "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
"""COCO's 80 classes in COCO's order, as GenEval calls them."""
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")
SEED = 43
"""The seed of the published list."""
_COUNTS = {2: "two", 3: "three", 4: "four"}
_PERSON = CLASSES.index("person")

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")

Line = dict[str, Any]


def draw_prompts(seed: int = SEED, per_task: int = 100) -> list[Line]:
    """The metadata lines: one object of each class, then `per_task` of each other task, without repetitions."""
    rng = np.random.default_rng(seed)
    lines = _single_objects(rng)
    for task in (_two_objects, _counting, _color, _position, _color_attribution):
        lines += [task(rng) for _ in range(per_task)]
    return list({json.dumps(line): line for line in lines}.values())


def to_bytes(lines: list[Line]) -> bytes:
    """The lines as the published file has them: JSON in the order of the fields, one a line."""
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def prompts_sha256(lines: list[Line]) -> str:
    """The identity of a prompt set: the SHA-256 of its file as `to_bytes` writes it."""
    return hashlib.sha256(to_bytes(lines)).hexdigest()


def _single_objects(rng: np.random.Generator) -> list[Line]:
    names = [CLASSES[i] for i in rng.choice(len(CLASSES), size=len(CLASSES), replace=False)]
    return [_line("single_object", [_clause(name)], _a(name)) for name in names]


def _two_objects(rng: np.random.Generator) -> Line:
    first, second = _two(rng, CLASSES)
    return _line("two_object", [_clause(first), _clause(second)], f"{_a(first)} and {_a(second)}")


def _counting(rng: np.random.Generator) -> Line:
    name = CLASSES[rng.choice(len(CLASSES))]
    count = int(rng.integers(min(_COUNTS), max(_COUNTS), endpoint=True))
    plural = f"{name}es" if name.endswith("s") else f"{name}s"
    line = _line("counting", [_clause(name, count)], f"{_COUNTS[count]} {plural}")
    return {"tag": line["tag"], "include": line["include"], "exclude": [_clause(name, count + 1)], **line}


def _color(rng: np.random.Generator) -> Line:
    name = _not_a_person(rng.choice(len(CLASSES) - 1))
    color = COLORS[rng.choice(len(COLORS))]
    return _line("colors", [_clause(name, color=color)], f"{_a(color)} {name}")


def _position(rng: np.random.Generator) -> Line:
    first, second = _two(rng, CLASSES)
    relation = RELATIONS[rng.choice(len(RELATIONS))]
    clauses = [_clause(second), _clause(first, position=[relation, 0])]
    return _line("position", clauses, f"{_a(first)} {relation} {_a(second)}")


def _color_attribution(rng: np.random.Generator) -> Line:
    names = [_not_a_person(i) for i in rng.choice(len(CLASSES) - 1, size=2, replace=False)]
    colors = _two(rng, COLORS)
    clauses = [_clause(name, color=color) for name, color in zip(names, colors)]
    return _line("color_attr", clauses, " and ".join(f"{_a(color)} {name}" for name, color in zip(names, colors)))


def _two(rng: np.random.Generator, names: tuple[str, ...]) -> tuple[str, str]:
    first, second = rng.choice(len(names), size=2, replace=False)
    return names[first], names[second]


def _not_a_person(number: int) -> str:
    """Of the 79 classes that may have a colour, the one of that number."""
    return CLASSES[(number + 1 + _PERSON) % len(CLASSES)]


def _clause(name: str, count: int = 1, **more: Any) -> Line:
    return {"class": name, "count": count, **more}


def _line(tag: str, clauses: list[Line], said: str) -> Line:
    return {"tag": tag, "include": clauses, "prompt": f"a photo of {said}"}


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
