"""doctor: what this machine can do for tessera, and the one command that mends each lack.

Reaches for no network, unless it is asked whether the Hub gives the weights that are not here.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tessera
from tessera.devices import pick_device
from tessera.extras import install_command

State = Literal["ok", "lack", "note"]

EXTRAS = {
    "hub": (
        ("diffusers", "transformers", "accelerate", "huggingface_hub"),
        "published weights, the Hub, captioners",
    ),
    "demo": (("gradio",), "`tessera demo`"),
    "cluster": (("ray",), "curation on many machines"),
    "serve": (("openai",), "captions by a server"),
}
"""Extra of the package -> (modules, what it is for)."""

WEIGHTS = {
    "stabilityai/sd-vae-ft-ema": "latents of pictures (its VAE)",
    "google/flan-t5-xl": "texts of the full-size models",
    "Lucasdegeorge/CAD-I": "the published CAD-I",
    "llava-hf/llama3-llava-next-8b-hf": "long captions of your own pictures",
    "meta-llama/Llama-3.1-8B-Instruct": "longer prompts by a language model",
    "facebook/dinov2-large": "`evaluate quality`: FD-DINOv2, precision, recall",
    "openai/clip-vit-large-patch14": "`evaluate quality` and `evaluate geneval`: CLIP",
}
"""Hub repository -> what its weights are for."""

_GIB = 2**30
_MIN_DISK, _MIN_MEMORY = 5 * _GIB, 4 * _GIB


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked at."""

    what: str
    state: State
    """ "lack": something will not work; "note": only some things need it."""
    found: str
    fix: str = ""
    """The command, or what to do; "" where nothing lacks."""


def examine(folder: Path = Path(), online: bool = False) -> list[Finding]:
    """All findings; `folder` is where the work is to lie. online: ask the Hub about weights that are not here."""
    return [*_python(), *_devices(), *_room(folder), *_extras(), *_weights(online)]


def to_json(findings: list[Finding]) -> dict[str, Any]:
    """The findings for scripts."""
    return {
        "tessera": tessera.__version__,
        "ready": all(f.state != "lack" for f in findings),
        "findings": [asdict(f) for f in findings],
    }


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(what="python", state="ok", found=f"{version}, tessera {tessera.__version__}")
    torch = _version("torch")
    if torch is None:
        yield Finding(what="torch", state="lack", found="not installed", fix="pip install 'torch>=2.9'")
        return
    recent = tuple(int(part) for part in torch.split("+")[0].split(".")[:2]) >= (2, 9)
    fix = "" if recent else "pip install --upgrade 'torch>=2.9'"
    yield Finding(what="torch", state="ok" if recent else "lack", found=torch, fix=fix)


def _devices() -> Iterator[Finding]:
    if _version("torch") is None:
        return
    import torch

    device = pick_device()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if device.type == "cuda":
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            found = f"{about.name}, {about.total_memory / _GIB:.0f} GiB"
            yield Finding(what=f"cuda:{number}", state="ok", found=found)
    elif device.type == "mps":
        yield Finding(what="mps", state="ok", found="Apple GPU")
    else:
        driver = shutil.which("nvidia-smi") is not None
        fix = "pip install --force-reinstall torch" if driver else "the miniature needs none, full sizes do"
        why = "a driver is there, but this torch sees no GPU" if driver else "no GPU"
        yield Finding(what="gpu", state="lack" if driver else "note", found=why, fix=fix)
    yield Finding(what="cpu", state="ok", found=f"{cores} cores")


def _room(folder: Path) -> Iterator[Finding]:
    memory = _memory()
    if memory is not None:
        enough = memory >= _MIN_MEMORY
        fix = "" if enough else "free some: `make run` takes about 4 GiB"
        yield Finding(what="memory", state="ok" if enough else "lack", found=f"{memory / _GIB:.1f} GiB free", fix=fix)
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    writable = os.access(place, os.W_OK)
    found = f"{free / _GIB:.1f} GiB free in {folder}" + ("" if writable else ", not writable")
    enough = free >= _MIN_DISK and writable
    fix = "" if enough else "choose another folder with --out, or make room"
    yield Finding(what="disk", state="ok" if enough else "lack", found=found, fix=fix)


def _memory() -> int | None:
    """Bytes that new programs can have; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def _extras() -> Iterator[Finding]:
    for extra, (modules, purpose) in EXTRAS.items():
        there = {name: _version(name) for name in modules}
        missing = [name for name, version in there.items() if version is None]
        if missing:
            fix = install_command(extra)
            found = f"{', '.join(missing)} not installed; for {purpose}"
            yield Finding(what=f"extra {extra}", state="note", found=found, fix=fix)
        else:
            found = ", ".join(f"{name} {version}" for name, version in there.items())
            yield Finding(what=f"extra {extra}", state="ok", found=found)


def _weights(online: bool) -> Iterator[Finding]:
    """Weights in the Hub's cache on this machine and, if asked, whether the Hub gives the others."""
    cache = hub_cache()
    for repo, purpose in WEIGHTS.items():
        snapshots = cache / f"models--{repo.replace('/', '--')}" / "snapshots"
        if any(snapshots.glob("*/*")):
            yield Finding(what=repo, state="ok", found="in the cache")
        else:
            found, fix = _ask_hub(repo) if online else ("not on this machine", f"hf download {repo}")
            yield Finding(what=repo, state="note", found=f"{found}; for {purpose}", fix=fix)


def _ask_hub(repo: str) -> tuple[str, str]:
    """Whether the Hub gives these weights to whoever asks from here, and what to do."""
    if _version("huggingface_hub") is None:
        return "not on this machine; the Hub cannot be asked", install_command("hub")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        HfApi().auth_check(repo)
    except GatedRepoError:
        return "the Hub gives it only to those whom its owners let", f"hf auth login && hf download {repo}"
    except RepositoryNotFoundError:
        return "the Hub knows it no more", "give the verb that needs it a folder with these weights"
    except Exception as error:  # no connection, a proxy's page, a mirror that answers otherwise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        return f"the Hub cannot be reached ({reason})", f"hf download {repo}, where it can, and copy {hub_cache()}"
    return "not on this machine, can be downloaded", f"hf download {repo}"


def hub_cache() -> Path:
    """Where the Hub's files are kept, by the same environment variables as huggingface_hub."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def _version(module: str) -> str | None:
    if importlib.util.find_spec(module) is None:
        return None
    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"
