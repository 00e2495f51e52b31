"""Devices, threads, ranks and memory."""

import subprocess
import sys

import pytest
import torch

from tessera import devices
from tessera.config import UserError
from tessera.devices import is_fast_in_bf16, peak_tflops, pick_device, set_threads, usual_defaults
from tiny.defaults import CHOICES, torch_defaults


def test_rank_and_world_size(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (devices.rank(), devices.world_size()) == (0, 1)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert (devices.rank(), devices.world_size()) == (3, 8)


def test_pick_device(monkeypatch, capsys):
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="unknown device 'tpu'"):
        pick_device("tpu")
    with pytest.raises(UserError, match="unknown device 'cuda:x'"):
        pick_device("cuda:x")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device() == torch.device("cpu")
    assert capsys.readouterr().err == ""
    for driver, fix in ((None, ""), ("/usr/bin/nvidia-smi", "; a driver is there, but .*: pip install .* torch")):
        monkeypatch.setattr(devices.shutil, "which", lambda name, driver=driver: driver)
        with pytest.raises(UserError, match=f"device 'cuda' is not available here; available: cpu{fix}$"):
            pick_device("cuda")
    assert [pick_device(), pick_device()] == [torch.device("cpu")] * 2
    assert (
        capsys.readouterr().err.count("this runs on the CPU: a driver is there, but this torch sees no GPU: pip") == 1
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert pick_device() == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert pick_device() == torch.device("cuda:2")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match="this machine has 4 GPUs"):
        pick_device("cuda:4")
    monkeypatch.setenv("LOCAL_RANK", "4")
    with pytest.raises(UserError, match="rank 4 of this machine finds 4 GPUs"):
        pick_device()


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_usual_defaults_end_with_the_function(choice):
    @usual_defaults
    def made(fails: bool = False) -> torch.Tensor:
        if fails:
            raise UserError("no tensor")
        return torch.ones(2)

    with torch_defaults(choice):
        chosen = torch.get_default_device(), torch.get_default_dtype()
        tensor = made()
        with pytest.raises(UserError, match="no tensor"):
            made(fails=True)
        assert (torch.get_default_device(), torch.get_default_dtype()) == chosen
    assert (tensor.device.type, tensor.dtype) == ("cpu", torch.float32)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_memory_is_reused():
    """A block of 16 MB, freed and taken again: its pages are not new ones."""
    code = """if True:
        import ctypes
        import resource
        import sys
        from tessera.devices import reuse_memory
        libc, size = ctypes.CDLL(None), 2**24
        libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        def faults():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            block = libc.malloc(ctypes.c_size_t(size))
            ctypes.memset(block, 1, size)
            libc.free(block)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        if sys.argv[1] == "reuse":
            reuse_memory()
        faults()
        print(faults())
    """
    returned, reused = (
        int(subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True, check=True).stdout)
        for how in ("return", "reuse")
    )
    assert 2 * reused < returned, (reused, returned)


def test_set_threads(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    set_threads(None)
    set_threads(2)
    assert asked == [2]
    with pytest.raises(UserError, match="threads must be at least 1"):
        set_threads(0)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA GB200", 2500),
        ("NVIDIA B200", 2250),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 3090", 71),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("Tesla V100-SXM2-16GB", None),
    ],
)
def test_the_peak_is_read_from_the_name(name, peak):
    assert peak_tflops(name) == peak


def test_a_process_of_slurm_may_see_its_own_gpu_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert pick_device() == torch.device("cuda:0")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")  # torchrun shows all processes the same GPUs
    with pytest.raises(UserError, match="start no more processes than there are GPUs"):
        pick_device()


@pytest.mark.parametrize(
    ("has", "fast"),
    [
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, True),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, False),
        ({"cpu_name": "AMD EPYC 9575F", "avx512_bf16": True, "amx_bf16": False}, True),
        ({"cpu_name": "Intel Core i7-1165G7", "avx512_bf16": False, "avx2": True}, False),
        ({"cpu_name": "AMD Ryzen 5 5600X", "avx512_bf16": False, "avx2": True}, False),
        ({"architecture": "arm64"}, False),
    ],
)
def test_bf16_is_fast_on_some_cpus(has, fast, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    assert is_fast_in_bf16(torch.device("cpu")) == fast
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not is_fast_in_bf16(torch.device("cpu"))


def test_bf16_is_fast_on_gpus_that_have_it(monkeypatch):
    for has in (False, True):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has)
        assert is_fast_in_bf16(torch.device("cuda")) == has
