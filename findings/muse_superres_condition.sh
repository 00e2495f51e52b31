#!/usr/bin/env bash
# Version:  muse-maskgit-pytorch 0.3.5 (MaskGit), torch 2.13.0
# Guess:    MaskGit(cond_image_size=256, image_size=512) trains Muse's second network: called with large images and
#           texts, as in the README, it makes the small images of them and learns to draw the large from the small ones.
# Behavior: The small images are computed and then not used. The network is trained from the texts alone, without an
#           error, and generate(), which asks for small images, is the first to show it one. What it draws does not
#           follow the small image. A network that is given cond_images in training too follows it.
# Output:   how many pixels of an image of one gray have the gray of the small image, where 1 in 8 is chance; see the
#           lines after "expected" below. The tokenizer is replaced by one whose tokens are the 8 grays, T5 by a
#           constant; torchvision and the packages of the trainer and the quantizer are left out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 einops==0.8.2 beartype==0.23.1 pillow==13.0.0 \
	packaging tqdm >/dev/null
"$folder/venv/bin/pip" install --quiet --no-deps muse-maskgit-pytorch==0.3.5 >/dev/null
cat >"$folder/try.py" <<'PY'
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import torch
import torch.nn.functional as F

for name in ("torchvision", "torchvision.transforms", "torchvision.utils", "torchvision.datasets", "transformers"):
    sys.modules[name] = MagicMock()
for name in ("accelerate", "ema_pytorch", "vector_quantize_pytorch", "memory_efficient_attention_pytorch"):
    sys.modules[name] = MagicMock()
sys.modules["memory_efficient_attention_pytorch.flash_attention"] = MagicMock()
sys.modules["muse_maskgit_pytorch.trainers"] = MagicMock()
from muse_maskgit_pytorch import MaskGit, MaskGitTransformer, VQGanVAE
from muse_maskgit_pytorch.t5 import DEFAULT_T5_NAME, T5_CONFIGS

T5_CONFIGS[DEFAULT_T5_NAME] = {"config": SimpleNamespace(d_model=8)}
GRAYS, TEXTS = 8, ["a gray image"] * 64


class Tokens(VQGanVAE):
    """A tokenizer that loses nothing: the token of a pixel is its gray."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.codebook_size = GRAYS

    def copy_for_eval(self):
        return self

    def get_encoded_fmap_size(self, image_size):
        return image_size

    def encode(self, images):
        return None, (images[:, 0] * (GRAYS - 1)).round().long(), None

    def decode_from_ids(self, ids):
        return ids[:, None] / (GRAYS - 1)


def one_gray(size):
    return torch.randint(GRAYS, (64, 1, 1, 1)).expand(-1, -1, size, size) / (GRAYS - 1)


def share(told):
    """Train a network for images of 4 x 4; return the share of drawn pixels in the gray of the image of 2 x 2."""
    torch.manual_seed(0)
    transformer = MaskGitTransformer(num_tokens=GRAYS, dim=32, seq_len=16, depth=2, dim_head=16, heads=2, flash=False)
    transformer.encode_text = lambda texts: torch.ones(len(texts), 1, 8)
    network = MaskGit(vae=Tokens(), transformer=transformer, image_size=4, cond_image_size=2, cond_drop_prob=0.25)
    optimizer = torch.optim.Adam(transformer.parameters(), lr=3e-3)
    for _ in range(200):
        images = one_gray(4)
        small = {"cond_images": F.interpolate(images, 2)} if told else {}
        optimizer.zero_grad()
        network(images, texts=TEXTS, **small).backward()
        optimizer.step()
    small = one_gray(2)
    drawn = network.generate(texts=TEXTS, cond_images=small, cond_scale=1.0, timesteps=6)
    return (drawn == small[:, :, :1, :1]).float().mean().item()


for told in (False, True):
    words = "more than 9 of 10" if share(told) > 0.9 else "fewer than 1 of 3" if share(told) < 1 / 3 else "some"
    print(f"trained with {'large and small images' if told else 'large images'}: {words}")
PY
cat >"$folder/expected" <<'OUT'
trained with large images: fewer than 1 of 3
trained with large and small images: more than 9 of 10
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
