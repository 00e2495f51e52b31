"""The model card: recipe, scores with intervals, licenses."""

from dataclasses import replace

import pytest

from tessera.config import UserError
from tessera.evaluate.scores import Number, Protocol, Scores, write_scores
from tessera.generate.diffusers.card import model_card, score_lines
from tessera.models.build import build_network
from tessera.weights.export import CaptionsSeen, SweepRow, SweepTable
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


def test_a_card_lists_the_sizes_that_it_was_trained_at():
    network = build_network(NETWORKS["dit"])
    assert "| image | 16 x 16 pixels |" in model_card(network, INFO)
    several = model_card(network, replace(INFO, sizes=("16x16", "24x8")))
    assert "| image | 16 x 16, 24 x 8 pixels |" in several


def test_a_card_says_what_is_not_known():
    card = model_card(build_network(NETWORKS["rin"]), INFO)
    assert "license: other\nlicense_name: not-stated\n" in card
    for text in ("# CAD-I ta_ia", "Not stated by who published these weights.", "None were given.", "not stated"):
        assert text in card


def test_a_card_of_an_export_that_knows_its_captions():
    seen = CaptionsSeen(tokens=(3, 20), examples=("a cup", 'a drawing of a "red" cup'), images=1234, classes=56)
    credits = ("Noto Emoji by Google (Apache-2.0)", "OpenMoji (CC-BY-SA-4.0)")
    card = model_card(build_network(NETWORKS["dit"]), replace(INFO, captions=seen, credits=credits))
    assert "The images are by:\n\n- Noto Emoji by Google (Apache-2.0)\n- OpenMoji (CC-BY-SA-4.0)\n" in card
    assert 'pipe("a drawing of a \\"red\\" cup").images[0]' in card
    assert "1,234 images of 56 classes, with captions of 3 to 20 tokens, such as: " in card
    assert "Not stated by who" not in card
    unknown = model_card(build_network(NETWORKS["dit"]), replace(INFO, captions=CaptionsSeen(tokens=(3, 20))))
    assert 'pipe("a red fox on fresh snow")' in unknown
    assert "Not stated by who" in unknown


def test_a_card_has_the_table_of_its_sampling():
    scores = {"fid": 5.25, "clip_score": 27.0}
    rows = (
        SweepRow(guidance_scale=2.5, guidance_interval=(0.1, 0.8), sampling_steps=20, scores=scores),
        SweepRow(guidance_scale=1.0, guidance_interval=(0.0, 1.0), sampling_steps=10, scores={"fid": 9.0}),
    )
    table = SweepTable(chosen_by="fid", images=1500, results_sha256="0" * 64, rows=rows)
    info = replace(INFO, guidance_scale=2.5, guidance_interval=(0.1, 0.8), sampling_steps=20, sweep=table)
    card = model_card(build_network(NETWORKS["dit"]), info)
    assert "20 steps, guidance 2.5 for t from 0.1 to 0.8, x0" in card
    assert (
        "\n\nGuidance and steps were chosen by fid, the first row, of these settings; 1,500 images each, of the same"
        " prompts from the same noise.\n\n| guidance | t | steps | fid | clip_score |\n|---|---|---|---|---|\n"
        "| 2.5 | 0.1 to 0.8 | 20 | 5.25 | 27 |\n| 1 | 0 to 1 | 10 | 9 |  |\n\n## Data" in card
    )
