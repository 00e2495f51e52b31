"""Command lines to calls of verbs, by tyro: its marks, its helps, and its refusals as one line."""

import contextlib
import dataclasses
import difflib
import functools
import inspect
import io
import re
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from tessera.config import UserError

_JSON = " With --json: one JSON object for scripts."
_METAVARS = {Path: "PATH", str: "STR", int: "INT", float: "FLOAT"}
_EDGES = "\u2500\u2502\u256d\u256e\u2570\u256f "  # of the boxes that tyro draws
_ELSEWHERE = {
    "learning-rate": "lr",
    "train-batch-size": "batch-size",
    "epochs": "num-images",
    "num-train-epochs": "num-images",
    "max-train-epochs": "num-images",
    "max-train-steps": "num-images",
    "steps": "num-images",
    "resolution": "size",
    "mixed-precision": "compute",
    "gradient-accumulation-steps": "device-batch-size",
    "use-8bit-adam": "adamw8bit",
    "resume-from-checkpoint": "resume",
    "enable-bucket": "buckets",
}
"""Flags of other trainers (diffusers' scripts, sd-scripts) -> what comes nearest here: a flag, or a preset's field."""
_MORE = ("Got errors:", "Argument helptext:", "For full helptext")  # what follows is in the verb's help


def app(verbs: Mapping[str, Callable[..., None]], groups: Mapping[str, str]) -> Any:
    """Return tyro's application of `verbs`; groups: first word of verbs of two words -> its help."""
    import tyro

    made = tyro.extras.SubcommandApp()
    parts = {name: tyro.extras.SubcommandApp() for name in groups}
    for name, verb in verbs.items():
        group, _, rest = name.rpartition(" ")
        (parts[group] if group else made).command(name=rest)(_for_tyro(verb))
    for name, group in parts.items():
        made.command(group, name=name, help=groups[name])
    return made


def call(
    verbs: Mapping[str, Callable[..., None]], groups: Mapping[str, str], args: Sequence[str], description: str
) -> None:
    """Call the verb of a command line. UserError, in one line, for what tyro refuses."""
    calls: list[Callable[[], None]] = []

    def noted(verb: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(verb)
        def note(*args: Any, **options: Any) -> None:
            calls.append(functools.partial(verb, *args, **options))

        return note

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            made = app({name: noted(verb) for name, verb in verbs.items()}, groups)
            made.cli(args=list(args), prog="tessera", description=description)
    except SystemExit as ended:
        if not ended.code:
            raise
        words = [word for word in args[:2] if not word.startswith("-")]
        verb = next((f"{name} " for name in (" ".join(words), *words[:1]) if name in verbs or name in groups), "")
        raise UserError(f"{_one_line(said.getvalue())}; see: tessera {verb}--help") from None
    for each in calls:
        each()


def check_flags(name: str, verb: Callable[..., None], words: Sequence[str]) -> None:
    """Raise UserError, with the nearest ones of this verb, for a flag among `words` that it does not take."""
    flags = {"-h", "--help"}
    for parameter in inspect.signature(verb).parameters.values():
        if "positional" not in getattr(parameter.annotation, "__metadata__", ()):
            flag = parameter.name.replace("_", "-")
            flags |= {f"--{flag}", f"--no-{flag}"} if isinstance(parameter.default, bool) else {f"--{flag}"}
    for word in words:
        given = word.partition("=")[0]
        flag = given.replace("_", "-")
        if not re.match("--?[A-Za-z]", word) or flag in flags:
            continue
        flag = flag.lstrip("-")
        here = _ELSEWHERE.get(flag, flag)
        if name == "train" and f"--{here}" not in flags and here.replace("-", "_") in _preset_fields():
            fix = f"it is the preset's {here.replace('-', '_')}; to change it train a preset of yours, FILE.py:NAME"
        else:
            begin = [each for each in sorted(flags) if each.startswith(f"--{flag}")][:3]
            other = difflib.get_close_matches(f"--{flag}", sorted(flags - {"-h", "--help"}), n=3, cutoff=0.55)
            near = [f"--{here}"] if f"--{here}" in flags else begin or other
            fix = f"did you mean {' or '.join(near)}?" if near else f"it takes {', '.join(sorted(flags))}"
        raise UserError(f"tessera {name} has no flag {given}; {fix}")


def _preset_fields() -> set[str]:
    """Return the names of the fields of a training preset and its optimizer."""
    from tessera.train.config import TrainConfig
    from tessera.train.optim.config import OptimConfig

    return {field.name for config in (TrainConfig, OptimConfig) for field in dataclasses.fields(config)}


def _one_line(box: str) -> str:
    """Return what tyro says in a box, without its frame and what the verb's help says anyway."""
    _, *lines = (line.strip(_EDGES) for line in box.splitlines() if line.strip(_EDGES))  # below its title
    text = " ".join(lines)
    for words in (" (required)", "{None}|", "'None', ", ", 'None'"):
        text = text.replace(words, "")
    for words in _MORE:
        text = text.partition(words)[0]
    return f"{text[:1].lower()}{text[1:].strip().rstrip('.')}"


def _for_tyro(verb: Callable[..., None]) -> Callable[..., None]:
    """Replace the strings in annotations (`tessera.cli.options`) by tyro's marks, so that verbs are read without it,
    name what a value may be besides None, and tell of --json."""
    import tyro

    signature, parameters = inspect.signature(verb), []
    for parameter in signature.parameters.values():
        said = [mark for mark in getattr(parameter.annotation, "__metadata__", ()) if isinstance(mark, str)]
        hint = parameter.annotation.__origin__ if said else parameter.annotation
        marks: list[Any] = [tyro.conf.Positional for mark in said if mark == "positional"]
        texts: dict[str, Any] = dict(zip(("help",), (mark for mark in said if mark != "positional")))
        if (metavar := _metavar(hint)) is not None:
            texts["metavar"] = metavar
        marks += [tyro.conf.arg(**texts)] if texts else []
        parameters.append(parameter.replace(annotation=Annotated[hint, *marks] if marks else hint))

    @functools.wraps(verb)
    def called(*args: Any, **options: Any) -> None:
        verb(*args, **options)

    del called.__wrapped__
    called.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    about, example, rest = (verb.__doc__ or "").partition("\n\n    Example:")
    called.__doc__ = f"{about}{_JSON}{example}{rest}"
    return called


def _metavar(hint: Any) -> str | None:
    """Return how a help writes the values of "X | None"; None for other types."""
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else ()
    if type(None) not in members:
        return None
    inner = [member for member in members if member is not type(None)]
    return "|".join(
        f"{{{','.join(map(str, get_args(member)))}}}"
        if get_origin(member) is Literal
        else " ".join(_METAVARS[each] for each in (get_args(member) or (member,)))
        for member in inner
    )
