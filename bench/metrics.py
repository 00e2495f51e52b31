"""The metrics' mathematics against the usual packages: CPU seconds, memory and values, on the same arrays in one run.

    python bench/metrics.py                      # FID at 2048-d, PRDC at 10,000 x 1024, nearest neighbors
    python bench/metrics.py --width 512 --prdc 3000x256 --skip-sqrtm
    python bench/metrics.py --only-ours 50000x1024           # PRDC
    python bench/metrics.py --only-ours 2000x1280000x1024    # nearest neighbors, after the estimate of their time

Needs the extra `dev` (scipy, prdc with scikit-learn). CPU seconds are of all threads. Extra memory is the peak of the
process above what it held before; each measurement has a process of its own.
"""

import argparse
import contextlib
import hashlib
import io
import json
import multiprocessing
import resource
import time

import numpy as np


def features(rows: int, width: int, seed: int) -> np.ndarray:
    """Draw features with a decaying spectrum, as those of trained networks have."""
    rng = np.random.default_rng(seed)
    spectrum = 1 / np.sqrt(1 + np.arange(width, dtype=np.float32) / 20)
    out = np.empty((rows, width), np.float32)
    for start in range(0, rows, 1000):  # small pieces: the peak of memory is to be that of the metric
        out[start : start + 1000] = rng.standard_normal((len(out[start : start + 1000]), width), np.float32) * spectrum
    out += 0.05 * seed
    return out


def moments(width: int):
    from tessera.metrics import Moments

    out = []
    for seed in (0, 1):
        out.append(Moments(width))
        out[-1].update(features(width + width // 2, width, seed))
    return out


def ours_frechet(width, *_):
    import torch  # noqa: F401  # 1.2 s of processor time, which whoever has features has spent

    from tessera.metrics import frechet_from_moments

    parts = moments(width)
    return lambda: frechet_from_moments(*parts)


def ours_interval(width, *_):
    import torch  # noqa: F401

    from tessera.metrics import deal_blocks, frechet_left_out, jackknife

    real, fake = (features(5 * width, width, seed) for seed in (0, 1))
    blocks = deal_blocks(range(len(fake)))
    assert blocks is not None

    def run():
        interval = jackknife(frechet_left_out(real, fake, blocks), np.bincount(blocks))
        assert interval is not None
        return [interval.low, interval.value, interval.high]

    return run


def ours_distance(width, *_):
    import torch  # noqa: F401

    from tessera.metrics import frechet_distance

    real, fake = (features(5 * width, width, seed) for seed in (0, 1))
    return lambda: frechet_distance(real, fake)


def eigvals_frechet(width, *_):
    a, b = moments(width)

    def run():
        roots = np.sqrt(np.linalg.eigvals(a.covariance @ b.covariance).real.clip(0)).sum()
        return float(((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance) + np.trace(b.covariance) - 2 * roots)

    return run


def sqrtm_frechet(width, *_):
    from scipy.linalg import sqrtm

    a, b = moments(width)

    def run():
        root = np.trace(np.real(sqrtm(a.covariance @ b.covariance)))
        return float(((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance) + np.trace(b.covariance) - 2 * root)

    return run


def ours_prdc(rows, width):
    from tessera.metrics import prdc

    real, fake = features(rows, width, 0), features(rows, width, 1)
    return lambda: vars(prdc(real, fake, 5))


def package_prdc(rows, width, dtype=np.float32):
    from prdc import compute_prdc

    real, fake = (features(rows, width, seed).astype(dtype) for seed in (0, 1))
    return lambda: {name: float(value) for name, value in compute_prdc(real, fake, 5).items()}


def ours_nearest(rows, others, width):
    import torch  # noqa: F401

    from tessera.metrics import nearest

    points, training = features(rows, width, 0), features(others, width, 1)
    return lambda: _found(*nearest(points, training))


def ours_announced(rows, others, width):
    from tessera.evaluate.copies.distances import nearest_training, search_seconds

    points, training = features(rows, width, 0), features(others, width, 1)
    print(f"announced: {search_seconds([rows], training):.1f} s", flush=True)

    def run():
        found = nearest_training([points], training)
        return _found(found.distances, found.rows)

    return run


def sklearn_nearest(rows, others, width):
    from sklearn.neighbors import NearestNeighbors

    points, training = features(rows, width, 0), features(others, width, 1)

    def run():
        distances, found = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(training).kneighbors(points)
        return _found(distances[:, 0], found[:, 0])

    return run


def _found(distances, rows):
    return {"distance": float(distances.mean()), "rows": hashlib.sha256(rows.astype(np.int64).tobytes()).hexdigest()}


def _measure(pipe, make, arguments):
    run = make(*arguments)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu, wall = time.process_time(), time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        value = run()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    pipe.send({"value": value, "cpu_s": round(cpu, 2), "wall_s": round(wall, 2), "extra_GiB": round(extra, 3)})


def measure(name, make, *arguments):
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_measure, args=(theirs, make, arguments))
    process.start()
    theirs.close()
    result = ours.recv()
    process.join()
    cost = f"{result['cpu_s']:8.2f} CPU-s {result['wall_s']:8.2f} s {result['extra_GiB']:7.3f} GiB extra"
    print(f"{name:28s} {cost}", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=2048, help="of FID's features; 0 skips FID")
    parser.add_argument("--prdc", default="10000x1024", help="ROWSxWIDTH; 0x0 skips it")
    parser.add_argument("--nearest", default="10000x100000x1024", help="ROWSxOTHERSxWIDTH; 0x0x0 skips it")
    parser.add_argument("--skip-sqrtm", action="store_true")
    parser.add_argument("--only-ours", metavar="ROWS[xOTHERS]xWIDTH", help="alone, at a size that packages cannot hold")
    arguments = parser.parse_args()
    summary = {}
    if arguments.only_ours:
        shape = tuple(map(int, arguments.only_ours.split("x")))
        name, make = ("PRDC", ours_prdc) if len(shape) == 2 else ("nearest", ours_announced)
        summary[name] = measure(f"{name} {arguments.only_ours}", make, *shape)
        print(json.dumps(summary))
        return
    if arguments.width:
        ours = measure(f"FID {arguments.width}-d, tessera", ours_frechet, arguments.width)
        eigvals = measure("  numpy eigvals", eigvals_frechet, arguments.width)
        summary["fid"] = {"cpu_less_than_eigvals": eigvals["cpu_s"] / max(ours["cpu_s"], 0.01)}
        others = [eigvals]
        if not arguments.skip_sqrtm:
            others.append(measure("  scipy sqrtm", sqrtm_frechet, arguments.width))
            summary["fid"]["times_faster_than_sqrtm"] = others[-1]["wall_s"] / max(ours["wall_s"], 0.01)
        plain = measure(f"FID of {5 * arguments.width} images", ours_distance, arguments.width)
        interval = measure("  with its interval", ours_interval, arguments.width)
        summary["fid"]["interval"] = interval["value"]
        summary["fid"]["cpu_s_of_interval"] = interval["cpu_s"] - plain["cpu_s"]
        summary["fid"]["relative_difference"] = max(abs(o["value"] / ours["value"] - 1) for o in others)
    rows, width = map(int, arguments.prdc.split("x"))
    if rows:
        ours = measure(f"PRDC {rows} x {width}, tessera", ours_prdc, rows, width)
        package = measure("  prdc", package_prdc, rows, width)
        exact = measure("  prdc of float64 features", package_prdc, rows, width, np.float64)
        summary["prdc"] = {
            "cpu_less": package["cpu_s"] / max(ours["cpu_s"], 0.01),
            "extra_GiB": ours["extra_GiB"],
            "difference": max(abs(ours["value"][name] - exact["value"][name]) for name in ours["value"]),
            "difference_from_float32": max(abs(ours["value"][name] - package["value"][name]) for name in ours["value"]),
        }
    rows, others, width = map(int, arguments.nearest.split("x"))
    if rows:
        ours = measure(f"nearest of {rows} x {others} x {width}", ours_nearest, rows, others, width)
        theirs = measure("  scikit-learn, brute force", sklearn_nearest, rows, others, width)
        summary["nearest"] = {
            "cpu_less": theirs["cpu_s"] / max(ours["cpu_s"], 0.01),
            "extra_GiB": ours["extra_GiB"],
            "same_rows": ours["value"]["rows"] == theirs["value"]["rows"],
        }
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
