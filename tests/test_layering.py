"""Imports point down, and the columns of floor 3 join only through directories on disk.

floor 5   presets < plan < jobs < run < study < demo < doctor < cli
floor 4   report/
floor 3   curate/  ->  train/  ->  generate/  ->  evaluate/
floor 2   pretrained < weights < prompts
floor 1   diffusion/  models/  metrics/  cutmix  miniature/
floor 0   config < extras < devices < progress < randomness < signals < records < files < stages < images < hub
          < workers < encoded
"""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "tessera"

FLOORS = [
    [
        *("config", "extras", "devices", "progress", "randomness", "signals", "records", "files", "stages"),
        *("images", "hub", "workers", "encoded"),
    ],
    ["diffusion", "models", "metrics", "cutmix", "miniature"],
    ["pretrained", "weights", "prompts"],
    ["curate", "train", "generate", "evaluate"],
    ["report"],
    ["presets", "plan", "jobs", "run", "study", "demo", "doctor", "cli", "__main__"],
]
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
ORDERED = {0, 2, 5}  # on these floors a module may import those before it
FORBIDDEN = {"train": {"pretrained"}}  # training needs no pretrained network

# Where these may be imported at all; LAZY: and only inside functions (they take seconds, or are not installed).
ONLY_IN = {
    "transformers": ("pretrained", "generate.pipeline"),
    "diffusers": ("pretrained", "generate.pipeline", "generate.diffusers", "generate.baselines"),
    "tyro": ("cli",),
    "openai": ("pretrained.chat", "pretrained.captioner.server"),
    "modelscope": ("pretrained.vqa",),
    "gradio": ("demo.page",),
    "starlette": ("demo.serve",),
}
LAZY = {"transformers", "diffusers", "openai", "modelscope"}
# Their classes have diffusers' as bases. Nothing imports these two but `tessera.load_pipeline`, when it is called.
NOT_LAZY_IN = ("generate.diffusers.model", "generate.diffusers.pipeline")
NEVER = {"torchvision", "timm", "torchmetrics", "webdataset", "scipy", "sklearn", "pickle"}
NO_TORCH_AT_IMPORT = {*FLOORS[0], "cli"}


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
