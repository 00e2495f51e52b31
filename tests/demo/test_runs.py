"""The runs of a working folder as markup."""

from tessera.demo.runs import show_runs
from tessera.report.arms import loss_points


def test_runs_show_curves_and_say_what_is_missing(workspace, tmp_path):
    assert loss_points(workspace / "runs" / "ta" / "log.jsonl") == [(10, 0.5), (20, 0.25)]
    shown = show_runs(workspace)
    assert "<svg " in shown
    assert "Nothing was judged" in shown
    assert "no runs" in show_runs(tmp_path)
    (tmp_path / "runs" / "<b>x").mkdir(parents=True)
    (tmp_path / "runs" / "<b>x" / "log.jsonl").write_text('{"num_images": 1, "loss": 0.5}\n')
    assert "<b>x" not in show_runs(tmp_path)
