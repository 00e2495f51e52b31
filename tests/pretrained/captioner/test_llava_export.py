"""The pruned folder: transformers' stock LLaVA-1.5 class and tokenizer give what the captioner gives."""

import json
import shutil

import numpy as np
import pytest
import torch

from tessera.config import UserError
from tessera.pretrained.captioner.llava import Llava
from tessera.pretrained.captioner.llava_export import export_captioner
from tessera.pretrained.chat import Question
from tessera.stages import read_manifest

IMAGE = np.random.default_rng(1).integers(0, 256, (24, 24, 3), dtype=np.uint8)
PLAIN = Question("describe this image", (IMAGE,))


def test_stock_classes_load_it(llava_folder, tmp_path):
    from transformers import AutoTokenizer, LlavaForConditionalGeneration
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    out = tmp_path / "captioner"
    export_captioner(out, str(llava_folder))
    assert read_manifest(out, "export-captioner").facts == {"image_tokens": 9, "image_size": 24}
    llava = Llava(str(llava_folder), "cpu", torch.float32)
    model, info = LlavaForConditionalGeneration.from_pretrained(out, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    pixels = CLIPImageProcessorPil.from_pretrained(out)(IMAGE, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, llava.pixels([IMAGE]), rtol=0, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(out)
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PLAIN.prompt}]}
    text = tokenizer.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    processor = json.loads((out / "processor_config.json").read_text())
    patches = (24 // processor["patch_size"]) ** 2 + processor["num_additional_image_tokens"] - 1
    ids = tokenizer(text.replace("<image>", " ".join(["<image>"] * patches)), add_special_tokens=False)["input_ids"]
    assert ids == llava.tokenize(PLAIN)
    with torch.inference_mode():
        stock = model.eval()(input_ids=torch.tensor([ids]), pixel_values=pixels).logits
        own = llava.model(input_ids=torch.tensor([ids]), pixel_values=llava.pixels([IMAGE])).logits
    torch.testing.assert_close(stock, own, rtol=0, atol=1e-5)
    assert Llava(str(out), "cpu", torch.float32).describe([PLAIN], 5) == llava.describe([PLAIN], 5)


def test_weights_in_several_files(llava_folder, tmp_path):
    from transformers import LlavaForConditionalGeneration, LlavaNextForConditionalGeneration

    source = tmp_path / "sharded"
    shutil.copytree(llava_folder, source)
    (source / "model.safetensors").unlink()
    LlavaNextForConditionalGeneration.from_pretrained(llava_folder).save_pretrained(source, max_shard_size="20KB")
    assert len(list(source.glob("*.safetensors"))) > 2
    out = tmp_path / "out"
    export_captioner(out, str(source))
    assert "newline" not in (out / "model.safetensors.index.json").read_text()
    _, info = LlavaForConditionalGeneration.from_pretrained(out, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    export_captioner(out, str(source))
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_another_model_is_refused(t5_folder, tmp_path):
    with pytest.raises(UserError, match="is not a LlavaNextForConditionalGeneration"):
        export_captioner(tmp_path / "out", str(t5_folder))
    assert not (tmp_path / "out").exists()
