"""jina-clip-v2, which scores captions of any length. Its network is code of the Hub, of which transformers has only the
text half: it runs after a flag, at pinned commits, and with the Hub out of reach, so that nothing else is fetched.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tessera.config import UserError
from tessera.files import read_json
from tessera.hub import CONFIG_FILE, fetch_repository, find_model
from tessera.images import to_uint8
from tessera.pretrained.features import encoder
from tessera.pretrained.features.encoder import CLIP_MEAN, CLIP_STD, CaptionFeatures, ImageEncoder
from tessera.pretrained.load import load_network, load_tokenizer

JINA = "jinaai/jina-clip-v2"
_COMMIT = re.compile(r"[0-9a-f]{40}")


class JinaEncoder(ImageEncoder):
    """jina-clip-v2: images at 512 px, captions up to 8192 tokens; its network is the repository's own code."""

    cut = "keep-end"

    def __init__(
        self, network: Any, tokenizer: Any, name: str, sha256: str, device: torch.device | str = "cpu", side: int = 512,
        length: int = 8192,
    ):  # fmt: skip
        super().__init__(network, name, sha256, device)
        self.tokenizer, self.side, self.length = tokenizer, side, length
        self.resizing = f"Pillow bicubic, short side to {side}, middle cut out"

    def prepare(self, image: NDArray[Any]) -> Tensor:
        """Return float32 (3, 512, 512), normalized by CLIP's mean and deviation."""
        return encoder.normalized(
            encoder.middle_square(Image.fromarray(to_uint8(image)), self.side), CLIP_MEAN, CLIP_STD
        )

    def embed(self, batch: Tensor) -> Any:
        """Compute (B, 1024)."""
        return self.network.get_image_features(pixel_values=batch)

    @torch.inference_mode()
    def captions(self, texts: Sequence[str], batch: int = 16) -> CaptionFeatures:
        """Embed whole captions; only beyond 8192 tokens is anything cut."""
        features, truncated = [], 0
        for first in range(0, len(texts), batch):
            part = list(texts[first : first + batch])
            truncated += sum(len(ids) > self.length for ids in self.tokenizer(part)["input_ids"])
            how = {"padding": True, "truncation": True, "max_length": self.length, "return_tensors": "pt"}
            tokens = self.tokenizer(part, **how).to(self.device)
            inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
            features.append(encoder.to_tensor(self.network.get_text_features(**inputs)).float().cpu().numpy())
        return CaptionFeatures(np.concatenate(features), truncated)


def load_jina(
    name: str = JINA, device: torch.device | str = "cpu", allow_code: bool = False, code: str | None = None
) -> JinaEncoder:
    """Load jina-clip-v2, a folder or "jinaai/jina-clip-v2@COMMIT".

    allow_code: without it UserError, before anything is fetched. code: the commit of the repository that holds the
    code, where its config.json names another one. That code finds in the cache alone what it asks the Hub for.
    """
    from huggingface_hub import constants

    if not allow_code:
        raise UserError(f"jina: {name} runs its repository's code; read it, then give --allow-remote-code")
    repository, _, revision = name.partition("@")
    if not Path(name).is_dir() and not _COMMIT.fullmatch(revision):
        raise UserError(f"jina: pin the code by its commit: {repository}@COMMIT, 40 hex digits")
    model = find_model(name, ["*.safetensors", "*.json", "*.py"], "jina")
    pinned: dict[str, Any] = {}
    for other in sorted(_other_repositories(read_json(model.path / CONFIG_FILE))):
        if code is None or not _COMMIT.fullmatch(code):
            raise UserError(
                f"jina: its code is in {other}, which {name} does not pin; read it at a commit, then give --jina-code"
                " COMMIT, 40 hex digits"
            )
        fetch_repository(f"{other}@{code}", ["*.py", "*.json"])
        pinned["code_revision"] = code
    advice = "; it runs without the Hub: read and fetch yourself what its code asks for, by hf download REPOSITORY"
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True  # as by the variable, which is read at import
    try:
        network = load_network("transformers.AutoModel", model, "jina", advice=advice, trust_remote_code=True, **pinned)
        tokenizer = load_tokenizer(model, "jina")
    finally:
        constants.HF_HUB_OFFLINE = before
    side = getattr(network.config.vision_config, "image_size", 512)
    known = "+".join([model.id, *(commit[:12] for commit in pinned.values())])
    return JinaEncoder(network, tokenizer, known, model.sha256, device, side)


def _other_repositories(config: Mapping[str, Any]) -> set[str]:
    """List those that the config's `auto_map` takes classes from: "owner/name--module.Class"."""
    entries = (config.get("auto_map") or {}).values()
    names = [name for entry in entries for name in (entry if isinstance(entry, list) else [entry]) if name]
    return {name.partition("--")[0] for name in names if "--" in name}
