"""doctor: what this machine can do for tessera, and the one command that fixes each problem.

Uses no network, unless it is asked whether the Hub gives the weights that are not on this machine.
"""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tessera
from tessera.devices import UNSEEN, UNSEEN_FIX, pick_device
from tessera.extras import install_command

State = Literal["ok", "missing", "note"]

EXTRAS = {
    "hub": (("diffusers", "transformers", "accelerate", "huggingface_hub"), "published weights, the Hub, captioners"),
    "demo": (("gradio",), "`tessera demo`"),
    "cluster": (("ray",), "curation on many machines"),
    "serve": (("openai",), "captions by a server"),
    "fp8": (("torchao",), "training in FP8"),
}
"""Extra of the package -> (modules, purpose)."""

WEIGHTS = {
    "stabilityai/sd-vae-ft-ema": "latents of images (its VAE)",
    "google/flan-t5-xl": "texts of the full-size models",
    "Lucasdegeorge/CAD-I": "the published CAD-I",
    "llava-hf/llama3-llava-next-8b-hf": "long captions of your own images",
    "meta-llama/Llama-3.1-8B-Instruct": "longer prompts by a language model",
    "facebook/dinov2-large": "`evaluate quality`: FD-DINOv2, precision, recall",
    "openai/clip-vit-large-patch14": "`evaluate quality` and `evaluate geneval`: CLIP",
}
"""Hub repository -> purpose of its weights."""

_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Result of one check."""

    what: str
    state: State
    """ "missing": something will not work; "note": only some things need it."""
    found: str
    fix: str = ""
    """The command, or what to do; "" where nothing is missing."""


def examine(folder: Path = Path(), online: bool = False) -> list[Finding]:
    """Run all checks; `folder` is that of the work. online: ask the Hub about weights that are not on this machine."""
    return [*_python(), *_devices(), *_room(folder), *_extras(), *_weights(online)]


def to_json(findings: list[Finding]) -> dict[str, Any]:
    """Return the findings for scripts."""
    return {
        "tessera": tessera.__version__,
        "ready": all(f.state != "missing" for f in findings),
        "findings": [asdict(f) for f in findings],
    }


def describe(findings: list[Finding]) -> str:
    """Return the findings as lines of text, each fix below its problem."""
    signs = {"ok": "ok", "missing": "MISSING", "note": ""}
    lines = ((f"{signs[f.state]:7} {f.what}: {f.found}", f"\n          -> {f.fix}" * bool(f.fix)) for f in findings)
    return "\n".join(line + fix for line, fix in lines)


def _result(what: str, found: str, fix: str = "", state: State = "missing") -> Finding:
    return Finding(what=what, state=state if fix else "ok", found=found, fix=fix)


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield _result("python", f"{version}, tessera {tessera.__version__}")
    torch = _version("torch")
    if torch is None:
        yield _result("torch", "not installed", "pip install 'torch>=2.9'")
        return
    recent = tuple(int(part) for part in torch.split("+")[0].split(".")[:2]) >= (2, 9)
    yield _result("torch", torch, "" if recent else "pip install --upgrade 'torch>=2.9'")


def _devices() -> Iterator[Finding]:
    if _version("torch") is None:
        return
    import torch

    device = pick_device()
    if device.type == "cuda":
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            yield _result(f"cuda:{number}", f"{about.name}, {about.total_memory / _GIB:.0f} GiB")
    elif device.type == "mps":
        yield _result("mps", "Apple GPU")
    elif shutil.which("nvidia-smi") is not None:
        yield _result("gpu", UNSEEN, UNSEEN_FIX)
    else:
        yield _result("gpu", "no GPU", "the miniature needs none, full sizes do", "note")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield _result("cpu", f"{cores} cores")


def _room(folder: Path) -> Iterator[Finding]:
    if (memory := _memory()) is not None:
        fix = "" if memory >= 4 * _GIB else "free some: `make run` takes about 4 GiB"
        yield _result("memory", f"{memory / _GIB:.1f} GiB free", fix)
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free, writable = shutil.disk_usage(place).free, os.access(place, os.W_OK)
    found = f"{free / _GIB:.1f} GiB free in {folder}" + ("" if writable else ", not writable")
    yield _result("disk", found, "" if free >= 5 * _GIB and writable else "choose another folder, or make room")


def _memory() -> int | None:
    """Return the bytes that new programs can have; None where the system does not tell."""
    try:
        found = re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _extras() -> Iterator[Finding]:
    for extra, (modules, purpose) in EXTRAS.items():
        there = {name: _version(name) for name in modules}
        if missing := ", ".join(name for name, version in there.items() if version is None):
            yield _result(f"extra {extra}", f"{missing} not installed; for {purpose}", install_command(extra), "note")
        else:
            yield _result(f"extra {extra}", ", ".join(f"{name} {version}" for name, version in there.items()))


def _weights(online: bool) -> Iterator[Finding]:
    """Look for the weights in the Hub's cache and, if asked, ask the Hub for the others."""
    for repo, purpose in WEIGHTS.items():
        if any(hub_cache().glob(f"models--{repo.replace('/', '--')}/snapshots/*/*")):
            yield _result(repo, "in the cache")
        else:
            found, fix = _ask_hub(repo) if online else ("not on this machine", f"hf download {repo}")
            yield _result(repo, f"{found}; for {purpose}", fix, "note")


def _ask_hub(repo: str) -> tuple[str, str]:
    """Return what the Hub answers to this machine, and what to do."""
    if _version("huggingface_hub") is None:
        return "not on this machine; the Hub cannot be asked", install_command("hub")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        HfApi().auth_check(repo)
    except GatedRepoError:
        return "the Hub gives it only to whom its owners allow", f"hf auth login && hf download {repo}"
    except RepositoryNotFoundError:
        return "the Hub has it no more", "give the verb that needs it a folder with these weights"
    except Exception as error:  # no connection, a proxy's page, a mirror that answers otherwise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        return f"the Hub cannot be reached ({reason})", f"hf download {repo}, where it can, and copy {hub_cache()}"
    return "not on this machine, can be downloaded", f"hf download {repo}"


def hub_cache() -> Path:
    """Return the folder of the Hub's files, by the same environment variables as huggingface_hub."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def _version(module: str) -> str | None:
    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        return None if importlib.util.find_spec(module) is None else "of unknown version"
