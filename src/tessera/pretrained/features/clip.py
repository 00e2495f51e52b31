"""CLIP: images and captions in one space, for CLIPScore and CMMD."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tessera.hub import ModelFolder, fetch_repository, find_model
from tessera.images import to_uint8
from tessera.pretrained.features import encoder
from tessera.pretrained.features.encoder import CLIP_MEAN, CLIP_STD, CaptionFeatures, ImageEncoder
from tessera.pretrained.load import load_network, load_tokenizer

CLIP = "openai/clip-vit-large-patch14"
CLIP_336 = "openai/clip-vit-large-patch14-336"
PICKSCORE = "yuvalkirstain/PickScore_v1"
HPSV2 = "adams-story/HPSv2-hf"
"""HPSv2's weights (xswu/HPSv2) under transformers' names."""
Cut = Literal["keep-end", "legacy-cut"]


class ClipEncoder(ImageEncoder):
    """CLIP: images and captions in one space.

    network, tokenizer: transformers' CLIPModel and its tokenizer. crop_first: the middle square is cut out and brought
    to the size, as CMMD's published code does (Jayasumana et al. 2024); else the image is, and the square cut out.
    cut: of a caption over the length: `keep-end` cuts before the end token; `legacy-cut` cuts the end token off, which
    gives all long captions one embedding (torchmetrics, and very likely the paper's ImageNet column).
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        name: str,
        sha256: str,
        device: torch.device | str = "cpu",
        cut: Cut = "keep-end",
        crop_first: bool = False,
    ):
        super().__init__(network, name, sha256, device)
        self.tokenizer, self.cut, self.crop_first = tokenizer, cut, crop_first
        self.side: int = network.config.vision_config.image_size
        self.length: int = network.config.text_config.max_position_embeddings
        self.resizing = f"Pillow bicubic, short side to {self.side}, middle cut out"
        if crop_first:
            self.resizing = f"middle square, Pillow bicubic to {self.side} x {self.side}"

    def prepare(self, image: NDArray[Any]) -> Tensor:
        """Return float32 (3, S, S), normalized by CLIP's mean and deviation."""
        square = encoder.square_first if self.crop_first else encoder.middle_square
        return encoder.normalized(square(Image.fromarray(to_uint8(image)), self.side), CLIP_MEAN, CLIP_STD)

    def embed(self, batch: Tensor) -> Any:
        """Compute (B, D), of any length."""
        return self.network.get_image_features(pixel_values=batch)

    @torch.inference_mode()
    def captions(self, texts: Sequence[str], batch: int = 64) -> CaptionFeatures:
        """Embed captions; each alone decides its own embedding."""
        start, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        features, truncated = [], 0
        for first in range(0, len(texts), batch):
            part = list(texts[first : first + batch])
            tokens = self.tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
            rows = [[start, *ids, end] for ids in tokens]
            truncated += sum(len(row) > self.length for row in rows)
            kept = self.length - (self.cut == "keep-end")
            rows = [row if len(row) <= self.length else row[:kept] + row[-1:][: self.length - kept] for row in rows]
            longest = max(map(len, rows))
            # Attention looks back only and the end token's place is the first of its kind: padding changes nothing.
            ids = torch.tensor([row + [end if end in row else 0] * (longest - len(row)) for row in rows])
            mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
            inputs = {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}
            features.append(encoder.to_tensor(self.network.get_text_features(**inputs)).float().cpu().numpy())
        return CaptionFeatures(np.concatenate(features), truncated)


def load_clip(
    name: str = CLIP, device: torch.device | str = "cpu", cut: Cut = "keep-end", crop_first: bool = False
) -> ClipEncoder:
    """Load CLIP of a folder or of the Hub."""
    model = find_clip(name)
    return ClipEncoder(*load_parts(model, device), model.id, model.sha256, device, cut, crop_first)


def load_preference(name: str, device: torch.device | str = "cpu", by_logits: bool = False) -> ClipEncoder:
    """Load a CLIP that people's preferences were taught, of a folder or of the Hub; without a tokenizer, CLIP's own.

    by_logits: its scores are its logits, as PickScore's; else 100 cos, as HPSv2's.
    """
    model = find_clip(name)
    own = any((model.path / file).is_file() for file in ("tokenizer.json", "vocab.json"))
    words = model if own else ModelFolder(fetch_repository(CLIP, ["*.json", "merges.txt"], "clip"), CLIP, ())
    network, tokenizer = (
        load_network("transformers.CLIPModel", model, "clip", device=device),
        load_tokenizer(words, "clip"),
    )
    found = ClipEncoder(network, tokenizer, model.id, model.sha256, device)
    if by_logits:
        found.scale = float(network.logit_scale.detach().double().exp())
    return found


def find_clip(name: str) -> ModelFolder:
    """Find the CLIP called `name`, a folder or a repository of the Hub; UserError if it is another model."""
    model = find_model(name, ["*.safetensors", "*.json", "merges.txt"], "clip")
    model.config("clip", "model_type", "clip", "CLIP")
    return model


def load_parts(model: ModelFolder, device: torch.device | str = "cpu") -> tuple[Any, Any]:
    """Load transformers' CLIPModel and its tokenizer."""
    return load_network("transformers.CLIPModel", model, "clip", device=device), load_tokenizer(model, "clip")
