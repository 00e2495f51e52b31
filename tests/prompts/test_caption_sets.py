"""Captions of images as prompts, from COCO's annotations, caption directories and DPG-Bench."""

import hashlib
import json

import pytest

from tessera.config import UserError
from tessera.files import write_table
from tessera.prompts.read import load_prompts


def coco(path, images=3):
    """Captions of images 10, 11, ...; three each, not in order."""
    entries = [
        {"image_id": 10 + i, "id": 100 * i + k, "caption": f" picture {i},\nwording {k} "}
        for k in (2, 0, 1)
        for i in reversed(range(images))
    ]
    path.write_text(json.dumps({"annotations": entries}))
    return path


def test_coco_gives_the_first_caption_of_every_image(tmp_path):
    path = coco(tmp_path / "captions_val.json")
    prompts = load_prompts(f"coco:{path}")
    assert [text for _, text in prompts.rows] == [f"picture {i}, wording 0" for i in range(3)]
    assert [metadata["image_id"] for metadata, _ in prompts.rows] == [10, 11, 12]
    assert (prompts.name, prompts.sha256) == ("captions_val", hashlib.sha256(path.read_bytes()).hexdigest())


def test_coco_30k_draws_the_same_30000_images_always(tmp_path):
    path = coco(tmp_path / "captions_val.json", 30_500)
    rows = [load_prompts(f"coco-30k:{path}").rows for _ in range(2)]
    images = [metadata["image_id"] for metadata, _ in rows[0]]
    assert rows[0] == rows[1]
    assert len(set(images)) == 30_000
    assert images == sorted(images)
    assert images[-1] > 30_400  # from all over the file


def test_a_caption_directory_is_a_prompt_set(tmp_path):
    columns = {
        "key": ["n01/0", "n01/1"],
        "text": ["a tench", "A tench, by the sea."],
        "captioner": ["", ""],
    }
    write_table(tmp_path / "val" / "captions.parquet", columns)
    prompts = load_prompts(tmp_path / "val")
    assert prompts.rows[1] == ({"prompt": columns["text"][1], "key": "n01/1"}, columns["text"][1])
    assert prompts.name == "val"
    assert load_prompts(tmp_path / "val" / "captions.parquet") == prompts


@pytest.mark.parametrize(
    ("content", "scheme", "message"),
    [
        ({"annotations": []}, "coco", "has no annotations"),
        ([], "coco", "has no annotations"),
        ({"annotations": [{"image_id": 1, "id": 1}]}, "coco", r"annotations\[0\] needs image_id, id"),
        ({"annotations": [{"image_id": 1, "id": 1, "caption": "x"}]}, "coco-30k", "captions of 1 images, 30000"),
    ],
)
def test_bad_annotations(tmp_path, content, scheme, message):
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_prompts(f"{scheme}:{path}")


def test_nobody_is_told_to_delete_annotations_of_others(tmp_path):
    (tmp_path / "captions.json").write_text('{"annotations": [')
    with pytest.raises(UserError, match=r"is not JSON \(.*\); give COCO's captions_val2014.json"):
        load_prompts(f"coco:{tmp_path / 'captions.json'}")


def test_captions_have_no_extended_texts(tmp_path):
    with pytest.raises(UserError, match="turn extended off"):
        load_prompts(f"coco:{coco(tmp_path / 'captions.json')}", extended=True)


def test_dpg_bench_gives_the_prompt_of_each_item(tmp_path):
    path = tmp_path / "dpg_bench.csv"
    path.write_text('item_id,text\n7,"a cat, asleep"\n7,"a cat, asleep"\nx,a dog\n')
    prompts = load_prompts(f"dpg:{path}")
    assert prompts.rows == (
        ({"prompt": "a cat, asleep", "item_id": "7"}, "a cat, asleep"),
        ({"prompt": "a dog", "item_id": "x"}, "a dog"),
    )
    path.write_text("item,text\n7,a cat\n")
    with pytest.raises(UserError, match=r"has no column item_id.*; give DPG-Bench"):
        load_prompts(f"dpg:{path}")
    with pytest.raises(UserError, match="there is no such file; give DPG-Bench"):
        load_prompts(f"dpg:{tmp_path / 'none.csv'}")
