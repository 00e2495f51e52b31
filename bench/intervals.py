"""Coverage of 95% intervals of shares in simulations: score intervals against the bootstrap's.

    python bench/intervals.py            # about two minutes on one core; --repeats 4000 for finer figures

Prompts are drawn rightly as often as a beta variable says, of mean `share` and correlation `alike` within a prompt:
0 = its images are independent, 1 = all alike. Rows: one share; scores that are nearly always full and seldom 0; the
mean of six tasks of 20 prompts; the difference of two models for which the same prompts are hard; a share over training
seeds, whose own shares differ by 0.05 (standard deviation) around 0.5. Prints coverage in percent, and the mean width.
"""

import argparse

import numpy as np

from tessera.metrics import Interval, bootstrap, paired_bootstrap, share_difference, share_interval

RESAMPLES = 300
TASKS = ((0.97, 0.9, 0.5, 0.3, 0.05, 0.01), (0.9,) * 6, (0.99,) * 6)


def drawn(rng: np.random.Generator, share: float, alike: float, prompts: int, images: int) -> np.ndarray:
    """Draw rights (1) and wrongs (0) of each image, prompt by prompt: float64 (prompts * images,)."""
    spread = (1 - alike) / alike
    skill = rng.beta(share * spread, (1 - share) * spread, prompts)
    return (rng.random((prompts, images)) < skill[:, None]).astype(float).ravel()


class Tally:
    """Counts the intervals that hold a value, and how wide they are."""

    def __init__(self, truth: float):
        self.truth, self.held, self.widths = truth, 0, []

    def add(self, interval: Interval) -> None:
        self.held += interval.low - 1e-12 <= self.truth <= interval.high + 1e-12
        self.widths.append(interval.high - interval.low)

    def __str__(self) -> str:
        return f"{100 * self.held / len(self.widths):6.1f} {np.mean(self.widths):7.3f}"


def one_share(rng: np.random.Generator, share: float, alike: float, prompts: int, images: int, repeats: int) -> str:
    labels = np.repeat(np.arange(prompts), images)
    score, again = Tally(share), Tally(share)
    for number in range(repeats):
        values = drawn(rng, share, alike, prompts, images)
        score.add(share_interval(values, labels))
        again.add(bootstrap(values, labels, RESAMPLES, number))
    return f"{score} {again}"


def six_tasks(rng: np.random.Generator, shares: tuple[float, ...], alike: float, repeats: int) -> str:
    labels = np.repeat(np.arange(120), 2)
    score = Tally(float(np.mean(shares)))
    for _ in range(repeats):
        values = np.concatenate([drawn(rng, share, alike, 20, 2) for share in shares])
        score.add(share_interval(values, labels, labels // 20))
    return str(score)


def difference(rng: np.random.Generator, shares: tuple[float, float], prompts: int, images: int, repeats: int) -> str:
    labels = np.repeat(np.arange(prompts), images)
    score, again = Tally(shares[0] - shares[1]), Tally(shares[0] - shares[1])
    for number in range(repeats):
        ease = rng.random(prompts)  # its power k has the mean 1 / (k + 1)
        a, b = ((rng.random(len(labels)) < (ease ** (1 / share - 1))[labels]).astype(float) for share in shares)
        score.add(share_difference(a, b, labels))
        again.add(paired_bootstrap(a, b, labels, RESAMPLES, number))
    return f"{score} {again}"


def over_seeds(rng: np.random.Generator, seeds: int, repeats: int) -> str:
    labels, seed = np.tile(np.repeat(np.arange(120), 2), seeds), np.repeat(np.arange(seeds), 240)
    score = Tally(0.5)
    for _ in range(repeats):
        skill = 0.2 + 0.6 * rng.beta(2, 2, 120) + 0.05 * rng.normal(size=(seeds, 1))
        values = (rng.random(len(labels)) < np.repeat(skill, 2, axis=1).ravel()).astype(float)
        score.add(share_interval(values, labels, labels % 6, seed))
    return str(score)


def mostly_full(rng: np.random.Generator, prompts: int, repeats: int) -> str:
    """Simulate scores of a good model in DPG-Bench: 85% are 1, 15% 0.6 to 0.9; of one prompt in 50 all are 0."""
    labels = np.repeat(np.arange(prompts), 4)
    score, again = Tally(0.98 * (0.85 + 0.15 * 0.75)), Tally(0.98 * (0.85 + 0.15 * 0.75))
    for number in range(repeats):
        values = np.where(rng.random((prompts, 4)) < 0.85, 1, rng.uniform(0.6, 0.9, (prompts, 4)))
        values = (values * (rng.random((prompts, 1)) < 0.98)).ravel()
        score.add(share_interval(values, labels))
        again.add(bootstrap(values, labels, RESAMPLES, number))
    return f"{score} {again}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000, help="simulated sets of images a row")
    repeats = parser.parse_args().repeats
    rng = np.random.default_rng(0)
    print(f"{'':44} score interval       bootstrap\n{'':44} held %  width  held %  width")
    for prompts, images in ((20, 2), (50, 4), (100, 4)):
        for alike in (0.1, 0.3, 0.6):
            for share in (0.5, 0.8, 0.9, 0.95, 0.97, 0.99):
                found = one_share(rng, share, alike, prompts, images, repeats)
                print(f"{prompts:3} prompts x {images}, alike {alike}, share {share:<4}".ljust(44), found, flush=True)
    for prompts in (20, 50, 100, 1000):
        found = mostly_full(rng, prompts, repeats)
        print(f"{prompts:4} prompts x 4, nearly full, 1 in 50 at 0".ljust(44), found, flush=True)
    for shares in TASKS:
        print(f"six tasks, {shares}, alike 0.4".ljust(44), six_tasks(rng, shares, 0.4, repeats), flush=True)
    for pair in ((0.5, 0.5), (0.7, 0.5), (0.97, 0.9), (0.97, 0.97)):
        for prompts, images in ((20, 2), (100, 4)):
            found = difference(rng, pair, prompts, images, repeats)
            print(f"{prompts:3} prompts x {images}, {pair[0]} minus {pair[1]}".ljust(44), found, flush=True)
    for seeds in (1, 2, 3, 6, 12):
        print(f"120 prompts x 2, {seeds} seeds".ljust(44), over_seeds(rng, seeds, repeats), flush=True)


if __name__ == "__main__":
    main()
