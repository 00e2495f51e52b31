"""evaluate quality: how good and how fitting a folder of pictures is, against a reference (paper section 4.1, Table 1).

FID and KID on Inception, FD and precision / recall / density / coverage on DINOv2, CLIPScore and CMMD on CLIP, and the
CLIPScore of jina-clip-v2, from one decoding of the pictures, into scores.json. Networks compute in float32, statistics
in float64. Intervals are over prompts: the bootstrap's of scores over captions, the jackknife's of distances.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tessera.config import UserError, to_dict
from tessera.evaluate.quality.captions import (
    captions_sha256,
    extender_of_samples,
    known_captions,
    read_captions,
    words_for,
)
from tessera.evaluate.quality.config import CAPTIONED, NETWORK, QualityConfig
from tessera.evaluate.quality.distances import blocks_of
from tessera.evaluate.quality.features import features_of, find_pictures
from tessera.evaluate.quality.numbers import Measured
from tessera.evaluate.quality.reference import find_reference, reference_of
from tessera.evaluate.scores import Scores, write_scores
from tessera.stages import open_stage


def default_cache() -> Path:
    """Where features of reference pictures are kept: tessera/reference of the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tessera" / "reference"


def evaluate_quality(
    out: Path,
    samples: Path,
    reference: Path,
    networks: Mapping[str, Any],
    config: QualityConfig | None = None,
    *,
    prompts: Path | None = None,
    name: str | None = None,
    num_images: int | None = None,
    cache: Path | None = None,
) -> bool:
    """Measures `samples` against `reference` into `out`/scores.json; goes on where it stopped. Whether it is complete.

    samples: a directory of `generate`, or of any pictures. reference: a directory of pictures, or of their features as
    the cache keeps them. networks: "inception", "dinov2", "clip", "clip336", "jina" -> encoder, those that the metrics
    need. prompts: a file with a caption for each picture, where the samples have none. name: in tables; the samples
    directory's by default. num_images: training images that the model had seen, for curves.
    """
    out, samples, reference, config = Path(out), Path(samples), Path(reference), config or QualityConfig()
    needed = {NETWORK[metric]: networks[NETWORK[metric]] for metric in config.metrics}
    pictures = find_pictures(samples, "sample")
    asked = [metric for metric in config.metrics if metric in CAPTIONED]
    captions = read_captions(pictures, prompts) if asked else known_captions(pictures, prompts)
    if asked and captions is None:
        raise UserError(f"{samples}: has no captions for {asked[0]}; give --prompts, or leave {asked[0]} out")
    extender = extender_of_samples(samples)
    compared = {key: network for key, network in needed.items() if key in ("inception", "dinov2", "clip336")}
    source = find_reference(reference) if compared else None
    described = to_dict(config) | {
        "samples": pictures.sha256,
        "prompts": captions_sha256(captions) if captions else None,
        "networks": {
            key: [network.id, network.sha256, network.resizing, getattr(network, "cut", None)]
            for key, network in needed.items()
        },
        "reference": source.sha256 if source else None,
        "name": name or samples.name,
        "num_images": num_images,
    }
    stage = open_stage(out, stage="evaluate quality", config=described, shared=True)
    if stage.done:
        shutil.rmtree(out / "work", ignore_errors=True)  # of a process that was killed here
        return True
    work, cache = out / "work", cache or default_cache()
    found = source and reference_of(source, compared, cache, work / "reference", config.batch_size, config.rounding)
    features = features_of(pictures, needed, work / "samples", config.batch_size, config.rounding, "quality")
    if source and found is None:  # other ranks may have done their part of it meanwhile
        found = reference_of(source, compared, cache, work / "reference", config.batch_size, config.rounding)
    if features is None or (source and found is None):
        return False
    blocks = blocks_of(len(pictures.files), captions, config.seed)
    measured = Measured(config, pictures, features, found, needed, extender, captions, blocks)
    numbers, items, facts = measured.all()
    write_scores(
        out,
        Scores(
            kind="quality",
            name=name or samples.name,
            numbers=tuple(numbers),
            items=tuple(items),
            num_images=num_images,
            facts=facts | words_for(pictures, source, config.rounding),
        ),
    )
    counts = {"images": len(pictures.files), "numbers": len(numbers)}
    stage.finish(counts | ({"reference": found.images} if found else {}))
    shutil.rmtree(work, ignore_errors=True)  # last: until then a killed process loses nothing
    return True
