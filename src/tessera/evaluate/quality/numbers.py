"""The numbers of `evaluate quality`, each with its protocol, made of the features of pictures and reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera import metrics
from tessera.evaluate.quality.captions import captions_sha256
from tessera.evaluate.quality.config import CAPTIONED, NETWORK, Metric, QualityConfig
from tessera.evaluate.quality.distances import KID_SUBSET, PRDC_PROTOCOLS, Blocks, Estimate, cmmd, frechet, kid, prdc_by
from tessera.evaluate.quality.features import Pictures
from tessera.evaluate.quality.reference import Reference
from tessera.evaluate.scores import Extender, Number, Protocol, library_versions


@dataclass(frozen=True)
class Measured:
    """All that the numbers are made of."""

    config: QualityConfig
    pictures: Pictures
    features: Mapping[str, NDArray[np.float32]]
    reference: Reference | None
    networks: Mapping[str, Any]
    extender: Extender | None
    captions: Sequence[str] | None
    """Of each picture; None = unknown, and no CAPTIONED metric is measured."""
    blocks: Blocks

    def all(self) -> tuple[list[Number], list[dict[str, Any]], dict[str, Any]]:
        """(numbers, items, facts)."""
        numbers, facts = [], {}
        items: list[dict[str, Any]] = []
        for metric in self.config.metrics:
            if metric in CAPTIONED:
                number, values, cut = self._caption_score(metric)
                numbers.append(number)
                facts[f"{number.metric}/captions_truncated"] = cut
                for row, value in enumerate(values):
                    if len(items) <= row:
                        items.append(self._item(row))
                    items[row]["values"][number.metric] = value
            else:
                numbers += self._distance(metric)
        return numbers, items, facts

    def _distance(self, metric: Metric) -> list[Number]:
        """One number; of "prdc" four for each of its protocols."""
        assert self.reference is not None
        key, seed, blocks = NETWORK[metric], self.config.seed, self.blocks
        real, fake = self.reference.features[key], self.features[key]
        if metric == "prdc":
            return [
                self._estimated(f"{part}/{name}", key, found, name, {"seed": seed} if name == "dgm-eval" else {})
                for name in self.config.prdc
                for part, found in prdc_by(name, real, fake, blocks, seed).items()
            ]
        if metric == "kid":
            subsets, size = self.config.kid_subsets, min(KID_SUBSET, len(real), len(fake))
            found = kid(real, fake, blocks, subsets, seed)
            return [self._estimated(metric, key, found, "subsets", {"subsets": subsets, "size": size, "seed": seed})]
        if metric == "cmmd":
            return [self._estimated(metric, key, cmmd(real, fake, blocks), "full", {"sigma": 10.0, "scale": 1000.0})]
        return [self._estimated(metric, key, frechet(real, fake, blocks), "full", {"covariance": "unbiased, float64"})]

    def _estimated(
        self, metric: str, key: str, found: Estimate, protocol: str, settings: Mapping[str, str | int | float]
    ) -> Number:
        return self._number(
            metric,
            found.value,
            protocol,
            key,
            settings,
            low=found.low,
            high=found.high,
            interval=found.interval,
            left_out=found.left_out,
        )

    def _caption_score(self, metric: Metric) -> tuple[Number, list[float], float]:
        """The number, each picture's 100 cos, and the share of captions that were cut."""
        assert self.captions is not None
        key = NETWORK[metric]
        texts = list(dict.fromkeys(self.captions))
        embedded = self.networks[key].captions(texts)
        rows = {text: row for row, text in enumerate(texts)}
        order = [rows[text] for text in self.captions]
        values = 100 * metrics.cosine_scores(self.features[key], embedded.features[order])
        interval = metrics.bootstrap(values, order, self.config.resamples, self.config.seed)
        low, value, high = (max(x, 0.0) for x in (interval.low, interval.value, interval.high))
        cut = self.networks[key].cut
        number = self._number(
            metric if cut == "keep-end" else f"{metric}/{cut}",
            value,
            cut,
            key,
            {"resamples": self.config.resamples, "seed": self.config.seed},
            low=low,
            high=high,
            clusters=len(texts),
            over="items",
            interval=f"bootstrap over prompts, {self.config.resamples} resamples",
        )
        return number, values.tolist(), embedded.truncated / len(texts)

    def _item(self, row: int) -> dict[str, Any]:
        assert self.captions is not None
        file = self.pictures.files[row]
        folder, stem = Path(file).parent.parent.name, Path(file).stem
        drawn = folder.isdecimal() and stem.isdecimal()
        prompt, sample = (int(folder), int(stem)) if drawn else (row, 0)
        return {"prompt": prompt, "sample": sample, "file": file, "text": self.captions[row], "values": {}}

    def _number(
        self,
        metric: str,
        value: float,
        protocol: str,
        key: str,
        settings: Mapping[str, str | int | float],
        **rest: Any,
    ) -> Number:
        """The number of `metric` on the network `key`; rest: its interval, and what of it."""
        network = self.networks[key]
        against = None if metric.split("/")[0] in CAPTIONED else self.reference
        about = Protocol(
            metric=metric.split("/")[0],
            name=protocol,
            encoder=network.id,
            encoder_sha256=network.sha256,
            resize=network.resizing,
            rounding=self.config.rounding if self.pictures.arrays or (against and against.arrays) else None,
            images=len(self.pictures.files),
            reference=against.sha256 if against else None,
            reference_images=against.images if against else None,
            k=PRDC_PROTOCOLS.get(protocol) if key == "dinov2" and "/" in metric else None,
            prompts_sha256=captions_sha256(self.captions) if self.captions else None,
            extender=self.extender,
            settings=settings,
            versions=library_versions(),
        )
        return Number(metric=metric, value=float(value), n=len(self.pictures.files), protocol=about, **rest)
