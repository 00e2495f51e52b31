"""Flags that a verb does not take, refusals in one line, and what helps say of values."""

from pathlib import Path
from typing import Literal

import pytest

from tessera.cli import VERBS, parse
from tessera.config import UserError
from tiny.commands import fails


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("run my-pictures --image x", "tessera run has no flag --image; did you mean --images?"),
        ("run my-pictures --skip", "tessera run has no flag --skip; did you mean --skip-missing?"),
        ("encode a b --out c --latent x", "tessera encode has no flag --latent; did you mean --latents?"),
        ("encode a b --text_encodng=fp16", "no flag --text_encodng; did you mean --text-encoding"),
        ("augment images -out recipe", "tessera augment has no flag -out; did you mean --out?"),
        ("train a --plain b --out c --max_train_steps 9", "no flag --max_train_steps; did you mean --num-images?"),
        ("train a --plain b --out c --lr 1e-4", "has no flag --lr; it is the preset's lr; to change it train a prese"),
        ("train a --plain b --out c --train_batch_size=4", "--train_batch_size; it is the preset's batch_size; to"),
        ("collect photos --out x --resolution 512", "tessera collect has no flag --resolution; did you mean --size?"),
        ("collect photos --out x --lr 1", "tessera collect has no flag --lr; it takes --buckets, --by-hash, "),
        ("figure tau --width 3", "tessera figure tau has no flag --width; it takes --codec, --help, "),
    ],
)
def test_a_wrong_flag_is_answered_with_the_nearest_of_its_verb(line, said):
    assert said in fails(*line.split())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("collect photos", "missing from tessera collect: --out PATH Directory to make; see: tessera collect --help"),
        (
            "collect photos --out x --size big",
            "parsing --size: no type matching INT could be instantiated from ['bi",
        ),
        ("collect a b --out x", "unrecognized options: b; see: tessera collect --help"),
        (
            "collect a --out x --split vali",
            "'vali' for argument '--split'. Expected one of ('train', 'val', 'test', ",
        ),
        ("run my-pictures --network rin", "invalid choice 'rin' for argument '--network'. Expected one of ('"),
        ("run my-pictures --images", "missing value for argument '--images'. Expected 1 values"),
        ("evaluate quality --out x", "missing from tessera evaluate quality: --samples PATH "),
        ("evaluate", "expected one of {miniature, drawings, geneval, dpg, questions, quality, copies}; see: tesse"),
    ],
)
def test_what_tyro_refuses_is_one_line(line, said):
    found = fails(*line.split())
    assert said in found
    assert "None" not in found


def test_values_of_flags_and_forms_of_their_names():
    parse.check_flags("generate", VERBS["generate"], ["e", "p", "--guidance_scale=-1", "--no-compile", "-h", "-1.5"])
    with pytest.raises(UserError, match="has no flag --export; "):  # its place is its name
        parse.check_flags("generate", VERBS["generate"], ["--export", "e"])


@pytest.mark.parametrize(
    ("hint", "metavar"),
    [
        (Path | None, "PATH"),
        (int | None, "INT"),
        (tuple[float, float] | None, "FLOAT FLOAT"),
        (Literal["llm", "rules"] | None, "{llm,rules}"),
        (float | Literal["most"] | None, "FLOAT|{most}"),
        (Path, None),
        (int | float, None),
        (tuple[str, ...], None),
    ],
)
def test_none_is_no_value_to_type(hint, metavar):
    assert parse._metavar(hint) == metavar
