"""The scripts of runs/ and the commands in the presets' docstrings: what they call is there."""

import inspect
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tessera.presets import imagenet
from tessera.presets.lookup import load_train_preset
from test_docs import parse

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "runs").glob("*.sh"))
ARRAYS = {
    "sets": "--plain encoded/ta --augmented encoded/ta_ia",
    "frozen": "--latents owner/vae --text owner/t5 --engine processes",
    "longer": "--extended",
}
"""What the scripts' arrays hold."""


def commands_of(text: str) -> list[list[str]]:
    """The words after `tessera` or its equal in a script, with variables filled in."""
    text = text.replace("\\\n", " ")
    for name, words in ARRAYS.items():
        text = text.replace(f'"${{{name}[@]}}"', words)
    text = re.sub(
        r"\$\{?\w+[^}\s/\"-]*\}?", "1", text.replace('"$preset"', "cad-i-l:ta").replace("$model:$arm", "cad-i-l:ta")
    )
    found = []
    for line in text.splitlines():
        match = re.search(r"(?:^|\s)(?:tessera|on_gpus|-m tessera\.cli) ([a-z][a-z-]+ [^&\n]*)", line.split("#")[0])
        if match:
            found.append(shlex.split(match[1]))
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash_and_call_what_there_is(script, monkeypatch):
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text(encoding="utf-8")
    commands = commands_of(text)
    assert commands
    for words in commands:
        (verb,) = parse(words, monkeypatch)
        assert verb.split() == words[: len(verb.split())]
        monkeypatch.undo()


@pytest.mark.parametrize("name", imagenet.TRAIN_PRESETS)
def test_the_presets_docstrings_say_the_command(name, monkeypatch):
    preset = imagenet.TRAIN_PRESETS[name]
    commands = commands_of(inspect.cleandoc(preset.__doc__ or ""))
    assert commands
    (train,) = [words for words in commands if words[0] == "train"]
    assert parse(train, monkeypatch) == ["train"]
    assert train[1].startswith(f"{name}:")
    load_train_preset(train[1])


@pytest.mark.parametrize("name", imagenet.TRAIN_PRESETS)
@pytest.mark.parametrize("arm", imagenet.ARMS)
def test_every_arm_of_every_preset(name, arm):
    """One forward pass's shape and count on the meta device; underscores will do in the name."""
    import torch

    from tessera.models.build import build_network

    config = load_train_preset(f"{name.replace('-', '_')}:{arm}", num_images=10240, seed=3)
    assert (config.num_images, config.seed) == (10240, 3)
    assert (config.augment_prob > 0) == (arm == "ta_ia")
    with torch.device("meta"):
        network = build_network(config.model)
    expected = 330.2e6 if name.startswith("cad") else 438.3e6
    extra = 768 * 256 if name == "cad-i-l-512" else 0  # four times the positions
    assert network.parameter_count == pytest.approx(expected + extra, rel=1e-3)


def test_the_published_recipe():
    config = load_train_preset("cad-i-l:ta_ia")
    assert config.num_images == 250_000 * 1024
    assert (config.batch_size, config.ema_decay, config.compute) == (1024, 0.9999, "bf16")
    assert (config.noise_schedule, config.augment_min_t, config.augment_prob) == ("linear", 0.4, 0.5)
    assert (config.prediction, config.caption_drop_prob, config.self_condition_prob) == ("eps", 0.1, 0.9)
    optim = config.optim
    assert (optim.name, optim.lr, optim.betas, optim.weight_decay) == ("lamb", 1e-3, (0.9, 0.999), 0.01)
    assert (optim.warmup_images, optim.final_lr_fraction, optim.clip_norm) == (5000 * 1024, 0.206, 2.0)
