"""Shared settings: one thread per process, so that results and timings do not depend on the machine's load."""

import contextlib
import fcntl
import os
from pathlib import Path
from unittest.mock import patch

os.environ.setdefault("TESSERA_QUIET", "1")

import pytest
import torch

from tessera.cli import output
from tessera.miniature import WorldConfig
from tessera.report import tables
from tiny import chromium, commands
from tiny.images import BAD_IMAGES, NOT_IMAGES, WORLD, good_image
from tiny.models import save_llava_next, save_t5, save_vae

torch.set_num_threads(1)
with contextlib.suppress(ImportError):  # tests of accelerators do without
    from hypothesis import settings

    settings.register_profile("any machine", deadline=None)
    settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def new_process():
    """Forget what a command leaves in its process: `--json`, and the labels of users' own metrics."""
    lower = set(tables.LOWER_IS_BETTER)
    with patch.object(output, "as_json", False), patch.dict(tables.LABELS):
        yield
    tables.LOWER_IS_BETTER.intersection_update(lower)


@pytest.fixture(scope="session")
def vae_folder(tmp_path_factory):
    """A folder with a tiny AutoencoderKL. Tests must not write in it."""
    return save_vae(tmp_path_factory.mktemp("models") / "tiny-vae")


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory):
    """A folder with a tiny T5 of width 64 and its tokenizer. Tests must not write in it."""
    return save_t5(tmp_path_factory.mktemp("models") / "tiny-t5")


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory):
    """A folder with a tiny LLaVA-NeXT. Tests must not write in it."""
    return save_llava_next(tmp_path_factory.mktemp("models") / "tiny-llava")


@pytest.fixture(scope="module")  # no longer: while Playwright runs, asyncio cannot be started in this thread
def browser():
    """A headless Chromium; tests that ask for it are skipped where there is none."""
    with chromium.running() as started:
        yield started


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """A collected miniature of 24 images of 16 px in 3 classes. Tests must not write in it."""
    from tessera.curate.collect.collect import CollectConfig, collect

    out = tmp_path_factory.mktemp("miniature") / "images"
    collect(out, CollectConfig(size=16, world=WORLD))
    return out


@pytest.fixture(scope="session")
def smoke(tmp_path_factory) -> Path:
    """The folder of `tessera run miniature-smoke`, made once for all of pytest-xdist's processes."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    with open(root / "smoke.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "smoke" / "report" / "index.html").exists():
            made = commands.tessera("run", "miniature-smoke", "--out", root / "smoke")
            assert made.stdout == f"Report: {root / 'smoke' / 'report' / 'index.html'}\n", made.stderr
            assert "Nothing is drawn rightly yet: TA after 960 images" in made.stderr
    return root / "smoke"


@pytest.fixture(scope="session")
def world() -> WorldConfig:
    return WORLD


@pytest.fixture(name="good_image", scope="session")
def good_image_fixture():
    return good_image


@pytest.fixture(scope="session")
def bad_images():
    return BAD_IMAGES


@pytest.fixture(scope="session")
def messy(tmp_path_factory) -> Path:
    """300 image files in 5 class folders, 7 of them bad, and other files among them."""
    root = tmp_path_factory.mktemp("messy") / "my-pictures"
    folders = ["red_fox", "grey-cat", "Café noir", "\u732b", "a.b"]
    for number in range(300 - len(BAD_IMAGES)):
        suffix, data = good_image(number // 5, number)
        # Names repeat between suffixes, differ in case only, or lie deeper.
        name = ["IMG {}", "img {}", "x/{}", "photo.{}", "\u00e9t\u00e9 {}"][number % 7 % 5].format(number // 10)
        path = root / folders[number % 5] / f"{name}{suffix}"
        while path.exists():
            path = path.with_name(f"_{path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for i, (name, (data, _)) in enumerate(BAD_IMAGES.items()):
        (root / folders[i % 5] / name).write_bytes(data)
    for name in NOT_IMAGES:
        (root / folders[0] / name).write_bytes(b"other")
    for hidden in ("__MACOSX", ".cache"):
        (root / hidden).mkdir()
        (root / hidden / "a.jpg").write_bytes(b"other")
    (root / "docs").mkdir()
    return root
