"""Activations counted on `meta` against the peak of a real step on the CPU."""

from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tessera.models.build import build_network
from tessera.models.dit import DIT_I_S2
from tessera.models.memory import STATE_BYTES, activation_bytes, state_bytes
from tessera.models.rin import CAD_I_L
from tessera.records import TextEncoding

DIT = replace(DIT_I_S2, width=192, heads=3, depth=2, text_width=256)
RIN = replace(
    CAD_I_L,
    interface_width=128,
    num_latent_tokens=64,
    latent_width=192,
    blocks=1,
    layers_per_block=2,
    text_width=256,
    compute_heads=3,
    refiner_heads=3,
    read_write_heads=4,
)


def peak_of_a_step(config, samples: int, tokens: int, dtype: torch.dtype) -> int:
    """The most bytes that a forward and a backward pass had at a time, by torch's own profiler."""
    network = build_network(config).to(dtype)
    x = torch.randn(samples, config.latent_channels, config.latent_size, config.latent_size)
    mask = torch.ones(samples, tokens, dtype=torch.bool)
    text = TextEncoding(torch.randn(samples, tokens, config.text_width).to(dtype), mask)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        output, _ = network(x, torch.rand(samples), text)
        loss = output.float().square().mean()
        del output
        loss.backward()
    events = profiled.profiler.kineto_results.events()
    now = most = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("config", [DIT, RIN], ids=["dit", "rin"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_within_15_percent_of_the_measured_peak(config, dtype):
    for samples in (4, 8):
        measured = peak_of_a_step(config, samples, 60, dtype)
        assert activation_bytes(config, samples, 60, dtype) == pytest.approx(measured, rel=0.15)


def test_activations_grow_with_the_images_and_the_state_does_not():
    two, eight = (activation_bytes(DIT, samples, 60) for samples in (2, 8))
    assert eight == pytest.approx(4 * two, rel=0.01)
    with torch.device("meta"):
        count = build_network(DIT).parameter_count
    assert state_bytes(DIT, "muon") == STATE_BYTES["muon"] * count
