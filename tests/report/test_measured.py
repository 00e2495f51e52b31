"""Measured tables: numbers of different protocols are apart unless forced together."""

from dataclasses import replace

import pytest

from tessera.config import UserError
from tessera.evaluate.scores import Number, Protocol
from tessera.report.measured import ablation_tables, curve_points, measured_tables, seed_tables
from tessera.report.tables import label
from tiny.quality_scores import geneval, quality


def test_unlike_protocols_stand_apart_unless_forced():
    a, b, c = geneval("a", 0.5), geneval("b", 0.5, 1), geneval("c", 0.5, 2, encoder_sha256="f" * 64)
    tables = measured_tables([a, b, c])
    assert [[row.model for row in table.rows] for table in tables] == [["a", "b"], ["c"]]
    assert "encoder_sha256" in tables[1].note
    (forced,) = measured_tables([a, b, c], force=True)
    assert [row.model for row in forced.rows] == ["a", "b", "c"]
    assert "do not compare" in forced.note
    apart = measured_tables([a, geneval("e", 0.5, extended=True)])
    assert [table.title for table in apart] == [
        "GenEval (Table 2), original prompts",
        "GenEval (Table 2), prompts extended by llama",
    ]


def test_tables_4_and_5_and_the_curves():
    scores = [quality("m", 9.0), geneval("m", 0.5), geneval("m", 0.9, 1, extended=True), quality("alone", 3.0)]
    (table,) = ablation_tables(scores)
    assert [row.model for row in table.rows] == ["m"]
    assert table.rows[0].cells[0].value == 9.0
    assert table.rows[0].cells[1].value < table.rows[0].cells[2].value
    points = [quality("m", 9, 300), quality("m", 7, 100), quality("n", 5, 100), quality("m", 1, 200, images=7)]
    assert curve_points(points, "fid") == [("", {"m": [(100, 7.0), (300, 9.0)]})]
    assert label("clip_score/legacy-cut") == "CLIPScore (legacy-cut) \u2191"
    assert label("dpg/official/overall") == "Overall (official) \u2191"
    assert label("fid") == "FID \u2193"


def test_fid_beside_geneval_is_that_of_the_last_step():
    steps = [quality("m", 9.0, 100), quality("m", 7.0, 300), quality("m", 8.0, 200)]
    assert ablation_tables([*steps, geneval("m", 0.5)])[0].rows[0].cells[0].value == 7.0


def test_no_column_mixes_protocols_that_only_later_rows_share():
    """The first row has FID alone; the others' recall is of two networks."""

    def more(name, encoder):
        scores = quality(name, 5.0)
        about = Protocol(metric="recall/full", name="full", encoder=encoder)
        recall = Number(metric="recall/full", value=0.5, n=100, protocol=about)
        return replace(scores, numbers=(*scores.numbers, recall))

    a, b, c = quality("a", 4.0), more("b", "x"), more("c", "y")
    tables = measured_tables([a, b, c])
    assert [[row.model for row in table.rows] for table in tables] == [["a", "b"], ["c"]]
    assert [table.note for table in tables] == [
        "",
        "Not paired with the models above, because its protocols differ: encoder: 'x' vs 'y'",
    ]
    (forced,) = measured_tables([a, b, c], force=True)
    assert "do not compare" in forced.note
    assert not measured_tables([a, b], force=True)[0].note


def test_fid_beside_geneval_keeps_unlike_protocols_apart():
    scores = [quality("a", 9.0), quality("b", 8.0, images=7), quality("c", 7.0)]
    scores += [geneval(name, 0.5) for name in "abc"]
    tables = ablation_tables(scores)
    assert [[row.model for row in table.rows] for table in tables] == [["a", "c"], ["b"]]
    assert tables[1].note.startswith("Protocols: see the tables above. Not paired ")
    assert tables[1].note.endswith("its protocols differ: images: 100 vs 7")
    (forced,) = ablation_tables(scores, force=True)
    assert [row.model for row in forced.rows] == ["a", "b", "c"]
    assert "do not compare" in forced.note


def test_every_protocol_has_its_curves():
    """A single number by another protocol, given first, takes no curve away."""
    points = [quality("m", 1, 100, images=7), *(quality("n", i, i) for i in (100, 200, 300))]
    assert curve_points(points, "fid") == [("", {"n": [(100, 100), (200, 200), (300, 300)]})]
    points += [quality("m", 2, 200, images=7)]
    (_, first), (apart, second) = curve_points(points, "fid")
    assert (first, second.keys(), apart) == ({"m": [(100, 1), (200, 2)]}, {"n"}, "images: 7 vs 100")
    steps = [replace(geneval("m", 0.5, extended=long), num_images=i) for i in (1, 2) for long in (False, True)]
    titles = [apart for apart, _ in curve_points(steps, "geneval/overall")]
    assert titles == ["", "prompts extended by llama"]


def test_tables_of_pictures_say_which():
    about = {"reference": "r" * 64, "reference_images": 30_000}
    facts = {"size": "256", "prompts": "COCO's captions", "reference": "val2014"}
    coco = replace(quality("m", 9.0, **about), facts=facts)
    other = quality("m", 9.0, reference="s" * 64, reference_images=50_000)
    assert [table.title for table in measured_tables([coco, other])] == [
        "Image quality (Table 1): 100 images of 256 px by COCO's captions, against 30,000 of val2014",
        "Image quality (Table 1): 100 images, against 50,000",
    ]


def test_trainings_of_one_arm_have_an_interval_over_seeds_beside_that_over_prompts():
    """Student's t by hand: 8, 9, 10 have deviation 1 and, of 3, 9 +- 4.303 / sqrt(3)."""

    def training(name, value):
        (number,) = quality(name, value).numbers
        return replace(quality(name, value), numbers=(replace(number, low=value - 0.3, high=value + 0.5),))

    arms = {"ta": (8.0, 9.0, 10.0), "ta_ia": (5.0, 5.0, 5.0)}
    scores = [training(f"{arm}-seed{n}", value) for arm, values in arms.items() for n, value in enumerate(values)]
    (table,) = seed_tables(scores, 3)
    assert [row.model for row in table.rows] == [f"{arm}, over {of}" for arm in arms for of in ("seeds", "prompts")]
    assert "3 trainings of each arm" in table.title
    (seeds,), (prompts,) = (row.cells for row in table.rows[:2])
    assert (seeds.value, seeds.low) == pytest.approx((9, 9 - 4.30265 / 3**0.5), abs=1e-4)
    assert (prompts.low, prompts.high) == pytest.approx((8.7, 9.5))
    assert table.rows[2].cells[0].bounds() == (5, 5, 5)


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (("p25", "p25", "p50", "p50"), ("p25", "p50")),
        (("tau-2", "tau-2", "tau-4", "tau-4"), ("tau-2", "tau-4")),
        (("tau-2-seed0", "tau-2-seed1", "tau-4-seed0", "tau-4-seed1"), ("tau-2", "tau-4")),
    ],
)
def test_a_number_that_all_trainings_of_an_arm_share_is_part_of_its_name(names, rows):
    (table,) = seed_tables([quality(name, 8.0 + n) for n, name in enumerate(names)], 2)
    assert [row.model for row in table.rows] == [f"{name}, over seeds" for name in rows]


def test_intervals_over_seeds_end_where_the_measure_does():
    """Of two trainings: half the interval is 12.706 times half their difference."""
    (table,) = seed_tables([geneval("a-0", 0.2), geneval("a-1", 0.8)], 2)
    assert table.rows[0].cells[table.columns.index("geneval/overall")].bounds()[::2] == (0, 1)
    (table,) = seed_tables([quality("a-0", 20.0), quality("a-1", 21.0)], 2)
    assert table.rows[0].cells[0].bounds() == pytest.approx((20.5 - 6.353, 20.5, 20.5 + 6.353), abs=1e-3)


def test_trainings_that_are_not_of_one_arm_are_refused():
    scores = [quality("ta-0", 8), quality("ta-1", 9), quality("ta-2", 9, reference="b")]
    with pytest.raises(UserError, match="3 scores are not 2 of each arm"):
        seed_tables(scores, 2)
    with pytest.raises(UserError, match="3 scores are not 0 of each arm"):
        seed_tables(scores, 0)
    with pytest.raises(UserError, match="fid: the protocols differ"):
        seed_tables(scores, 3)
    with pytest.raises(UserError, match="are no trainings of one arm"):
        seed_tables([scores[0], quality("ta-1", 9, 2000)], 2)
