"""Captions of images, and the extender of their prompts."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tessera.config import UserError
from tessera.evaluate.intervals import measured
from tessera.evaluate.quality.captions import read_captions
from tessera.evaluate.quality.evaluate import evaluate_quality
from tessera.evaluate.quality.features import find_images
from tessera.evaluate.quality.metrics import QualityConfig
from tessera.evaluate.scores import read_scores
from tiny.quality import nets, write_samples


def test_texts_of_several_extenders_have_no_protocol(tmp_path):
    samples, reference = write_samples(tmp_path / "s", 0), write_samples(tmp_path / "r", 1)
    manifest = json.loads((samples / "manifest.json").read_text())
    manifest["config"]["extended"] = True
    (samples / "manifest.json").write_text(json.dumps(manifest))

    def extend(name, folders):
        for folder in folders:
            line = {"prompt": "p", "text": folder.name, "extended": {"extender": name, "template": "t", "seed": 3}}
            (folder / "metadata.jsonl").write_text(json.dumps(line) + "\n")

    folders = sorted(path.parent for path in samples.glob("*/metadata.jsonl"))
    extend("llama", folders)
    config = QualityConfig(metrics=("fid",))
    evaluate_quality(tmp_path / "a", samples, reference, nets(), config, cache=tmp_path / "cache")
    found = read_scores(tmp_path / "a").number("fid").protocol.extender
    assert (found.model, found.prompt, found.seed) == ("llama", "t", 3)
    extend("rules", folders[-1:])
    with pytest.raises(UserError, match="its texts come from 2 extenders"):
        evaluate_quality(tmp_path / "b", samples, reference, nets(), config, cache=tmp_path / "cache")
    assert not (tmp_path / "b").exists()


def test_images_of_one_caption_are_of_one_prompt_in_numbers_and_differences(tmp_path):
    """Images from elsewhere, and those of `generate` whose prompts repeat, such as classes."""
    drawn, elsewhere, prompts = write_samples(tmp_path / "drawn", 0, 12, 1), tmp_path / "elsewhere", tmp_path / "p.txt"
    texts = [f"prompt {i % 4}" for i in range(12)]
    prompts.write_text("\n".join(texts))
    elsewhere.mkdir()
    for i, path in enumerate(sorted(drawn.glob("*/samples/*.png"))):
        shutil.copy(path, elsewhere / f"{i:02d}.png")
        (path.parent.parent / "metadata.jsonl").write_text(json.dumps({"prompt": texts[i], "text": texts[i]}) + "\n")
    config, found = QualityConfig(metrics=("clip_score",)), []
    for folder, given in ((drawn, None), (elsewhere, prompts)):
        out = tmp_path / f"scores-{folder.name}"
        evaluate_quality(out, folder, folder, nets(), config, prompts=given, cache=tmp_path / "cache")
        found.append(measured(read_scores(out), "clip_score").images)
        assert read_scores(out).number("clip_score").clusters == 4
        assert [(item["prompt"], item["sample"]) for item in read_scores(out).items[3:6]] == [(3, 0), (0, 1), (1, 1)]
    assert found[0] == found[1] == [(prompt, sample) for prompt in range(4) for sample in range(3)]


def test_captions_belong_to_their_images(tmp_path):
    """Byte order marks and separators within JSON change nothing; where the order is doubtful, files are named."""
    folder = tmp_path / "s"
    folder.mkdir()
    for i in range(12):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(folder / f"{i:02d}.png")
    found = find_images(folder, "sample")
    texts = tuple(f"grey\u2028of\x85 {i}" for i in range(12))
    (tmp_path / "c.txt").write_text("\n".join(texts), encoding="utf-8-sig")
    (tmp_path / "c.jsonl").write_text(
        "\r\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts), encoding="utf-8-sig", newline=""
    )
    assert read_captions(found, tmp_path / "c.txt") == read_captions(found, tmp_path / "c.jsonl") == texts
    for i in range(10):
        (folder / f"{i:02d}.png").rename(folder / f"{i}.png")
    found = find_images(folder, "sample")
    assert found.files[:3] == ("0.png", "1.png", "10.png")
    for name in ("c.txt", "c.jsonl"):
        with pytest.raises(UserError, match=rf"{name}: is the line of 10\.png or of 2\.png first\?"):
            read_captions(found, tmp_path / name)
    lines = [json.dumps({"file": f"{i}.png", "text": text}) for i, text in reversed(list(enumerate(texts)))]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    assert read_captions(found, tmp_path / "c.jsonl") == tuple(texts[int(Path(file).stem)] for file in found.files)
    (tmp_path / "c.jsonl").write_text("\n".join(lines[1:] + lines[:1]).replace("11.png", "x.png"))
    with pytest.raises(UserError, match=r'no line has the "file" 11\.png \(1 images without a line\)'):
        read_captions(found, tmp_path / "c.jsonl")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "file_name,text\nb/1.png,of B\na/1.png,of A\n"),
        ("metadata.jsonl", '{"file_name": "./b/1.png", "text": "of B"}\n{"file_name": "a/1.png", "text": "of A"}\n'),
        ("keys.csv", "key,text\nb/1,of B\na/1,of A\n"),
        ("upper.csv", "Image;Caption\nb\\1.png;of B\na\\1.png;of A\n"),
        ("told.json", '{"b/1.png": "of B", "a/1.png": "of A"}'),
        (
            "both.jsonl",
            '{"key": "7", "file": "b/1.png", "text": "of B"}\n{"key": "8", "file": "a/1.png", "text": "of A"}',
        ),
    ],
)
def test_a_column_that_names_the_images_decides_whose_captions_they_are(tmp_path, name, text):
    for folder in ("a", "b"):
        (tmp_path / "s" / folder).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "s" / folder / "1.png")
    found = find_images(tmp_path / "s", "sample")
    (tmp_path / name).write_text(text)
    assert read_captions(found, tmp_path / name) == ("of A", "of B")
    (tmp_path / name).write_text(text.replace("b", "c").replace("B", "C"))
    with pytest.raises(UserError, match=r'no line has the ".*" b/1.png \(1 images .* leave the column out where'):
        read_captions(found, tmp_path / name)
