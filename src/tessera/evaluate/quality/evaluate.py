"""evaluate quality: compare a directory of images with a reference and with its captions (section 4.1, Table 1).

One decoding of the images feeds all networks. Networks compute in float32, statistics in float64.
"""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tessera.config import UserError, part_id, to_dict
from tessera.devices import usual_defaults
from tessera.evaluate.quality.captions import numbered_prompts, read_captions, words_for
from tessera.evaluate.quality.features import find_images, say_others
from tessera.evaluate.quality.metrics import METRICS, Inputs, QualityConfig, blocks_of, load_metric
from tessera.evaluate.quality.reference import SAMPLES, Source, find_reference, reference_of, user_cache
from tessera.evaluate.scores import FILE, Number, Scores, library_versions, write_scores
from tessera.stages import open_stage

if TYPE_CHECKING:
    from tessera.pretrained.features.encoder import ImageEncoder


@usual_defaults
def evaluate_quality(
    out: Path,
    samples: Path,
    reference: Path,
    networks: "Mapping[str, ImageEncoder]",
    config: QualityConfig | None = None,
    *,
    prompts: Path | None = None,
    name: str | None = None,
    num_images: int | None = None,
    cache: Path | None = None,
    chunk: int = 256,
) -> bool:
    """Measure `samples` against `reference` into `out`/scores.json; resumable. Return True when it is complete.

    samples: a directory of `generate`, or of any images. reference: a directory of images, or of their features as the
    cache has them. networks: those that the metrics name. prompts: a file with a caption for each image, where the
    samples have none. name: in tables; the samples directory's by default. num_images: training images that the model
    had seen, for curves. cache: of images' features; None = tessera/reference of the user's cache. chunk: images whose
    features are written at once.
    """
    out, samples, reference, config = Path(out), Path(samples), Path(reference), config or QualityConfig()
    metrics = {metric: load_metric(metric) for metric in config.metrics}
    needed = {metric.network: networks[metric.network] for metric in metrics.values()}
    images = find_images(samples, "sample")
    asked = [name for name, metric in metrics.items() if metric.captioned]
    captions = read_captions(images, prompts) if asked or prompts or images.drawn else None
    if asked and captions is None:
        raise UserError(f"{samples}: has no captions for {asked[0]}; give --prompts, or leave {asked[0]} out")
    compared = {metric.network: needed[metric.network] for metric in metrics.values() if not metric.captioned}
    source = find_reference(reference) if compared else None
    described = to_dict(config) | {
        "metrics": [part_id(metric, METRICS) for metric in metrics],
        "samples": images.sha256,
        "prompts": captions and hashlib.sha256("".join(f"{text}\n" for text in captions).encode()).hexdigest(),
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
    say_others("quality", images, source.images if source else None)
    work, cache = out / "work", cache or user_cache()
    how = config.batch_size, config.rounding
    arguments = compared, cache, work / "reference", *how, chunk
    found = source and reference_of(source, *arguments)
    drawn = Source(images.directory, images.sha256, images)
    made = reference_of(drawn, needed, cache / SAMPLES, work / "samples", *how, chunk, "quality")
    if source and found is None:  # other ranks may have done their part of it meanwhile
        found = reference_of(source, *arguments)
    if made is None or (source and found is None):
        return False
    features = made.features
    blocks = blocks_of(len(images.files), captions, config.seed)
    facts: dict[str, Any] = {}
    numbers: list[Number] = []
    values: dict[str, list[float]] = {}
    for key, metric in metrics.items():
        network, against = needed[metric.network], None if metric.captioned else found
        real = against.features[metric.network] if against else np.empty((0, 0), np.float32)
        result = metric.measure(Inputs(config, network, features[metric.network], real, blocks, captions), key)
        about: dict[str, Any] = {
            "encoder": network.id,
            "encoder_sha256": network.sha256,
            "resize": network.resizing,
            "rounding": config.rounding if images.arrays or (against and against.arrays) else None,
            "images": len(images.files),
            "reference": against.sha256 if against else None,
            "reference_images": against.images if against else None,
            "prompts_sha256": described["prompts"],
            "extender": images.drawn.extender if images.drawn else None,
            "versions": library_versions(),
        }
        for number in result.numbers:
            label, direction = metric.shows[number.metric.split("/")[0]]
            numbers.append(
                replace(number, label=label, direction=direction, protocol=replace(number.protocol, **about))
            )
        values |= result.values
        facts |= result.facts
    items = []
    places = numbered_prompts(captions or images.files)
    for row, (file, (prompt, sample)) in enumerate(zip(images.files if values else (), places)):
        own = {metric: each[row] for metric, each in values.items()}
        text = captions[row] if captions else None
        items.append({"prompt": prompt, "sample": sample, "file": file, "text": text, "values": own})
    facts |= words_for(images, source, config.rounding)
    scores = Scores(kind="quality", name=described["name"], numbers=tuple(numbers), items=tuple(items), facts=facts)
    write_scores(out, replace(scores, num_images=num_images))
    counts = {"images": len(images.files), "numbers": len(numbers)}
    stage.finish(counts | ({"reference": found.images} if found else {}), joint=(FILE,))
    shutil.rmtree(work, ignore_errors=True)  # last: until then a killed process loses nothing
    return True
