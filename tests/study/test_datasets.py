"""Names of data sets: equal for cells that share them, different for every other configuration."""

from dataclasses import replace

from tessera.study.datasets import data_of, prepare
from tessera.study.studies import claims_smoke
from tessera.study.variants import aio, base, with_ia


def test_cells_share_what_does_not_depend_on_their_difference(tmp_path):
    ta, ia, short = (data_of(tmp_path, config) for config in (base(), with_ia(base()), aio(base())))
    assert ta.images == ia.images == short.images
    assert ta.plain == ia.plain
    assert ta.plain != short.plain
    assert ta.recipe is None
    assert ia.recipe is not None
    other = base()
    other = data_of(
        tmp_path, replace(other, collect=replace(other.collect, world=replace(other.collect.world, num_images=9)))
    )
    assert other.images != ta.images
    assert other.plain != ta.plain
    assert ta.held_out(4) != ta.held_out(5)


def test_everything_of_a_cell_is_made_once(tmp_path):
    config = claims_smoke().variants[2].config
    made = prepare(tmp_path, config)
    assert made == data_of(tmp_path, config)
    for path in (made.images, made.recipe, made.plain, made.augmented, made.prompts):
        assert (path / "manifest.json").is_file()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    prepare(tmp_path, config)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
