"""Tables of questions about images: GenEval 2's file, and rows of prompt, question, dimension, answer."""

import json

import pytest

from tessera.config import UserError
from tessera.prompts.question_tables import Asked, PromptQuestions, read_question_table
from tessera.prompts.read import load_prompts

LINE = {
    "prompt": "two metal toys",
    "atom_count": 3,
    "vqa_list": [
        ["How many toys are in the image?", "two"],
        ["Are the toys metal?", "Yes"],
        ["Are there any toys in the image?", "Yes"],
    ],
    "skills": ["count", "attribute", "object"],
}
TABLE = """prompt,long,question,dimension,answer
A red dog.,"A red dog stands on snow.",Is the dog red?,color,yes
A red dog.,"A red dog stands on snow.",How many dogs are there?,count,one
A cat.,"A cat sits.",Is there a cat?,,
"""


def write(path, text):
    path.write_text(text)
    return path


def test_geneval_2(tmp_path):
    path = write(tmp_path / "geneval2_data.jsonl", json.dumps(LINE) + "\n")
    (item,) = read_question_table(path)
    assert (item.text, item.atoms, item.long) == ("two metal toys", 3, None)
    assert item.questions[0] == Asked("How many toys are in the image?", "two", "count")
    assert [asked.dimension for asked in item.questions] == ["count", "attribute", "object"]
    assert [text for _, text in load_prompts(f"questions:{path}").rows] == ["two metal toys"]


def test_a_row_for_each_question(tmp_path):
    path = write(tmp_path / "own.csv", TABLE)
    dog, cat = read_question_table(path)
    assert dog == PromptQuestions(
        "A red dog.",
        (Asked("Is the dog red?", "yes", "color"), Asked("How many dogs are there?", "one", "count")),
        long="A red dog stands on snow.",
    )
    assert cat.questions == (Asked("Is there a cat?", "yes", ""),)


def test_its_prompts_are_drawn_once_short_and_long(tmp_path):
    source = f"questions:{write(tmp_path / 'own.csv', TABLE)}"
    assert [text for _, text in load_prompts(source).rows] == ["A red dog.", "A cat."]
    long = load_prompts(source, extended=True)
    assert [text for _, text in long.rows] == ["A red dog stands on snow.", "A cat sits."]
    assert [metadata["prompt"] for metadata, _ in long.rows] == ["A red dog.", "A cat."]
    short_alone = f"questions:{write(tmp_path / 'short.csv', TABLE.replace('A cat sits.', ''))}"
    with pytest.raises(UserError, match="captions have no extended texts; turn extended off"):
        load_prompts(short_alone, extended=True)


def points(*names_and_parts):
    names, parts = zip(*names_and_parts)
    data = {"Primary Categories": "Art", "Testpoints": list(names), "Testpoint Description": list(parts)}
    return json.dumps(data).replace('"', '""')


def test_unigenbench_s_own_files(tmp_path):
    """A row for each prompt; one of the published long file's rows has no comma between two of its points."""
    said = points(("Attribute - Color", "red coat"), ("Style", "ink"))
    broken = said.replace('"", ""Style', '"" ""Style')
    assert broken != said
    rows = f'index,prompt_en,sub_dims_en\n0,"A fox, in ink.","{broken}"\n7,A cat.,"{points(("Style", "oil"))}"\n'
    fox, cat = read_question_table(path := write(tmp_path / "test_prompts_en.csv", rows))
    assert (fox.pair, cat.pair, fox.text) == ("0", "7", "A fox, in ink.")
    assert [(asked.dimension, asked.answer) for asked in fox.questions] == [
        ("Attribute - Color", "yes"),
        ("Style", "yes"),
    ]
    assert fox.questions[0].text == (
        'The prompt was "A fox, in ink.". Does the image fulfill this part of it: "red coat" (Attribute - Color)?'
    )
    assert [text for _, text in load_prompts(f"questions:{path}").rows] == ["A fox, in ink.", "A cat."]
    chinese = '{""考点"": [""属性-颜色""], ""考点对应描述"": [""红色""]}'
    (item,) = read_question_table(write(tmp_path / "zh.csv", f'index,prompt_zh,sub_dims_zh\n3,一只狐狸,"{chinese}"\n'))
    assert (item.pair, item.questions[0].dimension) == ("3", "属性 - 颜色")
    for text, message in (
        ("0,A fox.,{}\n", r"line 2: sub_dims_en is no JSON with Testpoints and Testpoint Description \(KeyError"),
        ("0,A fox.,x\n", "line 2: sub_dims_en is no JSON with"),
        ('0,A fox.,"{""Testpoints"": [""a""], ""Testpoint Description"": []}"\n', "not as many descriptions as points"),
        (f'0,A fox.,"{said}"\n1,A fox.,"{said}"\n', "line 3: its prompt is that of an earlier row"),
    ):
        with pytest.raises(UserError, match=message):
            read_question_table(write(tmp_path / "bad.csv", f"index,prompt_en,sub_dims_en\n{text}"))


def test_prompts_with_a_dimension_alone(tmp_path):
    path = write(tmp_path / "bench.csv", "prompt,dimension\nA dog.,basic\nA dog.,counting\n")
    (item,) = read_question_table(path, need_questions=False)
    assert [asked.dimension for asked in item.questions] == ["basic", "counting"]
    with pytest.raises(UserError, match=r"bench\.csv line 2: has no text 'question'; its columns are prompt, question"):
        read_question_table(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "text,question\nx,y\n", r"prompt, prompt_en, prompt_zh; it has text, question; rename the one"),
        ("a.csv", "prompt,question,answer\nx,y,red car\n", r"line 2: .*answer one word, not 'red car'"),
        ("a.csv", "prompt,question\n,y\n", "line 2: has no text 'prompt'"),
        ("a.csv", "prompt,question\n", "holds no prompts"),
        (
            "a.jsonl",
            json.dumps(LINE | {"skills": ["count"]}),
            "line 1: vqa_list and skills must be lists of one length",
        ),
        ("a.jsonl", '{"prompt": "x", "vqa_list": 3}', "line 1: vqa_list and skills must be lists of one length"),
        ("a.jsonl", json.dumps(LINE | {"vqa_list": ["a", "b", "c"]}), "line 1: vqa_list must hold pairs"),
        ("a.jsonl", json.dumps(LINE | {"atom_count": "3"}), "line 1: each prompt stands once, with a whole number"),
        ("a.jsonl", f"{json.dumps(LINE)}\n{json.dumps(LINE)}", "line 2: each prompt stands once"),
        ("a.jsonl", json.dumps({"prompt": "x", "question": 3}), "line 1: has no text 'question'"),
        ("a.txt", "x\n", "is none of .csv"),
    ],
)
def test_what_is_no_table(name, text, message, tmp_path):
    with pytest.raises(UserError, match=message) as told:
        read_question_table(write(tmp_path / name, text))
    assert "\n" not in str(told.value)
