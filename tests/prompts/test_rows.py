"""The reader of tables and text files: every format, the column that it finds, and what it says when it finds none."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tessera.config import UserError
from tessera.prompts.read import load_prompts
from tessera.prompts.rows import first_captions, read_rows, split_columns

TEXTS = ["a cat, asleep", 'a sign that says "no"', "ein Fuchs"]


def texts_of(source):
    return [text for _, text in load_prompts(source).rows]


def as_csv(delimiter, header, rows):
    quoted = (delimiter.join(f'"{text}"'.replace('"no"', '""no""') for text in row) for row in rows)
    return "\n".join([delimiter.join(header), *quoted]) + "\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("PartiPrompts.tsv", as_csv("\t", ["Prompt", "Category"], [(text, "Animals") for text in TEXTS])),
        ("bare.tsv", "Category\tPrompt\n" + "".join(f"Animals\t{text}\n" for text in TEXTS)),
        ("captions.csv", as_csv(",", ["image", "caption"], [("1.png", text) for text in TEXTS])),
        ("excel.csv", "\ufeff" + as_csv(";", ["file_name", "text"], [("1.png", text) for text in TEXTS])),
        ("flickr.csv", as_csv("|", ["image_name", " comment_number", " caption"], [("1", "0", t) for t in TEXTS])),
        ("flickr8k.txt", as_csv(",", ["image", "caption"], [("1.png", text) for text in TEXTS])),
        ("list.json", json.dumps(TEXTS, indent=1)),
        ("objects.json", json.dumps([{"prompt": text, "n": i} for i, text in enumerate(TEXTS)])),
        ("by_name.json", json.dumps({f"{i:x}": {"category": "a", "prompt": text} for i, text in enumerate(TEXTS)})),
        ("inside.json", json.dumps({"prompts": TEXTS})),
        ("versioned.json", json.dumps({"version": 1, "prompts": TEXTS})),
        ("strings.jsonl", "\n".join(map(json.dumps, TEXTS))),
        ("lines.json", "\n".join(json.dumps({"prompt": text}) for text in TEXTS)),
        ("lines.ndjson", "\n".join(json.dumps({"caption": text}) for text in TEXTS)),
        ("plain.txt", "\n\n".join(TEXTS)),
        ("no_suffix", "\n".join(TEXTS)),
        ("old_mac.txt", "\r".join(TEXTS)),
        ("list.txt", json.dumps(TEXTS)),
        ("indented.txt", json.dumps({"prompts": TEXTS}, indent=1)),
        ("lines.txt", "\n".join(json.dumps({"prompt": text}) for text in TEXTS)),
    ],
)
def test_the_texts_of_every_format_are_found(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert texts_of(tmp_path / name) == TEXTS


def test_plain_texts_that_begin_like_json_stay(tmp_path):
    texts = ["[red] fox", "{a} cat", "a dog"]
    (tmp_path / "plain.txt").write_text("\n".join(texts))
    assert texts_of(tmp_path / "plain.txt") == texts


def test_parquet_of_prompts_and_of_captions(tmp_path):
    pq.write_table(pa.table({"image": [b"\x89PNG"] * 3, "Prompt": TEXTS}), tmp_path / "p.parquet")
    assert texts_of(tmp_path / "p.parquet") == TEXTS
    table = {"key": ["1", "2", "3"], "text": TEXTS, "prompt": ["Describe this image"] * 3}
    pq.write_table(pa.table(table), tmp_path / "captions.parquet")
    assert texts_of(tmp_path / "captions.parquet") == TEXTS


def test_a_column_is_chosen_behind_the_file(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("id,short,long\n1,a cat,a cat that sleeps\n")
    assert texts_of(f"{path}:long") == ["a cat that sleeps"]
    assert load_prompts(f"{path}:short").rows[0][0] == {"prompt": "a cat", "id": "1", "long": "a cat that sleeps"}
    assert split_columns(path) == (path, ())
    with pytest.raises(UserError, match=r"p\.csv: has no column prompt, .*; it has id, short, long; name it: FILE:COL"):
        load_prompts(path)
    with pytest.raises(UserError, match="has no column 'middle'; it has id, short, long"):
        load_prompts(f"{path}:middle")
    with pytest.raises(UserError, match="short, long are more columns than the 1 that are read"):
        load_prompts(f"{path}:short,long")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "prompt,n\na cat,1\n,2\n", r"line 3: prompt is not a text: write one, or remove the row"),
        ("p.csv", "prompt,prompt\na cat,a dog\n", "has more than one column prompt; rename the others"),
        ("p.csv", "prompt,n\na cat,1,2\n", "line 2 has not as many fields as the header"),
        ("p.csv", "", "has no column prompt, .*; it has none"),
        ("p.csv", "a cat\na dog\n", "has no column prompt, .*; it has a cat"),
        ("p.json", "{}", "entry 1: has no column prompt, .*; it has none"),
        ("p.json", "[1]", "entry 1 is not a JSON object"),
        ("p.json", '["smile \\ud83d"]', "entry 1 has half of a surrogate pair"),
        ("p.json", '{"images": [{"id": 1}], "annotations": [{"id": 1}]}', "COCO's form; give coco:"),
        ("p.json", "[" * 100_000, r"p\.json: nests its JSON too deeply"),
        ("p.jsonl", "[" * 100_000, r"p\.jsonl: nests its JSON too deeply"),
        ("p.txt", "[" * 100_000, r"p\.txt: nests its JSON too deeply"),
        ("p.yaml", "- a cat\n", r"is none of \.csv, .* or \.txt; convert it"),
        ("p.xlsx", "PK", r"is none of \.csv, .* or \.txt; convert it"),
        ("p.parquet", "PK", "is not a Parquet file"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as error:
        load_prompts(tmp_path / name)
    assert "\n" not in str(error.value)


def test_rows_name_their_line_and_the_columns_of_every_group(tmp_path):
    (tmp_path / "c.jsonl").write_text('{"key": "1", "text": "a"}\n\n{"caption": "b", "image": "2"}\n')
    found = [(where[-6:], [row[name] for name in columns]) for where, row, columns in
             read_rows(tmp_path / "c.jsonl", ("key", "image"), ("text", "caption"))]  # fmt: skip
    assert found == [("line 1", ["1", "a"]), ("line 3", ["2", "b"])]


def test_of_several_captions_of_an_image_the_first_is_the_prompt(tmp_path):
    path = tmp_path / "captions.parquet"
    rows = [{"key": f"a/{n}", "level": level, "text": f"{level} {n}"} for n in range(3) for level in ("long", "short")]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert texts_of(path) == ["long 0", "long 1", "long 2"]
    plain = [("", {"key": "a", "text": str(n)}, ()) for n in range(3)]
    assert list(first_captions(plain)) == plain
