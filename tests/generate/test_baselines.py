"""Other people's pipelines: a tiny random one of each kind that the paper compares with."""

import json

import numpy as np
import pytest
from PIL import Image

from tessera.config import UserError
from tessera.generate.baselines import Baseline, BaselineConfig, generate_baseline
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
def baselines(tmp_path_factory):
    return {name: save(tmp_path_factory.mktemp(name) / "baseline") for name, save in SAVE.items()}


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


def pictures(folder):
    return [np.asarray(Image.open(path)) for path in sorted(folder.glob("*/samples/*.png"))]


@pytest.mark.parametrize("name", SAVE)
def test_a_baseline_fills_the_same_folder(tmp_path, baselines, prompts, name):
    config = BaselineConfig(per_prompt=2, steps=2, size=16, seed=3, batch_size=4)
    out = tmp_path / "samples"
    assert generate_baseline(out, str(baselines[name]), prompts, config, device="cpu")
    manifest = read_manifest(out, "generate")
    assert manifest.counts == {"prompts": 3, "images": 6}
    assert manifest.facts == {"pipeline": name, "dtype": "float32"}
    assert manifest.config["model"].keys() == {"name", "sha256"}
    assert json.loads((out / "00001" / "metadata.jsonl").read_text()) == LINES[1] | {"text": LINES[1]["prompt"]}
    drawn = pictures(out)
    assert [picture.shape for picture in drawn] == [(16, 16, 3)] * 6
    assert len({picture.tobytes() for picture in drawn}) == 6
    # Whatever the batch, the noise is that of (seed, prompt, k): also the noise of each step.
    baseline = Baseline.load(baselines[name], "baseline", "cpu")
    again = baseline.images([LINES[1]["prompt"]], [(1, 1)], config)[0]
    assert np.abs(again.astype(int) - drawn[3].astype(int)).max() <= 1
    other = baseline.images([LINES[1]["prompt"]], [(1, 1)], BaselineConfig(steps=2, size=16, seed=4))[0]
    assert np.abs(other.astype(int) - drawn[3].astype(int)).max() > 1
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert generate_baseline(out, str(baselines[name]), prompts, config, device="cpu")
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}


def test_a_half_filled_folder_is_filled_with_the_same_bytes(tmp_path, baselines, prompts, monkeypatch):
    model, config = (
        str(baselines["StableDiffusionPipeline"]),
        BaselineConfig(per_prompt=1, steps=1, size=16, batch_size=2),
    )
    assert generate_baseline(tmp_path / "whole", model, prompts, config, device="cpu")
    images = Baseline.images

    def stops(self, texts, addresses, config):
        if (2, 0) in addresses:
            raise KeyboardInterrupt
        return images(self, texts, addresses, config)

    monkeypatch.setattr(Baseline, "images", stops)
    with pytest.raises(KeyboardInterrupt):
        generate_baseline(tmp_path / "half", model, prompts, config, device="cpu")
    assert len(pictures(tmp_path / "half")) == 2
    monkeypatch.setattr(Baseline, "images", images)
    assert generate_baseline(tmp_path / "half", model, prompts, config, device="cpu")
    names = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file()]
    assert all((tmp_path / "whole" / name).read_bytes() == (tmp_path / "half" / name).read_bytes() for name in names)
    with pytest.raises(UserError, match=r"was made otherwise: .*model"):
        generate_baseline(tmp_path / "half", str(baselines["PixArtAlphaPipeline"]), prompts, config, device="cpu")


def test_extended_texts(tmp_path, baselines, prompts):
    model = str(baselines["StableDiffusionPipeline"])
    config = BaselineConfig(per_prompt=1, steps=1, size=16, extended=True)
    generate_baseline(tmp_path / "long", model, prompts, config, device="cpu")
    metadata = json.loads((tmp_path / "long" / "00000" / "metadata.jsonl").read_text())
    assert (metadata["prompt"], metadata["text"]) == (LINES[0]["prompt"], LINES[0]["extended"]["text"])
    assert read_manifest(tmp_path / "long").config["extended"] is True


def test_what_is_no_baseline(tmp_path, prompts):
    with pytest.raises(UserError, match=r"has no model_index\.json"):
        generate_baseline(tmp_path / "out", str(tmp_path), prompts)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "model_index.json").write_text('{"_class_name": "NoSuchPipeline"}')
    with pytest.raises(UserError, match="cannot be loaded as a diffusers pipeline"):
        generate_baseline(tmp_path / "out", str(tmp_path / "odd"), prompts, device="cpu")
    for wrong in ({"per_prompt": 0}, {"steps": 0}, {"batch_size": 0}, {"size": 12}, {"seed": -1}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            BaselineConfig(**wrong)
