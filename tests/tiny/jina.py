"""A model whose code lies in its own folder, with jina-clip-v2's calls: what `--allow-remote-code` runs."""

import json
import string
from pathlib import Path

import torch
from safetensors.torch import save_file

CODE = """
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel


class TinyJinaConfig(PretrainedConfig):
    model_type = "tiny_jina"

    def __init__(self, width=8, vocab=64, vision_config=None, **rest):
        super().__init__(**rest)
        self.width, self.vocab = width, vocab
        self.vision_config = PretrainedConfig(**(vision_config or {"image_size": 16}))


class TinyJinaModel(PreTrainedModel):
    config_class = TinyJinaConfig

    def __init__(self, config):
        super().__init__(config)
        self.words = nn.Embedding(config.vocab, config.width)
        self.pixels = nn.Linear(3, config.width)
        self.post_init()

    def get_text_features(self, input_ids=None, attention_mask=None):
        mask = attention_mask[..., None].to(self.words.weight.dtype)
        return (self.words(input_ids) * mask).sum(1) / mask.sum(1)

    def get_image_features(self, pixel_values=None):
        return self.pixels(pixel_values.mean((2, 3)))
"""


def save_jina(folder: Path) -> Path:
    """Words by single letters, images of 16 px by their mean color."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder.mkdir(parents=True)
    (folder / "tiny_jina.py").write_text(CODE)
    entry = {"AutoConfig": "tiny_jina.TinyJinaConfig", "AutoModel": "tiny_jina.TinyJinaModel"}
    config = {"model_type": "tiny_jina", "auto_map": entry, "width": 8, "vocab": 64}
    config |= {"vision_config": {"image_size": 16}}
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["TinyJinaModel"]}))
    letters = [*string.ascii_lowercase, *" .,'", "<unk>", "<pad>"]
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", pad_token="<pad>").save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    shapes = {"words.weight": (64, 8), "pixels.weight": (8, 3), "pixels.bias": (8,)}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
