"""Configurations go to JSON and back unchanged, and every mistake is one line that names the field."""

import hashlib
import json
import math
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.config import (
    UserError,
    blaming,
    check_ranges,
    compare,
    from_dict,
    load_part,
    lookup,
    nearest,
    part_id,
    to_dict,
)


@dataclass(frozen=True, kw_only=True)
class Small:
    width: int = 8
    ratio: float = 4.0


@dataclass(frozen=True, kw_only=True)
class Other:
    width: int = 8


@dataclass(frozen=True, kw_only=True)
class Config:
    name: str
    kind_of: Literal["eps", "x0"] = "eps"
    flag: bool = False
    limit: int | None = None
    floor: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    names: tuple[str, ...] = ()
    small: Small = Small()
    model: Small | Other = Other()
    models: tuple[Small | Other, ...] = ()
    maybe: Small | None = None
    either: int | str = 1
    mode: Literal["fast", "exact"] | None = None

    def __post_init__(self):
        if self.limit is not None and self.limit < 0:
            raise UserError(f"limit must be at least 0, not {self.limit}")


smalls = st.builds(Small, width=st.integers(), ratio=st.floats(allow_nan=False, allow_infinity=False))
models = smalls | st.builds(Other, width=st.integers())
finite = st.floats(allow_nan=False, allow_infinity=False)
configs = st.builds(
    Config,
    name=st.text(),
    kind_of=st.sampled_from(["eps", "x0"]),
    flag=st.booleans(),
    limit=st.none() | st.integers(min_value=0),
    floor=st.none() | finite,
    betas=st.tuples(finite, finite),
    names=st.lists(st.text()).map(tuple),
    small=smalls,
    model=models,
    models=st.lists(models, max_size=3).map(tuple),
    maybe=st.none() | smalls,
    either=st.integers() | st.text(),
    mode=st.sampled_from([None, "fast", "exact"]),
)


@given(configs)
def test_json_round_trip(config):
    data = to_dict(config)
    assert json.loads(json.dumps(data)) == data
    assert from_dict(Config, json.loads(json.dumps(data))) == config


def test_json_form():
    data = to_dict(Config(name="a", model=Small(ratio=1), models=(Other(),), maybe=Small()))
    assert data["betas"] == [0.9, 0.999]
    assert data["model"] == {"kind": "Small", "width": 8, "ratio": 1.0}
    assert type(data["model"]["ratio"]) is float  # 1 and 1.0 are equal in Python, not in the file's bytes
    assert data["models"] == [{"kind": "Other", "width": 8}]
    assert data["maybe"] == {"width": 8, "ratio": 4.0}


def test_defaults_fill_in():
    assert from_dict(Config, {"name": "a"}) == Config(name="a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nane": "b"}, "unknown field 'nane'; did you mean 'name'?"),
        ({"small": {"widht": 3}}, "unknown field 'small.widht'; did you mean 'width'?"),
        ({"name": 3}, "field 'name' must be a string, not 3"),
        ({"flag": 1}, "field 'flag' must be true or false, not 1"),
        ({"limit": True}, "field 'limit' must be an integer, not True"),
        ({"limit": 2.0}, "field 'limit' must be an integer, not 2.0"),
        ({"limit": -1}, "limit must be at least 0, not -1"),
        ({"floor": "x"}, "field 'floor' must be a finite number, not 'x'"),
        ({"floor": float("nan")}, "field 'floor' must be a finite number, not nan"),
        ({"floor": 10**400}, "field 'floor' must be a finite number, not 1000"),
        ({"kind_of": "epz"}, "field 'kind_of' must be one of 'eps', 'x0', not 'epz'; did you mean 'eps'?"),
        ({"mode": "fasst"}, "field 'mode' must be one of 'fast', 'exact', not 'fasst'; did you mean 'fast'?"),
        ({"kind_of": ["eps"]}, "field 'kind_of' must be one of 'eps', 'x0', not ['eps']"),
        ({"betas": [0.9]}, "field 'betas' must have 2 elements, not 1"),
        ({"names": ["a", 1]}, "field 'names[1]' must be a string, not 1"),
        ({"names": "abc"}, "field 'names' must be a list, not 'abc'"),
        ({"small": 3}, "small must be an object with fields, not 3"),
        ({"small": {"ratio": None}}, "field 'small.ratio' must be a finite number, not None"),
        ({"model": {"width": 3}}, "field 'model.kind' must be one of Small, Other, not None"),
        ({"model": {"kind": ["Small"]}}, "field 'model.kind' must be one of Small, Other, not ['Small']"),
        ({"model": {"kind": "Smal"}}, "must be one of Small, Other, not 'Smal'; did you mean 'Small'?"),
        ({"model": {"kind": "Other", "ratio": 3}}, "unknown field 'model.ratio'"),
        ({"models": [{"kind": "Other", "width": "3"}]}, "field 'models[0].width' must be an integer, not '3'"),
        ({"maybe": 3}, "field 'maybe' must be a Small or null, not 3"),
        ({"either": None}, "field 'either' must be an integer or a string, not None"),
        ({"either": 1.5}, "field 'either' must be an integer or a string, not 1.5"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(UserError) as caught:
        from_dict(Config, {"name": "a", **change}, where="run.json")
    assert str(caught.value).startswith("run.json: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_field():
    with pytest.raises(UserError, match=r"^config: field 'name' is missing$"):
        from_dict(Config, {})


def test_user_error_of_a_nested_config_says_where():
    @dataclass(frozen=True)
    class Outer:
        inner: Config

    with pytest.raises(UserError, match=r"^config: inner: limit must be at least 0, not -1$"):
        from_dict(Outer, {"inner": {"name": "a", "limit": -1}})


def test_differences_name_dotted_fields():
    a = to_dict(Config(name="a"))
    b = to_dict(Config(name="a", small=Small(width=9), names=("x",)))
    assert compare(a, b) == [("names", "[]", '["x"]'), ("small.width", "8", "9")]
    assert compare(a, a) == []
    assert compare({"x": 1}, {"y": None}) == [("x", "1", "nothing"), ("y", "nothing", "null")]


@given(configs, configs)
def test_differences_are_empty_only_for_equal_configs(a, b):
    assert (compare(to_dict(a), to_dict(b)) == []) == (a == b)
    assert compare(to_dict(a), to_dict(replace(a, flag=not a.flag))) != []


def test_nearest():
    assert nearest("miniture", ["miniature", "smoke"]) == " did you mean 'miniature'?"
    assert nearest("zzz", ["miniature", "smoke"]) == ""


def test_lookup():
    registry = {"miniature": 1, "smoke": 2}
    assert lookup("smoke", registry) == 2
    message = re.escape("unknown preset 'smok'; did you mean 'smoke'? known: miniature, smoke, or FILE.py:FUNCTION")
    with pytest.raises(UserError, match=f"^{message}$"):
        lookup("smok", registry)
    with pytest.raises(UserError, match="unknown sampler 'zzz'; known: miniature, smoke"):
        lookup("zzz", registry, "sampler")


def test_lookup_of_a_function_in_a_file(tmp_path):
    file = tmp_path / "my_runs.py"
    file.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class Mine:\n    width: int = 3\n"
        "def big_dit():\n    return Mine()\n"
        "number = 3\n"
    )
    function = lookup(f"{file}:big_dit", {})
    assert function().width == 3
    assert to_dict(function()) == {"width": 3}
    with pytest.raises(UserError, match="the file has no function 'big_dot'; did you mean 'big_dit'"):
        lookup(f"{file}:big_dot", {})
    with pytest.raises(UserError, match=r"the file has no function 'number'$"):
        lookup(f"{file}:number", {})
    with pytest.raises(UserError, match="there is no file"):
        lookup(f"{tmp_path / 'absent.py'}:f", {})
    file.write_text("x = 1\ndef (:\n")
    with pytest.raises(UserError, match="line 2 is not Python"):
        lookup(f"{file}:f", {})


def test_floor_0_is_imported_without_torch():
    code = (
        "import sys; import tessera.config, tessera.randomness, tessera.records, tessera.files, tessera.encoded.store; "
        "sys.exit('torch' in sys.modules)"
    )
    source = Path(__file__).parents[1] / "src"
    assert (
        subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(source)!r}); {code}"]).returncode
        == 0
    )


def test_lists_of_objects_are_compared_one_by_one():
    before = {"arms": [{"name": "ta", "seed": 0}, {"name": "ta_ia", "seed": 0}], "sizes": [1, 2]}
    after = {"arms": [{"name": "ta", "seed": 0}, {"name": "ta_ia", "seed": 1}], "sizes": [1, 3]}
    assert compare(before, after) == [("arms.1.seed", "0", "1"), ("sizes", "[1, 2]", "[1, 3]")]
    assert compare({"arms": [{"a": 1}]}, {"arms": [{"a": 1}, {"a": 2}]}) == [("arms.1", "nothing", '{"a": 2}')]
    assert compare({"arms": None}, {"arms": [{"a": 1}]}) == [("arms", "null", '[{"a": 1}]')]


@dataclass(frozen=True)
class Ranged:
    share: float = 0.5
    size: int = 1
    seed: int | None = None
    rates: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        check_ranges(self, share="[0, 1)", size="[1, inf)", seed="[0, 2**64)", rates="(0, inf)")


@pytest.mark.parametrize(
    ("field", "good", "bad", "message"),
    [
        ("share", (0, 0.999), (1.0, -0.1, math.nan), "give a number in [0, 1)"),
        ("size", (1, 10**9), (0, -1), "give at least 1"),
        ("seed", (None, 0, 2**64 - 1), (2**64, -1), "give a number in [0, 2**64)"),
        ("rates", ((), (0.1, 5.0)), ((1.0, 0.0), (math.nan,)), "give a number above 0"),
    ],
)
def test_check_ranges(field, good, bad, message):
    for value in good:
        Ranged(**{field: value})
    for value in bad:
        with pytest.raises(UserError) as caught:
            Ranged(**{field: value})
        assert str(caught.value) == f"{field} is {value}; {message}"


PARTS = """
class Good:
    def work(self):
        return 1 / 0
class Idle:
    pass
"""


def test_parts_of_a_users_file(tmp_path):
    file = tmp_path / "my_parts.py"
    file.write_text(PARTS)
    table = {"known": str}
    assert load_part("known", table, "captioner", ["work"]) is str  # built-in parts are checked by their own tests
    assert part_id("known", table) == "known"
    part = load_part(f"{file}:Good", table, "captioner", ["work"])
    assert part_id(f"{file}:Good", table) == f"my_parts.py:Good@{hashlib.sha256(PARTS.encode()).hexdigest()[:12]}"
    blamed = pytest.raises(UserError, match=r"captioner .*my_parts\.py:Good: line 4: ZeroDivisionError")
    with blamed, blaming(f"{file}:Good", "captioner"):
        part().work()
    with pytest.raises(ZeroDivisionError), blaming("known", "captioner"):
        part().work()
    for spec, message in (
        (f"{file}:Idle", r"has no method work\(\); docs/extending.md shows a whole captioner"),
        (f"{file}:Godd", "did you mean 'Good'"),
        (f"{tmp_path / 'none.py'}:Good", "there is no file"),
        ("know", "did you mean 'known'"),
    ):
        with pytest.raises(UserError, match=message):
            load_part(spec, table, "captioner", ["work"])


def test_check_ranges_checks_literals_too():
    @dataclass(frozen=True, kw_only=True)
    class Chosen:
        compute: Literal["fp32", "bf16"] = "bf16"

        def __post_init__(self):
            check_ranges(self)

    assert Chosen(compute="fp32").compute == "fp32"
    with pytest.raises(UserError) as caught:
        Chosen(compute="bf61")  # type: ignore[arg-type]
    assert str(caught.value) == "compute is 'bf61'; give one of 'fp32', 'bf16'; did you mean 'bf16'?"
