"""The memory of full-size networks with gradient checkpointing, by shapes on "meta"; results: train/test_loop.py."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tessera.diffusion.loss import diffusion_loss
from tessera.models.build import build_network
from tessera.models.dit import DIT_I_L2
from tessera.models.rin import CAD_I_L
from tessera.records import Batch, TextEncoding


class LiveBytes(TorchDispatchMode):
    """The bytes of tensors that operations make, while they live, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and (storage := leaf.untyped_storage())._cdata not in given:
                given.add(storage._cdata)
                self.live += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return result

    def _free(self, count: int) -> None:
        self.live -= count


def peak_of(config, keep_less: bool) -> int:
    """The peak of a forward and a backward pass on two samples in bf16, without weights and their gradients, of which
    each is dropped at once."""
    with torch.device("meta"):
        network = build_network(config).to(torch.bfloat16)
        x, one = torch.zeros(2, 4, 32, 32), torch.zeros(2)
        text = TextEncoding(torch.zeros(2, 180, 2048, dtype=torch.bfloat16), torch.ones(2, 180, dtype=torch.bool))
        batch = Batch(x, text, one, one, x, one.bool(), one.long())
        null = torch.zeros(1, 2048, dtype=torch.bfloat16)
    if keep_less:
        network.enable_gradient_checkpointing()
    for parameter in network.parameters():
        parameter.register_post_accumulate_grad_hook(lambda parameter: setattr(parameter, "grad", None))
    keep = torch.ones(2, dtype=torch.bool) if config is CAD_I_L else None
    with LiveBytes() as bytes_:
        diffusion_loss(network, batch, null, self_condition_keep=keep)[0].backward()
    return bytes_.peak


@pytest.mark.parametrize("config", [DIT_I_L2, CAD_I_L], ids=["dit-i-l2", "cad-i-l"])
def test_activations_take_a_third_of_the_memory(config, monkeypatch):
    def fused(query, key, value, attn_mask=None):
        """What a GPU's kernels keep; on meta, torch itself would keep the scores."""
        bias = None if attn_mask is None else attn_mask.expand(-1, query.shape[1], query.shape[2], -1)
        return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, bias, True)[0]

    monkeypatch.setattr(F, "scaled_dot_product_attention", fused)
    whole, less = (peak_of(config, keep_less) for keep_less in (False, True))
    print(f"{whole / 2e6:.0f} MB and {less / 2e6:.0f} MB a sample, {less / whole:.3f}")
    assert less <= 0.35 * whole
