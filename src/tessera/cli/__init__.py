"""The command `tessera`: one verb per stage, each on directories, and `run` which chains them.

Torch and the stages are imported inside the verbs, so that `tessera --help` answers at once. Exit codes: 0 done, 2 bad
input or stopped by Ctrl-C (run the same command to resume), 1 a defect of tessera itself. TESSERA_DEBUG=1 shows
where an error was raised.
"""

import errno
import json
import os
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from tessera.cli import curate, evaluate, generate, output, parse, tools, train, workflow
from tessera.config import UserError, nearest

VERBS: dict[str, Callable[..., None]] = {
    "run": workflow.run,
    "study": workflow.study,
    "plan": workflow.plan,
    "collect": curate.collect,
    "augment": curate.augment,
    "caption": curate.caption,
    "fetch-captions": curate.fetch_captions,
    "export-captioner": curate.export_captioner,
    "encode": curate.encode,
    "tau": curate.tau,
    "preview": curate.preview,
    "train": train.train,
    "export": train.export,
    "import-published": generate.import_published,
    "sweep": workflow.sweep,
    "prompts": evaluate.prompts,
    "extend-prompts": evaluate.extend_prompts,
    "generate": generate.generate,
    "evaluate miniature": evaluate.miniature,
    "evaluate drawings": evaluate.drawings,
    "evaluate geneval": evaluate.geneval,
    "evaluate dpg": evaluate.dpg,
    "evaluate questions": evaluate.questions,
    "evaluate quality": evaluate.quality,
    "evaluate copies": evaluate.copies,
    "report": evaluate.report,
    "figure tau": evaluate.figure_tau,
    "demo": tools.demo,
    "doctor": tools.doctor,
    "completion": tools.completion,
}
"""Words after `tessera` -> the function; verbs of two words belong to a group."""

GROUPS = {"evaluate": "Scores of images, with intervals.", "figure": "The paper's figures, from your own images."}
"""First word of a group -> its purpose."""


DESCRIPTION = (
    "Train your own text-to-image model on a small, curated, labeled image set."
    " Start with: tessera run miniature. --json: answers for scripts."
)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command and end the process: the entry point."""
    args = list(sys.argv[1:] if args is None else args)
    if args in (["--version"], ["-V"], ["version"]):
        import tessera

        print(tessera.__version__)
        sys.exit(0)
    output.as_json, debugging = output.FLAG in args, os.environ.get("TESSERA_DEBUG") == "1"
    args = [_at_home(word) for word in args if word != output.FLAG]
    try:
        if args[:1] == ["help"]:
            args = [*args[1:], "--help"]
        if args in (["--help"], ["-h"], []):
            print(_overview(), flush=True)
            sys.exit(0)
        verb = _find_verb(args)
        if verb:
            parse.check_flags(verb, VERBS[verb], args[len(verb.split()) :])
        from tessera.signals import stopping

        with stopping():
            try:
                parse.call(VERBS, GROUPS, args, DESCRIPTION)
            except SystemExit:  # a verb's help ends so; if nobody reads it, that shows when it is written
                sys.stdout.flush()
                raise
            sys.stdout.flush()
    except UserError as error:
        if debugging:
            traceback.print_exc()
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("stopped; nothing that was done is lost; run the same command to resume", 2, "")
    except OSError as error:
        if error.errno == errno.EPIPE and _nobody_reads():
            sys.exit(0)
        if error.errno == errno.ENOSPC:
            _fail(f"no space left on the disk ({error.filename or 'while writing'}); make room, then run it again", 2)
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}", 2)
    except Exception as error:
        if debugging:
            raise
        if isinstance(error, ModuleNotFoundError):
            from tessera.doctor import EXTRAS
            from tessera.extras import install_command

            module = (error.name or "").partition(".")[0]
            for extra in (extra for extra, (modules, _) in EXTRAS.items() if module in modules):
                _fail(f"{error.name} is not installed; run: {install_command(extra)}", 2)
        _fail(f"{type(error).__name__}: {error} (a defect of tessera; TESSERA_DEBUG=1 shows where)", 1)
    sys.exit(0)


def _overview() -> str:
    """Return the help of `tessera` itself: every verb with its first sentence, without the time to import tyro."""
    width, column = min(shutil.get_terminal_size().columns, 120), max(map(len, VERBS)) + 4
    lines = ["usage: tessera VERB [--help] ...", "", *textwrap.wrap(DESCRIPTION, width), ""]
    for name, verb in VERBS.items():
        about = (verb.__doc__ or "").partition("\n")[0]
        lines += textwrap.wrap(about, width, initial_indent=f"  {name}".ljust(column), subsequent_indent=" " * column)
    return "\n".join([*lines, "", "tessera VERB --help shows what a verb takes, with an example."])


def _at_home(word: str) -> str:
    """Replace a ~/ that the shell left, as bash does in `--out=~/photos`, by the home folder."""
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return flag + equals + (os.path.expanduser(value) if value.startswith("~/") else value)


def _find_verb(args: Sequence[str]) -> str:
    """Return the verb of a command line, or "" where a group's second word is missing or a dash comes first, which are
    tyro's to judge. Raises UserError for an unknown one."""
    first, second = [*(word.replace("_", "-") for word in args[:2]), "-", "-"][:2]
    if first.startswith("-"):
        return ""
    firsts = list(dict.fromkeys(verb.split()[0] for verb in VERBS))
    if first not in firsts:
        groups = {verb.split()[-1]: verb for verb in VERBS}  # for `tessera quality`
        near = nearest(groups.get(first, first), [*firsts, *VERBS])
        raise UserError(f"unknown verb {args[0]!r};{near} known: {', '.join(firsts)}")
    group = [verb for verb in VERBS if verb.startswith(f"{first} ")]
    verb = f"{first} {second}"
    if group and not second.startswith("-") and verb not in group:
        raise UserError(f"unknown verb {' '.join(args[:2])!r};{nearest(verb, group)} known: {', '.join(group)}")
    return (verb if verb in group else "") if group else first


def _nobody_reads() -> bool:
    """Check if the reader of our output is gone, such as `head` that has seen enough; nothing more is written then."""
    try:
        os.write(sys.stdout.fileno(), b"\n")  # the pipe that broke may be another one, to a process of ours
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    except OSError:
        pass
    return False


def _fail(message: str, code: int, prefix: str = "error: ") -> NoReturn:
    if output.as_json:
        print(json.dumps({"error": message}), flush=True)
    print(f"{prefix}{message}", file=sys.stderr)
    sys.exit(code)
