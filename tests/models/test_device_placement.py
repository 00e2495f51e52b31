"""Nothing strays from the network's device: sampling and the loss on a device that is not the CPU.

The device is "meta", which every machine has. Its tensors have no values, so reading one on the host fails, as it would
stall a GPU; tensors of two devices in one operation are refused; and so is float64, which Apple's GPUs do not have.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tessera.diffusion.guidance import Guided
from tessera.diffusion.loss import Denoiser, diffusion_loss
from tessera.diffusion.sampler import SAMPLERS
from tessera.diffusion.schedule import PREDICTIONS, SCHEDULES, get_schedule
from tessera.records import Batch
from tiny.networks import CONFIGS, make_network, make_text

MOVES = ("aten::_to_copy", "aten::to", "aten::copy_", "aten::zeros_like", "aten::randn_like")


class OneDevice(TorchDispatchMode):
    """Refuses operations between the device and the CPU (numbers aside, as torch does), and float64 on the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if func._schema.name not in MOVES:
            devices = {leaf.device.type for leaf in given if leaf.ndim} | {leaf.device.type for leaf in made}
            assert len(devices) <= 1, f"{func} mixes {devices}"
        for leaf in (*given, *made):
            assert leaf.device.type != "meta" or leaf.dtype != torch.float64, f"{func} with float64 on the device"
        return result


def test_the_check_finds_each_of_the_three():
    there = torch.ones(3, device="meta")
    with OneDevice():
        with pytest.raises((AssertionError, RuntimeError)):
            torch.cat([there, torch.ones(3)])
        with pytest.raises(AssertionError, match="float64"):
            there.double()
        with pytest.raises((RuntimeError, NotImplementedError)):
            there.sum().item()
        assert (there * torch.tensor(2.0)).device.type == "meta"  # a number is no stray


@pytest.fixture(params=CONFIGS)
def network(request):
    return make_network(CONFIGS[request.param]).to("meta")


def noise_for(network):
    config = network.config
    return torch.randn(3, config.latent_channels, config.latent_size, config.latent_size).to("meta")


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_sampling(network, sampler, prediction):
    text, null = make_text().to("meta"), torch.randn(1, network.config.text_width).to("meta")
    options = {"generator": torch.Generator().manual_seed(0)} if sampler == "ddpm" else {}
    with torch.inference_mode(), OneDevice():
        guided = Guided(Denoiser(network, prediction), text, null, 3.0, (0.2, 0.8), 3.0)
        latents = SAMPLERS[sampler](guided, noise_for(network), get_schedule("linear"), 4, **options)
    assert (latents.device.type, latents.dtype) == ("meta", torch.float32)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule(schedule):
    network = make_network(CONFIGS["dit"]).to("meta")
    with torch.inference_mode(), OneDevice():
        guided = Guided(Denoiser(network, "eps"), make_text().to("meta"))
        SAMPLERS["ddim"](guided, noise_for(network), get_schedule(schedule), 3)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_loss_and_gradients(network, prediction):
    x = noise_for(network)
    batch = Batch(
        latents=x,
        noise=x,
        t=torch.rand(3),
        alpha_bar=torch.rand(3),
        text=make_text(),
        dropped=torch.tensor([True, False, False]),
        numbers=torch.arange(3),
    ).to("meta")
    null = torch.randn(1, network.config.text_width).to("meta")
    keep = torch.tensor([True, False, True]) if hasattr(network, "latent_tokens") else None
    with OneDevice():
        loss, _ = diffusion_loss(network, batch, null, prediction=prediction, self_condition_keep=keep)
        loss.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
