#!/usr/bin/env bash
# Version:  diffusers 0.42.0 (DiTTransformer2DModel), torch 2.13.0
# Guess:    In training mode DiTTransformer2DModel drops the label of 10% of the samples (LabelEmbedding "handles
#           label dropout for classifier-free guidance", dropout_prob 0.1), as the DiT paper does: one embedding of
#           the label for the whole network, so that a tenth of each batch trains the unconditional branch that
#           guidance needs.
# Behavior: Every block has a label embedding of its own and draws its own 10%, and the output layer draws once more
#           from the first block's. A sample loses its label in all places with probability 0.1 ** (blocks + 1):
#           never, in practice. Instead most samples lose it in a few of a deep network's blocks. Guidance then
#           subtracts the prediction for an input that was never trained. To train it: drop labels before the call
#           (the null label is num_embeds_ada_norm) and set dropout_prob = 0 in each LabelEmbedding.
# Output:   of 4,000 samples, the share that loses its label in one place, in some, and in all; see the lines after
#           "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.42.0 numpy==2.4.6 >/dev/null
cat >"$folder/try.py" <<'PY'
import torch
from diffusers import DiTTransformer2DModel
from diffusers.models.embeddings import LabelEmbedding

COUNT, CLASSES = 4000, 10


def show(said, model, labels):
    dropped = []
    embeddings = [module for module in model.modules() if isinstance(module, LabelEmbedding)]
    for module in embeddings:
        null = module.embedding_table.weight[CLASSES]
        hook = lambda _, inputs, output, null=null: dropped.append((output == null).all(dim=1))
        module.register_forward_hook(hook)
    with torch.no_grad():
        model(torch.zeros(COUNT, 1, 2, 2), timestep=torch.zeros(COUNT, dtype=torch.long), class_labels=labels)
    places = torch.stack(dropped)
    shares = [f"{part.float().mean():.2f}" for part in (places[0], places.any(dim=0), places.all(dim=0))]
    print(said, f"{len(embeddings)} embeddings, {len(places)} places,", *shares)


for blocks in (2, 6, 12):
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 1, "attention_head_dim": 4, "num_layers": blocks, "norm_num_groups": 1}
    images = {"in_channels": 1, "out_channels": 1, "sample_size": 2, "patch_size": 2, "num_embeds_ada_norm": CLASSES}
    model = DiTTransformer2DModel(**sizes, **images)
    labels = torch.arange(COUNT) % CLASSES
    show(f"{blocks} blocks, train():", model.train(), labels)
for module in model.modules():
    if isinstance(module, LabelEmbedding):
        module.dropout_prob = 0
before = torch.where(torch.rand(COUNT) < 0.1, CLASSES, labels)
show("dropped before the call:", model, before)
PY
cat >"$folder/expected" <<'OUT'
2 blocks, train(): 2 embeddings, 3 places, 0.10 0.28 0.00
6 blocks, train(): 6 embeddings, 7 places, 0.11 0.51 0.00
12 blocks, train(): 12 embeddings, 13 places, 0.10 0.75 0.00
dropped before the call: 12 embeddings, 13 places, 0.09 0.09 0.09
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null |
	diff "$folder/expected" - && echo "as found"
