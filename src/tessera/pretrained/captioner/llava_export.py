"""export-captioner: a LLaVA-NeXT checkpoint -> the folder of a LLaVA-1.5 model with its weights, for stock servers.

The served model sees whole images alone (576 tokens each), with no patch to the server: see `captioner.llava`. The
weights are copied as they are, all but `image_newline`.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from tessera.config import UserError
from tessera.files import atomic_path, read_json, write_json
from tessera.hub import CONFIG_FILE, find_model
from tessera.pretrained.captioner.llava import LLAVA_FILES, NEWLINE, Llava, pruned_config, read_config
from tessera.stages import open_stage

_NEWLINE = re.compile(rf"(^|\.){NEWLINE}$")
INDEX = "model.safetensors.index.json"
_REWRITTEN = (CONFIG_FILE, INDEX, "preprocessor_config.json", "processor_config.json", "chat_template.json")


def export_captioner(out: Path, model: str) -> None:
    """Write the folder `out`, unless it is complete. model: a repository, folder or id of a LLaVA-NeXT."""
    folder = find_model(model, LLAVA_FILES, "captioner")
    config = read_config(folder)
    llava = Llava(model, "cpu")  # its tokenizer and chat template are whole
    stage = open_stage(out, stage="export-captioner", config={"model": folder.id, "sha256": folder.sha256})
    if stage.done:
        return
    tensors = 0
    for name in folder.files:
        if name.endswith(".safetensors"):
            tensors += _copy_weights(folder.path / name, out / name)
        elif name not in _REWRITTEN:
            with atomic_path(out / name) as temporary:
                shutil.copyfile(folder.path / name, temporary)
    if INDEX in folder.files:
        index = read_json(folder.path / INDEX)
        index["weight_map"] = {key: file for key, file in index["weight_map"].items() if not _NEWLINE.search(key)}
        write_json(out / INDEX, index)
    for name, data in _processor_files(config, llava).items():
        write_json(out / name, data)
    with atomic_path(out / "chat_template.jinja") as temporary:
        temporary.write_text(llava.template, encoding="utf-8")
    write_json(out / CONFIG_FILE, pruned_config(config))
    stage.finish({"tensors": tensors}, facts={"image_tokens": llava.image_tokens, "image_size": llava.side})


def _copy_weights(source: Path, target: Path) -> int:
    """Copy a file of weights without `image_newline`; return the number of tensors."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file, save_file

    try:
        with safe_open(source, framework="pt") as file:
            keys, metadata = list(file.keys()), file.metadata()
        newline = [key for key in keys if _NEWLINE.search(key)]
        with atomic_path(target) as temporary:
            if newline:
                tensors = load_file(source)
                save_file({key: tensors[key] for key in keys if key not in newline}, temporary, metadata=metadata)
            else:
                shutil.copyfile(source, temporary)
    except SafetensorError as error:
        raise UserError(f"captioner: {source}: is damaged ({error}); fetch it again") from error
    return len(keys) - len(newline)


def _processor_files(config: dict[str, Any], llava: Llava) -> dict[str, Any]:
    """Return the files that LlavaProcessor reads, in transformers and in servers, by name."""
    side = llava.side
    image = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": llava.mean,
        "image_std": llava.std,
        "processor_class": "LlavaProcessor",
    }
    processor = {
        "processor_class": "LlavaProcessor",
        "patch_size": config["vision_config"]["patch_size"],
        "vision_feature_select_strategy": config.get("vision_feature_select_strategy", "default"),
        "num_additional_image_tokens": 1,  # CLIP's class token, which "default" leaves out again
        "image_token": llava.image_token,
    }
    return {
        "preprocessor_config.json": image,
        "processor_config.json": processor,
        "chat_template.json": {"chat_template": llava.template},
    }


def describe_serving(out: Path) -> str:
    """Return the command that serves the folder."""
    return f"vllm serve {out} --limit-mm-per-prompt '{json.dumps({'image': 2})}'"
