"""Imports point down, and the columns of the third floor join only through directories on disk.

floor 4   plan < imagenet < jobs < presets < run < study < demo < doctor < cli
floor 3   curate/  train/  generate/  evaluate/
floor 2   frozen/  weights
floor 1   diffusion/  models/  metrics  cutmix  miniature/
floor 0   config < runtime < records < files < repository < encoded < arrow < shards
"""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "tessera"

FLOORS = [
    ["config", "runtime", "records", "files", "repository", "encoded", "arrow", "shards"],
    ["diffusion", "models", "metrics", "cutmix", "miniature"],
    ["frozen", "weights"],
    ["curate", "train", "generate", "evaluate"],
    ["plan", "imagenet", "jobs", "presets", "run", "study", "demo", "doctor", "cli", "__main__"],
]
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
ORDERED = {0, 4}  # on these floors a module may import those before it
FORBIDDEN = {"train": {"frozen"}}  # training needs no pretrained network

# Where these may be imported at all; LAZY: and only inside functions (they take seconds, or are not installed).
ONLY_IN = {
    "transformers": ("frozen", "generate.pipeline"),
    "diffusers": (
        "frozen",
        "generate.pipeline",
        "generate.diffusers_model",
        "generate.diffusers_pipeline",
        "generate.peers",
    ),
    "tyro": ("cli",),
    "openai": ("frozen.openai_client", "frozen.server"),
    "modelscope": ("frozen.vqa",),
    "gradio": ("demo.page",),
    "starlette": ("demo.serve",),
}
LAZY = {"transformers", "diffusers", "openai", "modelscope"}
# Their classes have diffusers' as bases. Nothing imports these two but `tessera.load_pipeline`, when it is called.
NOT_LAZY_IN = ("generate.diffusers_model", "generate.diffusers_pipeline")
NEVER = {"torchvision", "timm", "torchmetrics", "webdataset", "scipy", "sklearn", "pickle"}
NO_TORCH_AT_IMPORT = {"config", "runtime", "records", "files", "encoded", "arrow", "shards", "cli"}


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
    if rest.removeprefix("generate.").startswith("diffusers_") and at_import and module not in NOT_LAZY_IN:
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


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=module_name)
def test_imports_point_down(path):
    assert faults_of(module_name(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("train.loop", "from tessera.frozen.vae import load_codec"),
        ("train.loop", "def f():\n    from tessera import frozen"),
        ("train.data", "from tessera.curate import encode"),
        ("evaluate.report", "import tessera.generate.pipeline"),
        ("diffusion.loss", "from tessera.models.dit import DiT"),
        ("models.dit", "from tessera.diffusion import schedule"),
        ("models.dit", "from tessera import weights"),
        ("cutmix", "from tessera.miniature import render"),
        ("weights", "from tessera.frozen import text"),
        ("config", "from tessera.runtime import philox"),
        ("config", "from tessera.config2 import x"),
        ("records", "if TYPE_CHECKING:\n    from tessera.encoded import EncodedRecord"),
        ("presets", "from tessera.cli import main"),
        ("models.dit", "from .layers import Attention"),
        ("models.dit", "from . import layers"),
        ("frozen.text", "import transformers"),
        ("frozen.text", "try:\n    from transformers import T5Tokenizer\nexcept ImportError:\n    pass"),
        ("generate.pipeline", "class A:\n    import diffusers"),
        ("generate.folder", "def f():\n    import diffusers"),
        ("generate.folder", "from tessera.generate.diffusers_pipeline import TesseraPipeline"),
        ("generate.diffusers_pipeline", "import transformers"),
        ("presets", "import tyro"),
        ("frozen.openai_client", "import openai"),
        ("frozen.vqa", "def f():\n    import openai"),
        ("demo.studio", "import gradio"),
        ("metrics", "def f():\n    from scipy import linalg"),
        ("runtime", "import torch"),
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
        ("train.loop", "from tessera.models.dit import DiT\nfrom tessera.train.data import Algorithm1"),
        ("models.dit", "from tessera.models.layers import Attention"),
        ("files", "import tessera\nfrom tessera.config import UserError\nfrom tessera import __version__"),
        ("generate.pipeline", "from tessera.frozen.text import load_text_encoder\ndef f():\n    import diffusers"),
        ("frozen.vae", "def f():\n    from diffusers import AutoencoderKL"),
        ("runtime", "if TYPE_CHECKING:\n    import torch\ndef f():\n    import torch"),
        ("cli", "import tyro\nfrom tessera import presets, run"),
        ("generate.diffusers_pipeline", "from diffusers import DiffusionPipeline"),
        ("generate.diffusers_pipeline", "from tessera.generate.diffusers_model import fetch"),
        ("", "def load_pipeline():\n    from tessera.generate.pipeline import Pipeline"),
    ],
)
def test_the_rules_allow_what_keeps_them(module, source):
    assert faults_of(module, source) == []
