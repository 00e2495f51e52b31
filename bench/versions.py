"""Training steps of this tree against those of another one: python bench/versions.py OTHER [--only NAME] [--rounds 20]

OTHER: the `src` folder of another version, such as a git worktree's. Each version has a process of its own with one
thread; the two take turns of a few steps, by this program's word, on the same data, and count their processor time. A
step is all of it: reading the batch, loss, backward, clip, optimizer, EMA. Given is the median over rounds of each, the
ratio of the two, and the quarters of the rounds' ratios: other work on the machine disturbs both alike.

Names: the miniature's DiT-I (Muon, batch 32), `miniature-paper` with AdamW, the small CAD-I, and DiT-I L/2
and CAD-I L at reduced depth (batch 4, 190 text tokens, AdamW and LAMB), all in bf16.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SIZES = {"miniature": 5, "miniature-adamw": 5, "miniature-cad": 5, "dit-i-l2": 1, "cad-i-l": 1}
"""Names, and the number of steps in a turn."""
MINIATURE_SET = (
    ("collect", "miniature", "--num-images", "256", "--out", "images"),
    ("caption", "images", "--captioner", "scene", "--out", "captions"),
    ("encode", "images", "captions", "--out", "encoded"),
)


def serve(name: str, set_folder: Path) -> None:
    """Make as many steps as each line of the input says; answer the processor time. The set is made by the version's
    own verbs, for the large networks by its own `bench/loader.py`."""
    from dataclasses import replace

    import torch
    from loader import make_set

    from tessera.encoded.store import open_encoded
    from tessera.models.dit import DIT_I_L2
    from tessera.models.rin import CAD_I_L
    from tessera.presets.imagenet import cad_i_l, dit_i_l2
    from tessera.presets.miniature import miniature, miniature_cad, miniature_paper
    from tessera.train.loop import Trainer
    from tessera.train.optim.config import OptimConfig

    torch.set_num_threads(1)
    small = {"miniature": miniature, "miniature-adamw": miniature_paper, "miniature-cad": miniature_cad}
    if name in small:
        config = small[name]().arms[0].train
        if name == "miniature-adamw":
            config = replace(config, optim=OptimConfig(name="adamw", lr=1e-3, betas=(0.9, 0.99), clip_norm=1.0))
        set_folder.mkdir()
        for verb in MINIATURE_SET:
            subprocess.run([sys.executable, "-m", "tessera.cli", *verb], cwd=set_folder, check=True, stdout=sys.stderr)
        made = set_folder / "encoded"
    else:
        adamw = OptimConfig(name="adamw", lr=1e-4)
        dit = replace(dit_i_l2(), model=replace(DIT_I_L2, depth=2, refiner_depth=1), optim=adamw)
        config = dit if name == "dit-i-l2" else replace(cad_i_l(), model=replace(CAD_I_L, blocks=1, refiner_depth=1))
        sizes = [name for name in ("batch_size", "device_batch_size") if hasattr(config, name)]  # older ones' too
        config = replace(config, **dict.fromkeys(sizes, 4))
        made = make_set(set_folder, 64, 0, False)
    config = replace(
        config, num_images=10**9, augment_prob=0.0, validation_records=0, sample_every_images=None, threads=1
    )
    trainer = Trainer(set_folder, open_encoded(made), None, config, torch.device("cpu"))
    size, number = config.batch_size, 0
    print("ready", flush=True)
    for line in sys.stdin:
        began = time.process_time()
        for _ in range(int(line)):
            trainer.stepper.step([trainer.reader(range(number, number + size))])
            trainer.stepper.catch_up(0)
            number += size
        print(time.process_time() - began, flush=True)


def start(script: Path, source: Path, *arguments: str) -> subprocess.Popen[str]:
    path = os.pathsep.join((str(source), str(source.parent / "bench")))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", str(script), "--serve", *arguments]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    process.stdout.readline()


def turn(process: subprocess.Popen[str], steps: int) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{steps}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def compare(name: str, sources: tuple[Path, Path], folder: Path, rounds: int) -> None:
    processes = [start(Path(__file__), source, name, str(folder / f"{i}")) for i, source in enumerate(sources)]
    steps = SIZES[name]
    try:
        for process in processes:
            ready(process)
            turn(process, 4 * steps)  # warm
        times = np.array([[turn(process, steps) for process in processes] for _ in range(rounds)]) / steps
    finally:
        for process in processes:
            process.kill()
            process.wait()
    ours, theirs = np.median(times, 0)
    low, high = np.quantile(times[:, 1] / times[:, 0], (0.25, 0.75))
    print(
        f"{name}: {1e3 * ours:.0f} ms a step against {1e3 * theirs:.0f} ms, ratio {theirs / ours:.3f} (quarters of the "
        f"rounds {low:.3f} to {high:.3f}); fastest {1e3 * times[:, 0].min():.0f} against {1e3 * times[:, 1].min():.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the other version's src folder")
    parser.add_argument("--only", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    sources = (Path(__file__).resolve().parents[1] / "src", arguments.other.resolve())
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as temporary:
            compare(name, sources, Path(temporary), arguments.rounds)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
