"""Other people's pipelines: two tiny random ones of unlike kinds, which the test saves as diffusers does."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tessera.config import UserError
from tessera.files import read_manifest
from tessera.generate.peers import Peer, PeerConfig, generate_peer
from tiny_judges import save_clip

pytestmark = [  # of the library, about itself
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]

LINES = [{"tag": "single_object", "include": [], "prompt": f"a photo of a {name}"} for name in ("dog", "cat", "bus")]
for line in LINES:
    line["extended"] = {"text": f"{line['prompt']} in deep snow", "extender": "rules"}


def save_stable_diffusion(directory):
    """Stable Diffusion: a U-Net with cross-attention, CLIP, DDIM's kin with noise in every step."""
    from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import AutoTokenizer, CLIPModel, CLIPTextModel

    folder = save_clip(directory.with_name("clip"))
    clip, tokenizer = CLIPModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=8,
    )
    vae = AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
                        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=4)  # fmt: skip
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(clip.config.text_config),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=EulerAncestralDiscreteScheduler(steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(directory)
    return directory


def save_pixart(directory):
    """PixArt-alpha: a transformer, T5."""
    from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    torch.manual_seed(0)
    vocab = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz "])}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    t5 = T5EncoderModel(T5Config(vocab_size=len(vocab), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))
    network = PixArtTransformer2DModel(
        sample_size=8, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=2, caption_channels=16,
        in_channels=4, out_channels=8, cross_attention_dim=16, norm_num_groups=4, use_additional_conditions=False,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    vae = AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
                        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=4)  # fmt: skip
    PixArtAlphaPipeline(
        tokenizer=tokenizer, text_encoder=t5, vae=vae, transformer=network, scheduler=DPMSolverMultistepScheduler()
    ).save_pretrained(directory)
    return directory


SAVE = {"StableDiffusionPipeline": save_stable_diffusion, "PixArtAlphaPipeline": save_pixart}


@pytest.fixture(scope="module")
def peers(tmp_path_factory):
    return {name: save(tmp_path_factory.mktemp(name) / "peer") for name, save in SAVE.items()}


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


def pictures(folder):
    return [np.asarray(Image.open(path)) for path in sorted(folder.glob("*/samples/*.png"))]


@pytest.mark.parametrize("name", SAVE)
def test_a_peer_fills_the_same_folder(tmp_path, peers, prompts, name):
    config = PeerConfig(per_prompt=2, steps=2, size=16, seed=3, batch_size=4)
    out = tmp_path / "samples"
    assert generate_peer(out, str(peers[name]), prompts, config, device="cpu")
    manifest = read_manifest(out, "generate")
    assert manifest.counts == {"prompts": 3, "images": 6}
    assert manifest.facts == {"pipeline": name, "dtype": "float32"}
    assert manifest.config["model"].keys() == {"name", "sha256"}
    assert json.loads((out / "00001" / "metadata.jsonl").read_text()) == LINES[1] | {"text": LINES[1]["prompt"]}
    drawn = pictures(out)
    assert [picture.shape for picture in drawn] == [(16, 16, 3)] * 6
    assert len({picture.tobytes() for picture in drawn}) == 6
    # Whatever the batch, the noise is that of (seed, prompt, k): also the noise of each step.
    peer = Peer.load(peers[name], "peer", "cpu")
    again = peer.images([LINES[1]["prompt"]], [(1, 1)], config)[0]
    assert np.abs(again.astype(int) - drawn[3].astype(int)).max() <= 1
    other = peer.images([LINES[1]["prompt"]], [(1, 1)], PeerConfig(steps=2, size=16, seed=4))[0]
    assert np.abs(other.astype(int) - drawn[3].astype(int)).max() > 1
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert generate_peer(out, str(peers[name]), prompts, config, device="cpu")
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}


def test_a_half_filled_folder_is_filled_with_the_same_bytes(tmp_path, peers, prompts, monkeypatch):
    model, config = str(peers["StableDiffusionPipeline"]), PeerConfig(per_prompt=1, steps=1, size=16, batch_size=2)
    assert generate_peer(tmp_path / "whole", model, prompts, config, device="cpu")
    images = Peer.images

    def stops(self, texts, addresses, config):
        if (2, 0) in addresses:
            raise KeyboardInterrupt
        return images(self, texts, addresses, config)

    monkeypatch.setattr(Peer, "images", stops)
    with pytest.raises(KeyboardInterrupt):
        generate_peer(tmp_path / "half", model, prompts, config, device="cpu")
    assert len(pictures(tmp_path / "half")) == 2
    monkeypatch.setattr(Peer, "images", images)
    assert generate_peer(tmp_path / "half", model, prompts, config, device="cpu")
    names = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file()]
    assert all((tmp_path / "whole" / name).read_bytes() == (tmp_path / "half" / name).read_bytes() for name in names)
    with pytest.raises(UserError, match=r"was made otherwise: .*model"):
        generate_peer(tmp_path / "half", str(peers["PixArtAlphaPipeline"]), prompts, config, device="cpu")


def test_extended_texts(tmp_path, peers, prompts):
    model = str(peers["StableDiffusionPipeline"])
    config = PeerConfig(per_prompt=1, steps=1, size=16, extended=True)
    generate_peer(tmp_path / "long", model, prompts, config, device="cpu")
    metadata = json.loads((tmp_path / "long" / "00000" / "metadata.jsonl").read_text())
    assert (metadata["prompt"], metadata["text"]) == (LINES[0]["prompt"], LINES[0]["extended"]["text"])
    assert read_manifest(tmp_path / "long").config["extended"] is True


def test_what_is_no_peer(tmp_path, prompts):
    with pytest.raises(UserError, match=r"has no model_index\.json"):
        generate_peer(tmp_path / "out", str(tmp_path), prompts)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "model_index.json").write_text('{"_class_name": "NoSuchPipeline"}')
    with pytest.raises(UserError, match="cannot be loaded as a diffusers pipeline"):
        generate_peer(tmp_path / "out", str(tmp_path / "odd"), prompts, device="cpu")
    for wrong in ({"per_prompt": 0}, {"steps": 0}, {"batch_size": 0}, {"size": 12}, {"seed": -1}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            PeerConfig(**wrong)
