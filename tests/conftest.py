"""Shared settings: one thread per process, so that results and timings do not depend on the machine's load."""

import os

os.environ.setdefault("TESSERA_QUIET", "1")

import pytest
import torch

import chromium
from tiny_models import save_llava_next, save_t5, save_vae

torch.set_num_threads(1)


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
