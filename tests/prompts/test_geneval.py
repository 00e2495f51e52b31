"""GenEval's vocabulary, and its published list of prompts that ships."""

from collections import Counter

from tessera.prompts.geneval import CLASSES, COLORS, RELATIONS, TASKS, prompts_sha256
from tessera.prompts.read import load_prompts

PUBLISHED_SHA256 = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
"""Of evaluation_metadata.jsonl as GenEval's authors published it."""


def test_the_published_list_ships():
    shipped = load_prompts("geneval")
    assert shipped.sha256 == PUBLISHED_SHA256
    assert len(shipped.rows) == 553
    assert Counter(metadata["tag"] for metadata, _ in shipped.rows) == dict(zip(TASKS, (80, 99, 80, 94, 100, 100)))


def test_lines_read_back_have_the_files_hash():
    lines = [metadata for metadata, _ in load_prompts("geneval").rows]
    assert prompts_sha256(lines) == PUBLISHED_SHA256 != prompts_sha256(lines[1:])


def test_the_vocabulary_is_that_of_the_list():
    clauses = [clause for metadata, _ in load_prompts("geneval").rows for clause in metadata["include"]]
    assert {clause["class"] for clause in clauses} == set(CLASSES)
    assert {clause["color"] for clause in clauses if "color" in clause} == set(COLORS)
    assert {clause["position"][0] for clause in clauses if "position" in clause} == set(RELATIONS)
    assert len(CLASSES) == 80
    assert not any(clause["class"] == "person" for clause in clauses if "color" in clause)
