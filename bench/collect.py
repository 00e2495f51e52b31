"""Time of `collect` next to another version's: `python bench/collect.py OTHER/src [IMAGES] [TURNS]` (100, 15).

Crops JPEG and PNG files of 500 x 375 to 256 px, JPEG also with --fast. Each version has a process that stays, and they
take turns, as a machine's speed changes from one second to the next. Time is that of the processor, without the start
of Python. Prints the medians in milliseconds an image, their ratio, and the median and quartiles of the turns' ratios.
"""

import io
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from compose import photograph
from PIL import Image

OWN = Path(__file__).parents[1] / "src"
WORK = """
import contextlib, os, shutil, sys
import psutil
from tessera.cli import main

def now():  # with the children of a fork server, which os.times does not see
    own = psutil.Process()
    return sum(sum(each.cpu_times()[:4]) for each in [own, *own.children(recursive=True)])

for line in sys.stdin:
    source, out, *flags = line.split()
    shutil.rmtree(out, ignore_errors=True)
    begin, sys.argv = now(), ["tessera", "collect", source, "--out", out, *flags]
    with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(SystemExit):
        main()
    assert os.path.exists(out + "/images.parquet")
    print(now() - begin, flush=True)
"""


def main(other: str, count: int, turns: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, workers = Path(name), dict[str, Any]()
        for number in range(count):
            data = photograph(number)
            for kind in ("jpg", "png"):
                path = folder / kind / f"class{number % 10}" / f"{number}.{kind}"
                path.parent.mkdir(parents=True, exist_ok=True)
                if kind == "jpg":
                    path.write_bytes(data)
                else:
                    Image.open(io.BytesIO(data)).save(path)
        for version, src in (("other", other), ("own", str(OWN))):
            environment = os.environ | {"PYTHONPATH": src, "OMP_NUM_THREADS": "1", "TESSERA_QUIET": "1"}
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            workers[version] = subprocess.Popen([sys.executable, "-c", WORK], env=environment, text=True, **pipes)

        def seconds(version: str, what: str) -> float:
            worker = workers[version]
            print(what.replace(" ", f" {folder / version} ", 1), file=worker.stdin, flush=True)
            return float(worker.stdout.readline())

        for kind, flag in (("jpg", ""), ("jpg", "--fast"), ("png", "")):
            what, taken = f"{folder / kind} {flag}", {version: list[float]() for version in workers}
            for turn in range(-1, turns):  # the first is not counted
                for version in sorted(workers, reverse=bool(turn % 2)):
                    taken[version].append(seconds(version, what))
            median = {version: statistics.median(times[1:]) for version, times in taken.items()}
            low, middle, high = statistics.quantiles(
                [a / b for a, b in zip(taken["own"][1:], taken["other"][1:], strict=True)], n=4
            )
            each = (1000 * median[version] / count for version in ("other", "own"))
            print("{} {}: {:.3f} ms other, {:.3f} ms own,".format(kind, flag, *each), end=" ")
            print(f"ratio {median['own'] / median['other']:.3f}; of the turns {middle:.3f} ({low:.3f} to {high:.3f})")
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()


if __name__ == "__main__":
    main(sys.argv[1], *(int(given) for given in (sys.argv[2:] + ["100", "15"][len(sys.argv[2:]) :])))
