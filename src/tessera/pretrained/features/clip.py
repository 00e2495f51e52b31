"""CLIP and jina-clip-v2: pictures and captions in one space, for CLIPScore and CMMD."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tessera.hub import ModelFolder, find_model
from tessera.images import to_uint8
from tessera.pretrained.features.encoder import CLIP_MEAN, CLIP_STD, middle_square, square_first, standardised
from tessera.pretrained.load import load_network, load_tokenizer

CLIP = "openai/clip-vit-large-patch14"
CLIP_336 = "openai/clip-vit-large-patch14-336"
Cut = Literal["keep-end", "legacy-cut"]


@dataclass(frozen=True)
class CaptionFeatures:
    """Embedded captions."""

    features: NDArray[np.float32]
    """(N, D)."""
    truncated: int
    """Captions longer than the encoder takes."""


class ClipEncoder:
    """CLIP: pictures and captions in one space.

    network, tokenizer: transformers' CLIPModel and its tokenizer. crop_first: the middle square is cut out and brought
    to the size, as CMMD's published code does (Jayasumana et al. 2024); else the picture is, and the square cut out.
    cut: what becomes of a caption over the length: `keep-end` cuts before the end token; `legacy-cut` cuts the end
    token off, which gives all long captions one embedding (torchmetrics, and very likely the paper's ImageNet column).
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
        self.id, self.sha256, self.cut, self.crop_first = name, sha256, cut, crop_first
        self.network, self.device = network.to(device).eval().requires_grad_(False), torch.device(device)
        self.tokenizer = tokenizer
        self.side: int = network.config.vision_config.image_size
        self.length: int = network.config.text_config.max_position_embeddings

    @property
    def resizing(self) -> str:
        """In words."""
        if self.crop_first:
            return f"middle square, Pillow bicubic to {self.side} x {self.side}"
        return f"Pillow bicubic, short side to {self.side}, middle cut out"

    def prepare(self, picture: NDArray[Any]) -> Tensor:
        """float32 (3, S, S), standardised by CLIP's mean and deviation."""
        cut = square_first if self.crop_first else middle_square
        return standardised(cut(Image.fromarray(to_uint8(picture)), self.side), CLIP_MEAN, CLIP_STD)

    @torch.inference_mode()
    def features(self, batch: Tensor) -> NDArray[np.float32]:
        """float32 (B, D), of any length."""
        return embedding(self.network.get_image_features(pixel_values=batch.to(self.device)))

    @torch.inference_mode()
    def captions(self, texts: Sequence[str], batch: int = 64) -> CaptionFeatures:
        """Embeds captions; each alone decides its own embedding."""
        start, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        features, truncated = [], 0
        for first in range(0, len(texts), batch):
            rows = [
                [start, *ids, end]
                for ids in self.tokenizer(list(texts[first : first + batch]), add_special_tokens=False, verbose=False)[
                    "input_ids"
                ]
            ]
            truncated += sum(len(row) > self.length for row in rows)
            keep = (lambda row: [*row[: self.length - 1], end]) if self.cut == "keep-end" else _head(self.length)
            rows = [keep(row) if len(row) > self.length else row for row in rows]
            longest = max(map(len, rows))
            # Attention looks back only and the end token's place is the first of its kind: padding changes nothing.
            ids = torch.tensor([row + [end] * (longest - len(row)) for row in rows])
            for row, tokens in enumerate(rows):
                if end not in tokens:
                    ids[row, len(tokens) :] = 0
            mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
            features.append(
                embedding(
                    self.network.get_text_features(input_ids=ids.to(self.device), attention_mask=mask.to(self.device))
                )
            )
        return CaptionFeatures(np.concatenate(features), truncated)


def load_clip(
    name: str = CLIP, device: torch.device | str = "cpu", cut: Cut = "keep-end", crop_first: bool = False
) -> ClipEncoder:
    """CLIP of a folder or of the Hub."""
    model = find_clip(name)
    network, tokenizer = load_parts(model)
    return ClipEncoder(network, tokenizer, model.id, model.sha256, device, cut, crop_first)


def find_clip(name: str) -> ModelFolder:
    """The CLIP called `name`, a folder or a repository of the Hub; UserError if it is another model."""
    model = find_model(name, ["*.safetensors", "*.json", "merges.txt"], "clip")
    model.config("clip", "model_type", "clip", "CLIP")
    return model


def load_parts(model: ModelFolder) -> tuple[Any, Any]:
    """transformers' CLIPModel and its tokenizer."""
    return load_network("transformers.CLIPModel", model, "clip"), load_tokenizer(model, "clip")


def _head(length: int) -> Any:
    return lambda row: row[:length]


def embedding(output: Any) -> NDArray[np.float32]:
    """What get_*_features give, a tensor or within an output."""
    tensor = output if isinstance(output, Tensor) else output.pooler_output
    return tensor.float().cpu().numpy()
