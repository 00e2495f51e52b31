#!/usr/bin/env bash
# Version:  torch 2.13.0 (torch.utils.flop_counter)
# Guess:    FlopCounterMode counts matrix products and attention on every device, so the FLOPs of a transformer can be
#           measured on a machine without a GPU and used for the hours and the utilization of a training on one.
# Behavior: On the CPU, scaled_dot_product_attention runs a fused kernel that the counter has no formula for: it counts 0,
#           forward and backward, without a warning. The same call is counted where the plain kernel is chosen, and on
#           the device "meta", which runs no kernel.
# Output:   see the lines after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 >/dev/null
cat >"$folder/try.py" <<'PY'
import contextlib

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

batch, heads, tokens, width = 2, 4, 64, 32
print("by hand:", 2 * 2 * batch * heads * tokens * tokens * width)
for name, device, kernel in (
    ("cpu, as chosen", "cpu", contextlib.nullcontext()),
    ("cpu, plain kernel", "cpu", sdpa_kernel(SDPBackend.MATH)),
    ("meta", "meta", contextlib.nullcontext()),
):
    query = torch.ones(batch, heads, tokens, width, device=device, requires_grad=True)
    with kernel, FlopCounterMode(display=False) as counter:
        result = scaled_dot_product_attention(query, query, query)
        forward = counter.get_total_flops()
        result.sum().backward()
    print(f"{name}: {forward} forward, {counter.get_total_flops() - forward} backward")
PY
cat >"$folder/expected" <<'OUT'
by hand: 4194304
cpu, as chosen: 0 forward, 0 backward
cpu, plain kernel: 4194304 forward, 8388608 backward
meta: 4194304 forward, 8388608 backward
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
