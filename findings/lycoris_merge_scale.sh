#!/usr/bin/env bash
# Version:  lycoris-lora 4.1.3 (create_lycoris, merge_to, onfly_merge), torch 2.13.0
# Guess:    A trained LoHa or LoKr, merged into the weights to draw without the package, draws as it did when it was
#           trained: merge_to(1.0) adds the same change of the weights as the forward pass, as it does for LoRA.
# Behavior: The forward pass multiplies the change by alpha / dim, merging multiplies it by alpha / dim twice. With
#           alpha 1 and dim 4, the defaults, a quarter of what was learned is merged, with dim 16 a sixteenth: the
#           merged model draws almost as the base model does, without an error. The same file, applied in place of
#           merged, is right. onfly_merge, for a model in use, does the same. LoRA, alpha = dim, and the LoKr layers
#           whose factors are whole matrices are right. A LoHa can be merged by merge_to(dim / alpha).
# Output:   the change of a layer's output by each use of one adapter, as a part of the change that was trained; see the
#           lines after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 einops==0.8.2 toml==0.10.2 safetensors==0.8.0 \
	tqdm >/dev/null
"$folder/venv/bin/pip" install --quiet --no-deps lycoris-lora==4.1.3 >/dev/null
cat >"$folder/try.py" <<'PY'
import copy
import logging

import torch
from lycoris import create_lycoris, create_lycoris_from_weights

logging.getLogger("LyCORIS").setLevel(logging.ERROR)  # its reports of what was found and loaded go to stdout
torch.manual_seed(0)
base = torch.nn.Sequential(torch.nn.Linear(256, 256))
x = torch.randn(8, 256)


def loaded(weights):
    """Return a copy of the base network and the adapter of these weights for it."""
    network = copy.deepcopy(base)
    return network, create_lycoris_from_weights(1.0, "", network, weights_sd=weights)[0]


@torch.no_grad()
def parts(algorithm, dim, alpha, **options):
    """Return the change of the output by each use of one adapter, as parts of the change that was trained."""
    network = copy.deepcopy(base)
    adapter = create_lycoris(network, 1.0, linear_dim=dim, linear_alpha=alpha, algo=algorithm, **options)
    adapter.apply_to()
    for weight in adapter.parameters():  # in place of a training
        weight.add_(torch.randn_like(weight))
    trained = network(x) - base(x)
    weights = {name: value.clone() for name, value in adapter.state_dict().items()}

    changes = {}
    for use in ("apply_to", "merge_to", "onfly_merge"):
        network, adapter = loaded(weights)
        getattr(adapter, use)()
        changes[use] = network(x) - base(x)
    network, adapter = loaded(weights)
    adapter.merge_to(dim / alpha)
    changes["merge_to(dim / alpha)"] = network(x) - base(x)
    for change in changes.values():  # each is a multiple of the trained one
        torch.testing.assert_close(change, trained * (change.norm() / trained.norm()), rtol=1e-3, atol=1e-2)
    return ", ".join(f"{use} {(change.norm() / trained.norm()).item():.3f}" for use, change in changes.items())


for algorithm, dim, alpha, options in (
    ("lora", 4, 1, {}),
    ("loha", 4, 1, {}),
    ("loha", 16, 1, {}),
    ("loha", 16, 16, {}),
    ("lokr", 4, 1, {}),
    ("lokr", 4, 1, {"full_matrix": True}),
):
    said = ", ".join([f"dim {dim}", f"alpha {alpha}", *options])
    print(f"{algorithm}, {said}: {parts(algorithm, dim, alpha, **options)}")
PY
cat >"$folder/expected" <<'OUT'
lora, dim 4, alpha 1: apply_to 1.000, merge_to 1.000, onfly_merge 1.000, merge_to(dim / alpha) 4.000
loha, dim 4, alpha 1: apply_to 1.000, merge_to 0.250, onfly_merge 0.250, merge_to(dim / alpha) 1.000
loha, dim 16, alpha 1: apply_to 1.000, merge_to 0.062, onfly_merge 0.062, merge_to(dim / alpha) 1.000
loha, dim 16, alpha 16: apply_to 1.000, merge_to 1.000, onfly_merge 1.000, merge_to(dim / alpha) 1.000
lokr, dim 4, alpha 1: apply_to 1.000, merge_to 0.250, onfly_merge 0.250, merge_to(dim / alpha) 1.000
lokr, dim 4, alpha 1, full_matrix: apply_to 1.000, merge_to 1.000, onfly_merge 1.000, merge_to(dim / alpha) 4.000
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
