"""Texts are in American English, plain, and open with the word that says what a thing is or does.

These are the checks that a program can make: `python tests/test_language.py PATHS` lists what breaks them.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A docstring that opens so is a riddle: the reader has to guess what is being said of what.
RIDDLES = {"What", "Whether", "How", "Of", "Where", "All", "That", "Which", "Whose", "Whom", "Why", "When", "There"}
# Openers of a function's docstring that are no verbs. Others are found by their form: see `verb_fault`.
NOT_VERBS = RIDDLES | {
    *("A", "About", "After", "Ahead", "An", "Another", "Around", "As", "At", "Before", "Both", "Brightness", "By"),
    *("Clean", "Codec", "Content", "Each", "Encoder", "English", "Every", "Everything", "Figure", "Final", "First"),
    *("Five", "Fixed", "For", "Four", "Free", "From", "Full", "Greedy", "In", "Inside", "Item", "Its", "Key"),
    *("Label", "Left", "Long", "Longer", "Longest", "Many", "Markdown", "Mean", "Modulation", "More", "Most"),
    *("Name", "New", "No", "None", "Noise", "Normalized", "Nothing", "Number", "On", "One", "Only", "Our", "Paper"),
    *("Picture", "Placement", "Precision", "Prepared", "Progress", "Ragged", "Rank", "Record", "Refined"),
    *("Running", "Scale", "Self", "Side", "Size", "So", "Some", "Squared", "Stable", "Stem", "Stored", "Sum"),
    *("Tensor", "Text", "The", "Their", "Theme", "This", "Those", "Three", "Token", "Training", "True", "Two"),
    *("Under", "Unbiased", "Uncertain", "Width", "With", "Without", "Word", "Words"),
}
# Verbs that end in "s" in the imperative.
VERBS_IN_S = {
    *("Access", "Address", "Assess", "Bias", "Bypass", "Compress", "Cross", "Decompress", "Discuss", "Dismiss"),
    *("Express", "Focus", "Guess", "Miss", "Pass", "Press", "Process", "Suppress"),
}
# Openers of a class's docstring that are no nouns.
NOT_NOUNS = RIDDLES | {
    *("One", "Some", "Each", "Every", "Everything", "With", "Makes", "Reads", "Writes", "Adds", "Knows", "Appends"),
    *("Gives", "Holds", "Keeps", "Stores", "Return", "Returns"),
}

# Words of nobody's field, or of another's: (pattern, what to write).
WORDS = [
    (r"pictures?", "image"),
    (r"mend(s|ed|ing)?", "fix"),
    (r"(go|goes|going|went|gone) on", "resume, continue"),
    (r"(stand|stands|standing|stood) in", "hold, be in, replace"),
    (r"lack(s|ed|ing)?", "is missing, has no"),
    (r"reckon(s|ed|ing)?", "estimate"),
    (r"peers?", "baseline"),
    (r"beside", "next to, with, apart from"),
]
IZE = (
    "author|character|color|custom|discret|emphas|equal|favor|final|formal|general|harmon|initial|item|local|maxim"
    "|memor|minim|modern|neutral|normal|optim|organ|parallel|priorit|quant|random|real|recogn|regular|scrutin|serial"
    "|special|stabil|standard|steril|summar|symbol|synchron|token|util|vector|visual"
)
BRITISH = re.compile(
    r"(?<![a-z])(?:\w*_)?(?:un|re|de|mis|pre|over|multi)?(?:"
    rf"(?:{IZE})is(?:e|ed|es|er|ers|ing|ation|ations|able)"
    r"|analys(?:e|ed|er|ing)|\w*colour\w*|grey\w*|centre[sd]?|centring|behaviour\w*|neighbour\w*|favour\w*|honour\w*"
    r"|label?l(?:ed|ing)(?<!labeled)(?<!labeling)|modell(?:ed|ing)|cancell(?:ed|ing)|travell(?:ed|ing)|catalogue\w*"
    r"|judgement\w*|artefact\w*|defence|offence|licence|metres?|programmes?|whilst|amongst|learnt|spelt|fulfil|mould\w*"
    r")(?![a-z])",
    re.IGNORECASE,
)
BANNED = re.compile(rf"(?<![\w/.-])(?:{'|'.join(pattern for pattern, _ in WORDS)})(?![\w/-]|\.\w)", re.IGNORECASE)
QUOTED = re.compile(r"``.*?``|`[^`]*`|\"[\w.-]*\"|'[\w.-]+'", re.DOTALL)
# Words that have to stay as they are: others' own, or texts that models have seen.
FIXED_WORDS = (
    "Describe this image. Consider all the objects in the picture.",  # LLaVA's question, paper appendix B
    "a picture of ",  # captions of the miniature world, whose bytes stay
    "of the picture. The background is",
    "for a picture that shows exactly this",  # the texts of `extend-prompts`
    "its colour and its place",
    "placed in the centre of attention",
    "The picture has the look",
)
FLAGS = {"utilisation"}  # fields named as the flag of a verb
VERB = "Example: tessera "  # in the docstring of a verb, whose arguments are the flags of the command line
LONGEST = 120


def word_faults(text: str) -> list[tuple[int, str]]:
    """List (lines below the first, fault) of the words of `text`; names in quotes or backticks are left alone."""
    for words in FIXED_WORDS:
        text = text.replace(words, "")
    text = re.sub(r"(?m)^ +\w+:(?= )", "", text)  # the name of an argument
    text = QUOTED.sub(lambda quote: "``" + "\n" * quote[0].count("\n"), text)
    found = []
    for match in BANNED.finditer(text):
        said = " ".join(match[0].split())
        write = next(right for pattern, right in WORDS if re.fullmatch(pattern, said, re.IGNORECASE))
        found.append((match.start(), f"{said!r}: write {write}"))
    found += [(match.start(), f"{match[0]!r}: write the American spelling") for match in BRITISH.finditer(text)]
    return [(text.count("\n", 0, start), fault) for start, fault in found]


def verb_fault(docstring: str) -> str | None:
    """Return why `docstring` does not begin with a verb in the imperative, or None if it seems to."""
    first = (docstring.split() or [""])[0].rstrip(".,:;")
    if not re.fullmatch(r"[A-Z][a-z]+(-[a-z]+)?", first) or first in NOT_VERBS:
        return f"a function's docstring begins with {first!r}; begin with a verb: Return, Write, Check"
    if first.endswith("s") and first not in VERBS_IN_S:
        return f"a function's docstring begins with {first!r}; begin with the imperative: Return, not Returns"
    return None


def docstrings_of(tree: ast.Module) -> Iterator[tuple[ast.AST, int, str, str]]:
    """Yield (node, line, "function" | "property" | "class" | "module" | "field", text) of each docstring."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or not body:
            continue
        kind = {ast.Module: "module", ast.ClassDef: "class"}.get(type(node), "function")
        if kind == "function":
            names = [ast.unparse(decorator) for decorator in getattr(node, "decorator_list", ())]
            kind = "property" if any(name.split(".")[-1].endswith("property") for name in names) else kind
        for index, statement in enumerate(body):
            if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Constant):
                continue
            text = statement.value.value
            if isinstance(text, str) and index == 0:
                yield node, statement.lineno, kind, text
            elif isinstance(text, str) and isinstance(body[index - 1], ast.Assign | ast.AnnAssign):
                yield statement, statement.lineno, "field", text


def opener_faults(tree: ast.Module) -> list[tuple[int, str]]:
    """List (line, fault) of the docstrings that open with the wrong kind of word."""
    found = []
    for _, line, kind, text in docstrings_of(tree):
        first = (text.split() or [""])[0].strip(".,:;")
        if kind == "function" and (fault := verb_fault(text)):
            found.append((line, fault))
        elif kind != "function" and first in (NOT_NOUNS if kind == "class" else RIDDLES):
            found.append((line, f"a {kind}'s docstring begins with {first!r}; say the thing"))
    return found


def name_faults(tree: ast.Module) -> list[tuple[int, str]]:
    """List (line, fault) of the names that a module gives to things in words it should not use."""
    found = {}
    verbs = (
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and VERB in (ast.get_docstring(node) or "")
    )
    flags = {argument for verb in verbs for argument in verb.args.args}
    for node in set(ast.walk(tree)) - flags:
        name = getattr(node, "name", None) if not isinstance(node, ast.alias) else node.asname
        name = node.arg if isinstance(node, ast.arg) else name
        name = node.id if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else name
        words = (name if isinstance(name, str) else "").lower().replace("my_pictures", "").replace("mypictures", "")
        british = BRITISH.search(words)
        if words not in FLAGS and ("picture" in words or british):
            found[name] = (
                getattr(node, "lineno", 0),
                f"the name {name!r} has {british[0] if british else 'picture'!r}",
            )
    return list(found.values())


def texts_of(source: str, tree: ast.Module, messages: bool) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of the comments and docstrings of a module, and of its strings with a space if `messages`."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    if messages:
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                yield node.lineno, node.value
    else:
        for _, line, _, text in docstrings_of(tree):
            yield line, text


def faults_of_python(source: str, tests: bool = False) -> list[tuple[int, str]]:
    """List (line, fault) of a module: its openers, names and words; of a test module only its words."""
    tree = ast.parse(source)
    found = [] if tests else opener_faults(tree) + name_faults(tree)
    for line, text in texts_of(source, tree, messages=not tests):
        found += [(line + below, fault) for below, fault in word_faults(text)]
    return sorted(set(found))


def faults_of_markdown(source: str) -> list[tuple[int, str]]:
    """List (line, fault) of a page: its words, and its lines over 120 characters outside tables and code."""
    found = []
    in_code = False
    for number, line in enumerate(source.splitlines(), 1):
        if line.lstrip().startswith(("```", "~~~")):
            in_code = not in_code
        elif not in_code:
            found += [(number, fault) for _, fault in word_faults(line)]
            if len(line) > LONGEST and not line.lstrip().startswith("|"):
                found.append((number, f"has {len(line)} characters; break the line at {LONGEST}"))
    return found


def faults_of_file(path: Path) -> list[str]:
    """List "FILE:LINE: fault" for a Python module or a Markdown page."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        found = faults_of_python(source, tests="tests" in path.resolve().parts)
    else:
        found = faults_of_markdown(source)
    return [f"{path}:{line}: {fault}" for line, fault in found]


def files_of(paths: list[Path]) -> list[Path]:
    """List the Python and Markdown files that `paths` are or hold."""
    found = []
    for path in paths:
        found += [path] if path.is_file() else sorted((*path.rglob("*.py"), *path.rglob("*.md")))
    return found


FOLDERS = [ROOT / name for name in ("src", "docs", "tests", "bench", "scripts", "examples")]
UNCHECKED = ("tests/test_language.py",)  # it holds the words that it looks for


@pytest.mark.parametrize("path", files_of([*FOLDERS, *ROOT.glob("*.md")]), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_repository_is_in_plain_american_english(path):
    if not str(path.relative_to(ROOT)).startswith(UNCHECKED):
        assert faults_of_file(path) == []


def test_a_docstring_that_opens_wrongly_is_found():
    source = '''
def f():
    """What it gives."""
class C:
    """How to do."""
    x: int = 1
    """Whether to do it."""
    @property
    def width(self):
        """The width in pixels."""
    def g(self):
        """Returns 1."""
    def h(self):
        """Return 1."""
'''
    assert [line for line, _ in faults_of_python(source)] == [3, 5, 7, 12]


def test_words_are_found_in_comments_messages_and_names_but_not_in_quotes():
    source = (
        '# goes on\nraise E("the colour of pictures")\nx = f(half_view="centre")  # "centre", `grey`\npicture = 1\n'
    )
    found = [fault for _, fault in faults_of_python(source)]
    assert [fault.split(":")[0] for fault in found] == [
        "'goes on'",
        "'colour'",
        "'pictures'",
        "the name 'picture' has 'picture'",
    ]
    assert not faults_of_python('# behavior of my-pictures, pictures/cats, standing\nx = "normalize labeled"\n')
    assert len(faults_of_python('"""Optimisers normalise, initialised."""\n', tests=True)) == 3
    assert not faults_of_python('"""An artist revised otherwise noisy organisms; specialist."""\n', tests=True)


def test_long_lines_are_found_outside_tables_and_code():
    long = "x" * 121
    assert faults_of_markdown(f"{long}\n| {long}\n```\n{long}\n```\n") == [
        (1, "has 121 characters; break the line at 120")
    ]


if __name__ == "__main__":
    lines = [line for path in files_of([Path(name) for name in sys.argv[1:]]) for line in faults_of_file(path)]
    print("\n".join(lines))
    print(f"{len(lines)} to fix")
    sys.exit(bool(lines))
