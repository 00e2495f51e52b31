"""The model card: recipe, scores with intervals, licenses."""

import pytest

from tessera.config import UserError
from tessera.evaluate.scores import Number, Protocol, Scores, write_scores
from tessera.generate.diffusers.card import model_card, score_lines
from tessera.models.build import build_network
from tiny.pipelines import INFO, NETWORKS


def test_scores_of_a_mapping():
    lines = score_lines({"overall": {"value": 0.4375, "low": 0.4, "high": 0.47}, "fid": 6.16, "by": "me"})
    assert lines[2:] == ["| overall | 0.4375 | 0.4 to 0.47 |", "| fid | 6.16 |  |"]
    with pytest.raises(UserError, match="scores"):
        score_lines({"by": "me"})


def test_scores_of_a_directory(tmp_path):
    protocol = Protocol(metric="geneval/overall", name="paper")
    number = Number(metric="geneval/overall", value=0.4375, low=0.4, high=0.47, n=2212, protocol=protocol)
    write_scores(tmp_path, Scores(kind="geneval", name="ta_ia", numbers=(number,)))
    for path in (tmp_path, tmp_path / "scores.json"):
        lines = score_lines(path)
        assert lines[2:] == ["| geneval/overall | 0.4375 | 0.4 to 0.47 |", "", "Protocol: paper, 2,212 images."]
    (tmp_path / "scores.json").write_text("[]")
    with pytest.raises(UserError, match=r"scores\.json: is not the scores\.json of"):
        score_lines(tmp_path)


def test_a_card_says_what_is_known():
    network = build_network(NETWORKS["dit"])
    options = {"scores": {"fid": 6.16}, "data": "Renders of shapes.", "license": "cc-by-nc-4.0"}
    card = model_card(network, INFO, repo_id="me/foxes", **options)
    front = card.split("---\n")[1]
    for line in ("library_name: diffusers", "pipeline_tag: text-to-image", "license: cc-by-nc-4.0", "- tessera"):
        assert f"{line}\n" in front
    for text in (
        "# foxes",
        'tessera.load_pipeline("me/foxes")',
        'DiffusionPipeline.from_pretrained("me/foxes", trust_remote_code=True)',
        "| arm | ta_ia |",
        "| training images seen | 1,234 |",
        f"{network.parameter_count:,} parameters",
        "3 steps, guidance 2, x0 clamped at: 1",
        "Renders of shapes.",
        f"- plain: `{'0' * 64}`",
        "| fid | 6.16 |  |",
        "Weights: cc-by-nc-4.0",
        "`pixel-unshuffle:4`: part of tessera",
    ):
        assert text in card


def test_a_card_says_what_is_not_known():
    card = model_card(build_network(NETWORKS["rin"]), INFO)
    assert "license: other\nlicense_name: not-stated\n" in card
    for text in ("# CAD-I ta_ia", "Not stated by who published these weights.", "None were given.", "not stated"):
        assert text in card
