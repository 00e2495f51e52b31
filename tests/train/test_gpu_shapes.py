"""Rows and lengths that a GPU's attention gets: few, whatever the texts, and none that a kernel refuses or gets wrong.

The GPU is "meta", a device that every machine has, or a CPU that is treated like one.
"""

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tessera.diffusion import loss as loss_module
from tessera.diffusion.guidance import Guided
from tessera.diffusion.loss import Denoiser, diffusion_loss
from tessera.diffusion.sampler import ddim
from tessera.diffusion.schedule import get_schedule
from tessera.encoded.record import quantize
from tessera.encoded.store import open_encoded
from tessera.models import network as network_module
from tessera.models import rin
from tessera.randomness import philox
from tessera.records import TextEncoding
from tessera.train.algorithm1 import Algorithm1, Normalization
from tessera.train.config import RuntimeOptions
from tessera.train.loader import Reader, passes
from tessera.train.loop import Trainer
from tessera.train.optim.master import MasterOptimizer
from tiny.networks import CONFIGS, make_inputs, make_network
from tiny.training_sets import DIT, RIN, WIDTH, config_of, make_records, write_set

BATCH, SIZE, PASSES = 32, 8, 200
NETWORKS = {"dit": replace(DIT, depth=1), "rin": replace(RIN, text_registers=16)}


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """Of captions of 20 to 300 tokens, and a third of few."""
    draws, records = philox(0, "shapes"), make_records(40)
    for i, record in enumerate(records):
        length = int(draws.integers(4, 40) if i % 3 == 0 else np.clip(draws.normal(180, 35), 20, 300))
        codes, scale = quantize(draws.standard_normal((length, WIDTH)))
        records[i] = replace(record, text_codes=codes, text_scale=scale)
    store = open_encoded(write_set(tmp_path_factory.mktemp("shapes") / "set", records))
    algorithm = Algorithm1(40, None, 0.4, 0.0, 5, "linear", self_condition_prob=0.9)
    return Reader(algorithm, store, None, Normalization())


@pytest.fixture
def shapes(monkeypatch):
    """(rows, length) of the keys of every call of attention: with a mask, and without."""
    found, attend = (set(), set()), F.scaled_dot_product_attention

    def recording(query, key, value, attn_mask=None):
        found[attn_mask is None].add((len(key), key.shape[2]))
        if attn_mask is not None:
            assert attn_mask.shape[-1] == key.shape[2]
        return attend(query, key, value, attn_mask=attn_mask)

    monkeypatch.setattr(F, "scaled_dot_product_attention", recording)
    return found


def check(masked, networks_lengths):
    """Each text's length gives two numbers of keys in a RIN, of its refiner and with the noise level's token."""
    lengths = {length for _, length in masked}
    assert all(length % 8 == 0 and length % 128 != 64 for length in lengths), lengths
    assert len(masked) <= 8 * networks_lengths, masked


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_training_gives_attention_few_shapes(name, reader, shapes):
    network = make_network(NETWORKS[name]).to("meta")
    null = torch.zeros(1, WIDTH, device="meta")
    raw = set()
    for numbers in passes(0, BATCH, PASSES * SIZE, SIZE, reader.lengths):
        host = reader(numbers)
        if host.text.mask.shape in raw:
            continue  # shapes depend on these alone
        raw.add(host.text.mask.shape)
        keep = host.self_condition if name != "dit" else None
        diffusion_loss(network, host.to("meta", torch.float32), null, self_condition_keep=keep)
    masked, unmasked = shapes
    check(masked, 1 if name == "dit" else 2)
    assert {rows for rows, _ in masked | unmasked} == {SIZE}  # in CAD-I's first forward too
    assert len(raw) > 15  # the texts were of many lengths


@pytest.mark.parametrize("name", NETWORKS)
def test_generation_gives_attention_few_shapes(name, shapes):
    network, draws = make_network(NETWORKS[name]).to("meta").eval(), philox(0, "prompts")
    null, noise = torch.zeros(1, WIDTH, device="meta"), torch.zeros(4, 4, 4, 4, device="meta")
    with torch.inference_mode():
        for _ in range(8):
            texts = [torch.zeros(int(draws.integers(4, 200)), WIDTH) for _ in range(4)]
            guided = Guided(Denoiser(network, "eps"), TextEncoding.stack(texts).to("meta"), null, 3.0)
            ddim(guided, noise, get_schedule("linear"), 1)
    check(shapes[0], 2)  # a DiT's null rows skip their cross-attention


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # dynamo's own
@pytest.mark.parametrize("compile_it", [True, "whole"])
@pytest.mark.parametrize("name", NETWORKS)
def test_fifty_steps_take_few_compiled_programs(name, compile_it, reader, monkeypatch):
    """On a CPU that is treated as a GPU; `compile_it` as in RuntimeOptions."""
    made = []

    def backend(graph, _inputs):
        made.append(graph)
        return graph.forward

    for module in (network_module, rin, loss_module):
        monkeypatch.setattr(module, "few_shapes", lambda device: True)
    monkeypatch.setattr(MasterOptimizer, "compile", lambda self: None)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    torch.compiler.reset()
    config = config_of(model=NETWORKS[name], num_images=50 * SIZE, batch_size=SIZE, augment_prob=0.0)
    runtime = RuntimeOptions(compile=compile_it, device_batch_size=SIZE)
    trainer = Trainer(Path("unused"), reader.plain, None, config, torch.device("cpu"), runtime)
    numbers = passes(0, SIZE, 50 * SIZE, SIZE, trainer.reader.lengths)
    lengths = set()
    for _ in range(50):
        host = trainer.reader(next(numbers))
        lengths.add(host.text.mask.shape[1])
        trainer.stepper.step([host])
    torch.compiler.reset()
    assert len(lengths) > 8
    assert 0 < len(made) <= 4


@pytest.mark.parametrize("name", CONFIGS)
def test_results_are_the_same(name, monkeypatch):
    """By networks on a CPU that is treated as a GPU: outputs, and the loss of kept and other rows."""
    network, (x, alpha_bar, text) = make_network(CONFIGS[name]), make_inputs()
    keep = torch.tensor([True, False, True]) if name.startswith("rin") else None

    def computed():
        if keep is None:
            return [network(x, alpha_bar, text)[0]]
        state = loss_module._self_condition(network, x, alpha_bar, text, keep, network)
        return [network(x, alpha_bar, text)[0], state.latent_tokens, network(x, alpha_bar, text, state)[0]]

    expected = computed()
    for module in (network_module, rin, loss_module):
        monkeypatch.setattr(module, "few_shapes", lambda device: True)
    assert network.encode_text(text).bias.shape[-1] % 8 == 0
    for ours, theirs in zip(computed(), expected):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
