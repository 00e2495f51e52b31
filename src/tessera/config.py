"""Configurations: frozen dataclasses to JSON and back, strictly, and the lookup of names.

A configuration written next to a result must make that result again, so nothing is guessed on the way back: an unknown
field, a missing one or one of another type is an error that names the field and the nearest known name.
"""

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import importlib.util
import json
import math
import numbers
import operator
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

T = TypeVar("T")


class UserError(ValueError):
    """A mistake in what the user gave. The message is one line that names the file or field and the fix."""


def nearest(name: str, names: Iterable[str]) -> str:
    """Return " did you mean 'x'?" (with the leading space) for the name most like `name`, or "" if none is near."""
    matches = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f" did you mean {matches[0]!r}?" if matches else ""


def to_dict(config: Any) -> dict[str, Any]:
    """Return a dataclass as JSON-able data: tuples become lists, nested dataclasses dicts.

    A field whose type is a union of dataclasses is written with a "kind" entry, the name of the class.
    """
    assert dataclasses.is_dataclass(config), f"{config!r} is not a dataclass"
    return _to_json(config, type(config))


def from_dict(cls: type[T], data: Mapping[str, Any], where: str = "config", path: str = "") -> T:
    """Build the dataclass `cls` from `data`, the inverse of `to_dict`.

    where: a file or a word that begins each message. path: the place of `data` in a larger configuration.
    Supports int, float, bool, str, None, Literal, tuples, Optional, dataclasses and unions of dataclasses; a Mapping
    holds any JSON.
    Raises UserError for an unknown field, a missing one, a wrong type or a value that the class refuses.
    """
    if not isinstance(data, Mapping):
        raise UserError(f"{where}: {path or 'the whole'} must be an object with fields, not {data!r}")
    dot = f"{path}." if path else ""
    hints = _hints(cls)
    for name in data:
        if name not in hints:
            raise UserError(f"{where}: unknown field '{dot}{name}';{nearest(name, hints)} known: {', '.join(hints)}")
    for field in dataclasses.fields(cls):  # type: ignore
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if field.init and field.name not in data and not optional:
            raise UserError(f"{where}: field '{dot}{field.name}' is missing")
    values = {name: _convert(hints[name], value, where, f"{dot}{name}") for name, value in data.items()}
    try:
        return cls(**values)
    except UserError as error:
        raise UserError(f"{where}: {f'{path}: ' if path else ''}{error}") from error


def choose(name: str, registry: Mapping[str, T], what: str, more: str = "") -> T:
    """Return the entry `name` of `registry`. Raises UserError that names the nearest one and all, if there is none."""
    if name not in registry:
        known = ", ".join(registry)
        raise UserError(f"unknown {what} {name!r};{nearest(name, registry)} known: {known}{more}")
    return registry[name]


def lookup(name: str, registry: Mapping[str, T], what: str = "preset") -> T:
    """Return the entry `name` of `registry`, or the function of a user's file for a name like "my_runs.py:big_dit"."""
    if name in registry:
        return registry[name]
    path, colon, attribute = name.rpartition(":")
    if not colon or not path.endswith(".py"):
        return choose(name, registry, what, ", or FILE.py:FUNCTION")
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{what} {file}:{attribute}: there is no file {file}")
    spec = importlib.util.spec_from_file_location(f"tessera_user_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses of the file look their own module up
    with blaming(f"{file}:{attribute}", what):
        spec.loader.exec_module(module)
    # A part is a function, a class, or a record such as `tessera.cutmix.Pattern`.
    things: Mapping[str, Any] = vars(module)
    parts = {key: part for key, part in things.items() if callable(part) or dataclasses.is_dataclass(part)}
    if attribute not in parts:
        near = _near(attribute, [key for key in parts if not key.startswith("_")])
        raise UserError(f"{what} {file}:{attribute}: the file has no function {attribute!r}{near}")
    return things[attribute]


def call(name: str, registry: Mapping[str, Callable[[], T]], what: str = "preset") -> T:
    """Call the function that `lookup` finds and return its result; UserError for what a user's own function raises."""
    function = lookup(name, registry, what)
    with contextlib.nullcontext() if name in registry else blaming(name, what):
        return function()


def load_part(spec: str, registry: Mapping[str, T], what: str, needs: Iterable[str] = ()) -> T:
    """Return the part called `spec`: an entry of `registry`, or NAME of a user's file for "my_parts.py:NAME".

    what: the kind of part, for messages ("captioner"). needs: names of the methods that the part must have.
    Raises UserError for an unknown name, a missing file, a part without these methods, or a file that raises.
    """
    part = lookup(spec, registry, what)
    missing = [name for name in needs if not callable(getattr(part, name, None))]
    if spec not in registry and missing:
        raise UserError(f"{what} {spec}: has no method {missing[0]}(); docs/extending.md shows a whole {what}")
    return part


def part_id(spec: str, registry: Iterable[str]) -> str:
    """Return what a manifest stores of a part: its name, or "my_parts.py:NAME@HASH" (of the file, 12 hex digits)."""
    if spec in registry:
        return spec
    file, _, attribute = spec.rpartition(":")
    return f"{Path(file).name}:{attribute}@{hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12]}"


@contextlib.contextmanager
def blaming(spec: str, what: str) -> Iterator[None]:
    """Turn what a user's own part raises into a UserError that names its file and line; what built-in parts raise,
    and memory that runs out, passes through."""
    file, colon, _ = spec.rpartition(":")
    own, called = Path(file).resolve(), f"{what} {spec}"
    try:
        yield
    except Exception as error:
        if not (colon and file.endswith(".py")) or type(error).__name__ == "OutOfMemoryError":
            raise
        if isinstance(error, UserError):
            raise UserError(f"{called}: {error}") from error
        if isinstance(error, SyntaxError) and error.filename and Path(error.filename).resolve() == own:
            raise UserError(f"{called}: line {error.lineno} is not Python: {error.msg}") from error
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == own]
        where = f"line {lines[-1]}: " if lines else ""
        said = " ".join(str(error).split())
        raise UserError(f"{called}: {where}{type(error).__name__}: {said} (TESSERA_DEBUG=1 shows where)") from error


def check_ranges(config: Any, **intervals: str) -> None:
    """Check fields of a configuration, tuples by element: `check_ranges(self, share="[0, 1]", size="[1, inf)")`.

    An interval has numbers or powers ("2**64") for ends; "[" and "]" include the end, "(" and ")" do not. None passes.
    Fields of a dataclass whose type is a Literal must have one of its values. Raises UserError that names the field,
    its value and the interval or the values.
    """
    for field, hint in _hints(type(config)).items() if dataclasses.is_dataclass(config) else ():
        value, choices = getattr(config, field), typing.get_args(hint)
        if typing.get_origin(hint) is Literal and value not in choices:
            raise UserError(f"{field} is {value!r}; give {_type_name(hint)}{_near(value, choices)}")
    for field, interval in intervals.items():
        value = getattr(config, field)
        ends = (text.strip().partition("**") for text in interval[1:-1].split(","))
        low, high = (int(base) ** int(exponent) if power else float(base) for base, power, exponent in ends)
        for number in value if isinstance(value, tuple) else (value,):
            inside = number is None or low < number < high
            if not inside and (number, interval[0]) != (low, "[") and (number, interval[-1]) != (high, "]"):
                wanted = f"at least {low:g}" if interval[0] == "[" else f"a number above {low:g}"
                wanted = wanted if high == math.inf else f"a number in {interval}"
                wanted = wanted if (low, high) != (-math.inf, math.inf) else "a finite number"
                raise UserError(f"{field} is {value}; give {wanted}")


def compare(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str, str]]:
    """List (dotted field, a's value, b's value) of the differences, values as JSON, "nothing" for an absent field.

    Lists of objects are compared object by object: "arms.1.train.seed".
    """
    found = []
    for key in sorted(a.keys() | b.keys()):
        left, right = sides = [side.get(key, ()) for side in (a, b)]
        if all(isinstance(side, list) and side and all(isinstance(item, Mapping) for item in side) for side in sides):
            left, right = ({str(index): item for index, item in enumerate(side)} for side in sides)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found += compare(left, right, f"{prefix}{key}.")
        elif key not in a or key not in b or left != right:
            shown = [json.dumps(side[key]) if key in side else "nothing" for side in (a, b)]
            found.append((f"{prefix}{key}", *shown))
    return found


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _members(hint: Any) -> tuple[Any, ...]:
    """Return the alternatives of a union; of any other type, that type alone."""
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _dataclasses(hint: Any) -> dict[str, type]:
    return {member.__name__: member for member in _members(hint) if dataclasses.is_dataclass(member)}  # type: ignore


def _element(hint: Any, index: int) -> Any:
    """Return the type of one element of a value of type `hint`, a tuple or a union with one tuple."""
    for member in _members(hint):
        arguments = typing.get_args(member)
        if typing.get_origin(member) is tuple:
            return arguments[0] if arguments[-1] is Ellipsis else arguments[index]
    raise TypeError(f"{hint} has no place for a tuple")


def _to_json(value: Any, hint: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = {name: _to_json(getattr(value, name), kind) for name, kind in _hints(type(value)).items()}  # type: ignore
        return {"kind": type(value).__name__, **fields} if len(_dataclasses(hint)) > 1 else fields
    if isinstance(value, tuple | list):
        return [_to_json(item, _element(hint, index)) for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        return dict(value)
    if value is None or isinstance(value, bool | str):
        return value
    # 1 and 1.0 are equal, but their JSON is not: a float field is always written as a float.
    if isinstance(value, numbers.Integral) and float not in _members(hint):
        return operator.index(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise TypeError(f"{value!r} cannot be written as JSON")


def _convert(hint: Any, value: Any, where: str, path: str) -> Any:
    if len(_members(hint)) > 1:
        return _convert_union(hint, value, where, path)
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, where, path)  # type: ignore
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if any(type(value) is type(choice) and value == choice for choice in arguments):
            return value
        raise UserError(f"{where}: field '{path}' must be {_type_name(hint)}, not {value!r}{_near(value, arguments)}")
    if origin is tuple and isinstance(value, list | tuple):
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise UserError(f"{where}: field '{path}' must have {len(arguments)} elements, not {len(value)}")
        return tuple(_convert(_element(hint, i), item, where, f"{path}[{i}]") for i, item in enumerate(value))
    if origin is Mapping and isinstance(value, Mapping):
        return value
    if hint is float and type(value) in (int, float):
        with contextlib.suppress(OverflowError):  # an integer beyond all floats
            if math.isfinite(value):
                return float(value)
    if hint in (int, bool, str, type(None)) and type(value) is hint:
        return value
    raise UserError(f"{where}: field '{path}' must be {_type_name(hint)}, not {value!r}")


def _convert_union(hint: Any, value: Any, where: str, path: str) -> Any:
    classes = _dataclasses(hint)
    if isinstance(value, Mapping) and len(classes) > 1:
        kind, known = value.get("kind"), ", ".join(classes)
        if not isinstance(kind, str) or kind not in classes:
            raise UserError(f"{where}: field '{path}.kind' must be one of {known}, not {kind!r}{_near(kind, classes)}")
        return from_dict(classes[kind], {k: v for k, v in value.items() if k != "kind"}, where, path)
    if isinstance(value, Mapping) and classes:
        return from_dict(next(iter(classes.values())), value, where, path)
    if value is None and type(None) in _members(hint):
        return None
    candidates = [member for member in _members(hint) if member not in (type(None), *classes.values())]
    if len(candidates) == 1 and not classes:
        return _convert(candidates[0], value, where, path)  # its message is the most exact
    for member in candidates:
        with contextlib.suppress(UserError):
            return _convert(member, value, where, path)
    raise UserError(f"{where}: field '{path}' must be {_type_name(hint)}, not {value!r}")


def _near(name: Any, names: Iterable[Any]) -> str:
    near = nearest(name, [known for known in names if isinstance(known, str)]) if isinstance(name, str) else ""
    return near and f";{near}"


def _type_name(hint: Any) -> str:
    names = {int: "an integer", float: "a finite number", bool: "true or false", str: "a string", type(None): "null"}
    if len(_members(hint)) > 1:
        return " or ".join(_type_name(member) for member in _members(hint))
    if typing.get_origin(hint) in (tuple, Mapping):
        return "a list" if typing.get_origin(hint) is tuple else "an object"
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    return names.get(hint) or f"a {getattr(hint, '__name__', hint)}"
