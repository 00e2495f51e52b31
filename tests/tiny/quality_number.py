"""Scores of one metric over six images."""

from tessera.evaluate.scores import (
    Number,
    Protocol,
    Scores,
)


def protocol(**changes) -> Protocol:
    given = {"metric": "clip_score", "name": "full", "encoder": "net", "encoder_sha256": "a" * 64, "images": 6}
    return Protocol(**{**given, "settings": {"min_score": 0.3}, "versions": {"torch": "2.9"}, **changes})


def scores(name="ta", values=(1.0, 2, 3, 4, 5, 6), over="items", tags=("x",) * 6, by=None) -> Scores:
    items = tuple(
        {"prompt": i // 2, "sample": i % 2, "tag": tag, "values": {"clip_score": v}}
        for i, (v, tag) in enumerate(zip(values, tags))
    )
    about = {"n": 6, "clusters": 3, "over": over, "interval": "bootstrap over prompts, 9 resamples"}
    number = Number(metric="clip_score", value=3.5, low=2, high=5, **about, protocol=protocol(**(by or {})))
    return Scores(kind="quality", name=name, numbers=(number,), items=items, num_images=1000)
