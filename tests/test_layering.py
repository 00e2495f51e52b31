"""Imports point down, the columns of floor 3 join only through directories on disk, and modules are easy to find.

floor 5   presets < measure < plan < jobs < run < study < demo < doctor < cli
floor 4   report/
floor 3   curate/  ->  train/  ->  generate/  ->  evaluate/
floor 2   pretrained < weights < prompts
floor 1   diffusion/  models/  metrics/  cutmix  miniature/
floor 0   config < extras < devices < progress < randomness < signals < records < files < stages < damage
          < images < packages < hub < workers < encoded
"""

import ast
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "tessera"
TESTS = Path(__file__).parent

FLOORS = [
    [
        *("config", "extras", "devices", "progress", "randomness", "signals", "records", "files", "stages"),
        *("damage", "images", "packages", "hub", "workers", "encoded"),
    ],
    ["diffusion", "models", "metrics", "cutmix", "miniature"],
    ["pretrained", "weights", "prompts"],
    ["curate", "train", "generate", "evaluate"],
    ["report"],
    ["presets", "measure", "plan", "jobs", "run", "study", "demo", "doctor", "cli", "__main__"],
]
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
ORDERED = {0, 2, 5}  # on these floors a module may import those before it
FORBIDDEN = {"train": {"pretrained"}}  # training needs no pretrained network

# Where these may be imported at all; LAZY: and only inside functions (they take seconds, or are not installed).
ONLY_IN = {
    "transformers": ("pretrained", "generate.pipeline"),
    "diffusers": ("pretrained", "generate.pipeline", "generate.diffusers", "generate.baselines"),
    "tyro": ("cli",),
    "openai": ("pretrained.chat",),
    "torchao": ("models.fp8", "train.optim.eight_bit"),
    "modelscope": ("pretrained.vqa",),
    "gradio": ("demo.page",),
    "starlette": ("demo.serve",),
}
LAZY = {"transformers", "diffusers", "openai", "modelscope", "torchao"}
# Their classes have diffusers' as bases. Nothing imports these two but `tessera.load_pipeline`, when it is called.
NOT_LAZY_IN = ("generate.diffusers.model", "generate.diffusers.pipeline")
NEVER = {"torchvision", "timm", "torchmetrics", "webdataset", "scipy", "sklearn", "pickle"}
NO_TORCH_AT_IMPORT = {*FLOORS[0], "cli"}

MOST_MODULES = 14  # of a folder below the package's own
# Names that several modules have, because their folder says of what.
QUALIFIED = {
    "config": "the configuration of what the folder does",
    "evaluate": "the verb of a judge, and the verbs `tessera evaluate ...`",
    "export": "the verb `export` of a run; the folder of weights that it writes",
    "miniature": "the presets and the prompts of the miniature world",
    "model": "a network that captions; a network as diffusers knows it",
    "pipeline": "from prompts to images; the same as diffusers knows it",
}


def imports_of(tree: ast.AST) -> list[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Each import statement, and whether it runs when the module is imported."""
    found = []

    def visit(node: ast.AST, at_import: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                found.append((child, at_import))
            elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
                visit(child, False)
            else:
                visit(child, at_import and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    visit(tree, True)
    return found


def targets_of(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Dotted names that a statement imports; of `from a import b` it is a.b, which may be a module or a value."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [f"{node.module}.{alias.name}" for alias in node.names]


def faults_of(module: str, source: str) -> list[str]:
    """What breaks the rules in the module of that name below tessera, "" for tessera itself."""
    top = module.split(".")[0]
    if module and top not in FLOOR:
        return [f"{module}: stands on no floor; give it one in this test"]
    faults = []
    for node, at_import in imports_of(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            faults.append(f"{module}:{node.lineno} relative import")
            continue
        for target in targets_of(node):
            root, _, rest = target.partition(".")
            if root == "tessera":
                fault = internal_fault(module, rest, at_import)
            else:
                fault = external_fault(module, root, at_import)
            if fault:
                faults.append(f"{module}:{node.lineno} imports {target}: {fault}")
    return faults


def internal_fault(module: str, rest: str, at_import: bool) -> str:
    source, target = module.split(".")[0], rest.split(".")[0]
    if not module:  # tessera/__init__.py: a facade that loads nothing by itself
        return "at import" if at_import else ""
    if (
        rest.startswith(("generate.diffusers.model", "generate.diffusers.pipeline"))
        and at_import
        and module not in NOT_LAZY_IN
    ):
        return "only inside functions"
    if target in ("", "__version__") or source == target:
        return ""
    if target not in FLOOR:
        return "no such module"
    if target in FORBIDDEN.get(source, ()):
        return "forbidden"
    above, below = FLOOR[source], FLOOR[target]
    if below < above:
        return ""
    if below == above and above in ORDERED and FLOORS[above].index(target) < FLOORS[above].index(source):
        return ""
    return "not a lower floor"


def external_fault(module: str, root: str, at_import: bool) -> str:
    if root in NEVER:
        return "not a dependency"
    if root in ONLY_IN and not any(module == place or module.startswith(f"{place}.") for place in ONLY_IN[root]):
        return f"only in {', '.join(ONLY_IN[root])}"
    if root in LAZY and at_import and module not in NOT_LAZY_IN:
        return "only inside functions"
    if root == "torch" and at_import and module.split(".")[0] in NO_TORCH_AT_IMPORT:
        return "slow, only inside functions"
    return ""


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


def modules_of(paths: Iterable[Path]) -> list[Path]:
    """List the modules that are looked for by their name, relative to the package."""
    return sorted(path for path in paths if not path.name.startswith("__"))


MODULES = modules_of(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def crowded(modules: Iterable[Path]) -> list[str]:
    """List the folders that hold too many modules; the package's own folder holds those that FLOORS lists."""
    found = defaultdict(list)
    for path in modules:
        found[path.parent].append(path)
    return [f"{at}: {len(held)} modules" for at, held in found.items() if at != Path() and len(held) > MOST_MODULES]


def same_names(modules: Iterable[Path]) -> list[str]:
    """List the names that several modules have without a reason in QUALIFIED."""
    found = defaultdict(list)
    for path in modules:
        found[path.stem].append(str(path))
    return [", ".join(paths) for stem, paths in found.items() if len(paths) > 1 and stem not in QUALIFIED]


def untested(modules: Iterable[Path], tests: Path = TESTS) -> list[str]:
    """List the modules without a test module at the mirrored path."""
    return [str(path) for path in modules if not (tests / path.with_name(f"test_{path.name}")).is_file()]


def test_no_folder_is_crowded():
    assert crowded(MODULES) == []


def test_names_occur_once():
    assert same_names(MODULES) == []


def test_every_module_has_its_tests():
    assert untested(MODULES) == []


def test_the_rules_of_names_find_what_breaks_them(tmp_path):
    modules = [*modules_of(Path(f"train/a{number}.py") for number in range(14)), Path("train/optim/b.py")]
    assert crowded(modules) == []
    assert crowded([*modules, Path("train/b.py")]) == ["train: 15 modules"]
    assert crowded(Path(f"a{number}.py") for number in range(20)) == []
    assert same_names([*modules, Path("train/b.py")]) == ["train/optim/b.py, train/b.py"]
    assert same_names([Path("config.py"), Path("train/config.py")]) == []
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "test_a0.py").touch()
    assert untested(modules, tmp_path)[:2] == ["train/a1.py", "train/a10.py"]
    assert modules_of([Path("a/__init__.py"), Path("a/b.py")]) == [Path("a/b.py")]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=module_name)
def test_imports_point_down(path):
    assert faults_of(module_name(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("train.loop", "from tessera.pretrained.vae import load_codec"),
        ("train.loop", "def f():\n    from tessera import pretrained"),
        ("train.algorithm1", "from tessera.curate import encode"),
        ("evaluate.samples", "import tessera.generate.pipeline"),
        ("diffusion.loss", "from tessera.models.dit import DiT"),
        ("models.dit", "from tessera.diffusion import schedule"),
        ("models.dit", "from tessera import weights"),
        ("cutmix", "from tessera.miniature import render"),
        ("pretrained.vae", "from tessera.weights import export"),
        ("config", "from tessera.randomness import philox"),
        ("config", "from tessera.config2 import x"),
        ("records", "if TYPE_CHECKING:\n    from tessera.encoded.record import EncodedRecord"),
        ("presets", "from tessera.cli import main"),
        ("models.dit", "from .layers import Attention"),
        ("models.dit", "from . import layers"),
        ("pretrained.text_encoders", "import transformers"),
        ("pretrained.text_encoders", "try:\n    from transformers import T5Tokenizer\nexcept ImportError:\n    pass"),
        ("generate.pipeline", "class A:\n    import diffusers"),
        ("generate.folder", "def f():\n    import diffusers"),
        ("generate.folder", "from tessera.generate.diffusers.pipeline import TesseraPipeline"),
        ("generate.diffusers.pipeline", "import transformers"),
        ("presets", "import tyro"),
        ("pretrained.chat", "import openai"),
        ("pretrained.vqa", "def f():\n    import openai"),
        ("demo.studio", "import gradio"),
        ("metrics", "def f():\n    from scipy import linalg"),
        ("devices", "import torch"),
        ("cli", "from torch import nn"),
        ("extra", ""),
        ("", "from tessera.config import UserError"),
    ],
)
def test_the_rules_find_what_breaks_them(module, source):
    assert len(faults_of(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("train.loop", "from tessera.models.dit import DiT\nfrom tessera.train.algorithm1 import Algorithm1"),
        ("models.dit", "from tessera.models.layers import Attention"),
        ("files", "import tessera\nfrom tessera.config import UserError\nfrom tessera import __version__"),
        (
            "generate.pipeline",
            "from tessera.pretrained.text_encoders import load_text_encoder\ndef f():\n    import diffusers",
        ),
        ("pretrained.vae", "def f():\n    from diffusers import AutoencoderKL"),
        ("devices", "if TYPE_CHECKING:\n    import torch\ndef f():\n    import torch"),
        ("cli", "import tyro\nfrom tessera import presets, run"),
        ("generate.diffusers.pipeline", "from diffusers import DiffusionPipeline"),
        ("generate.diffusers.pipeline", "from tessera.generate.diffusers.model import fetch"),
        ("", "def load_pipeline():\n    from tessera.generate.pipeline import Pipeline"),
    ],
)
def test_the_rules_allow_what_keeps_them(module, source):
    assert faults_of(module, source) == []


if __name__ == "__main__":
    missing = [f"no test module: src/tessera/{name}" for name in untested(MODULES)]
    print("\n".join([*missing, *crowded(MODULES), *same_names(MODULES)]))
