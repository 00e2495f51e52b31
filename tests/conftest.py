"""Shared settings: one thread per process, so that results and timings do not depend on the machine's load."""

import os

os.environ.setdefault("TESSERA_QUIET", "1")

import torch

torch.set_num_threads(1)
