"""Other people's pipelines: a tiny random one of each kind that the paper compares with."""

import json

import numpy as np
import pytest
from PIL import Image

from tessera import cli
from tessera.config import UserError
from tessera.generate.baselines import Peer, PeerConfig, generate_peer
from tessera.prompts.read import load_prompts
from tessera.stages import read_manifest
from tiny.baselines import SAVE

pytestmark = [  # of the library, about itself
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]

LINES = [{"tag": "single_object", "include": [], "prompt": f"a photo of a {name}"} for name in ("dog", "cat", "bus")]
for line in LINES:
    line["extended"] = {"text": f"{line['prompt']} in deep snow", "extender": "rules"}


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


def command(*args):
    """`tessera generate ... --device cpu` in this process; its exit code."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["generate", *map(str, args), "--device", "cpu"])
    return ended.value.code


@pytest.mark.parametrize("name", SAVE)
def test_the_command_draws_with_every_kind_of_peer(tmp_path, peers, name, capsys):
    out = tmp_path / "samples"
    args = ("--model", peers[name], "--prompts", "figure4", "--extended", "--size", 16, "--steps", 2, "--per-prompt", 2)
    assert command(*args, "--out", out) == 0
    said = capsys.readouterr()
    assert said.out == f"{out}: 6 images, 3 prompts\n"
    assert "Loading" not in said.err
    assert "truncated" not in said.err
    assert len({picture.tobytes() for picture in pictures(out)}) == 6
    metadata, text = load_prompts("figure4", extended=True).rows[2]
    assert json.loads((out / "00002" / "metadata.jsonl").read_text()) == metadata | {"text": text}


def test_the_command_takes_every_prompt_set_for_a_peer(tmp_path, peers, capsys):
    annotations = [{"image_id": 30 - i, "id": i, "caption": f"picture {i}"} for i in range(3)]
    (tmp_path / "captions_val2014.json").write_text(json.dumps({"annotations": annotations}))
    (tmp_path / "dpg_bench.csv").write_text("item_id,text\npartiprompts1,A dog.\npartiprompts1,A dog.\nx,A cat.\n")
    (tmp_path / "mine.txt").write_text("a red circle\n")
    sources = {"teaser": 15, "geneval": 553, f"coco:{tmp_path / 'captions_val2014.json'}": 3}
    sources |= {f"dpg:{tmp_path / 'dpg_bench.csv'}": 2, str(tmp_path / "mine.txt"): 1}
    for number, (source, count) in enumerate(sources.items()):
        out = tmp_path / f"samples{number}"
        args = ("--model", peers["StableDiffusionPipeline"], "--prompts", source, "--size", 8, "--steps", 1)
        assert command(*args, "--per-prompt", 1, "--batch-size", 64, "--out", out) == 0
        assert capsys.readouterr().out == f"{out}: {count} images, {count} prompts\n"
        drawn = [json.loads(path.read_text()) for path in sorted(out.glob("*/metadata.jsonl"))]
        assert drawn == [metadata | {"text": text} for metadata, text in load_prompts(source).rows]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--prompts", "genevall", "--out", "o"), "did you mean 'geneval'"),
        (("--prompts", "geneval"), "--model needs --prompts and --out"),
        (("an-export", "--prompts", "geneval", "--out", "o"), "no export"),
        (("--prompts", "geneval", "--out", "o", "--sampler", "ddpm"), "--model has its own sampler"),
        (("--prompts", "geneval", "--extended", "--out", "o"), "extended"),
    ],
)
def test_what_the_command_refuses_of_a_peer(tmp_path, peers, more, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("--model", peers["PixArtAlphaPipeline"], *more) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


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
