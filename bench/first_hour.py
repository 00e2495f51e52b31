"""The first hour on a machine with a GPU: what runs there in another way than on a CPU, and a report to send.

    python bench/first_hour.py FOLDER [--toy]    (runs/first_hour.sh installs what it needs before)

Steps, each a process of its own that has 8 minutes; one that fails does not end the others:
  doctor      what this machine has
  tests       tests/test_accelerators.py, where a warning fails nothing
  data        random images, captions and encoded records of full size, for the other steps
  train_step  images/s of both networks' training and its share of the GPU's peak (bench/train_step.py)
  recompiles  50 steps of each network by `tessera train`: programs compiled anew, and graphs that broke
  captions    256 captions by LLaVA
  encode      2048 records by the VAE and T5-XL, in fp32 and in bf16
  stop        a training on all GPUs by torchrun, stopped by Ctrl-C once it has logged
  resume      the same to its end
FOLDER gets first_hour.json, the same on a page in first_hour.txt, and each step's output.
--toy: tiny random networks, on any machine, in less than a minute; steps that need no process of their own have none,
and there is one rank.
"""

import argparse
import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SECONDS = 480
"""Time of a step."""
STEPS_TRAINED = 50
TAIL = 5
"""Last lines of a failed step's output that the page shows."""
TESTS = str(ROOT / "tests")


def cad():
    """Return CAD-I L's training, of few steps that are logged soon."""
    from tessera.presets.imagenet import cad_i_l

    return _short(cad_i_l())


def dit():
    """Return DiT-I L/2's training, of few steps that are logged soon."""
    from tessera.presets.imagenet import dit_i_l2

    return _short(dit_i_l2())


def _short(config: Any) -> Any:
    batch = config.batch_size
    each = {"log_every_images": 5 * batch, "sample_every_images": None, "validation_records": 256}
    return replace(config, num_images=STEPS_TRAINED * batch, augment_prob=0.0, **each)


def toy_cad():
    """Return the training of a tiny CAD-I."""
    sys.path.insert(0, TESTS)
    from tiny.training_sets import RIN  # pyright: ignore[reportMissingImports]

    return replace(toy_dit(), model=RIN)


def toy_dit():
    """Return the training of a tiny DiT-I."""
    sys.path.insert(0, TESTS)
    from tiny.training_sets import config_of  # pyright: ignore[reportMissingImports]

    return config_of(num_images=8 * STEPS_TRAINED, log_every_images=80, augment_prob=0.0, validation_records=8)


class Hour:
    """Parts of the steps that are Python; each returns its numbers."""

    def __init__(self, folder: Path, toy: bool) -> None:
        self.folder, self.toy = folder, toy
        self.captioned, self.encoded = (4, 16) if toy else (256, 2048)
        """Numbers of images."""
        self.networks = ("toy_cad", "toy_dit") if toy else ("cad", "dit")

    def _models(self) -> dict[str, str]:
        """Return the names of captioner, VAE and text encoder; toys are made."""
        if not self.toy:
            from tessera.curate.caption.model import LLAVA
            from tessera.presets.imagenet import TEXT, VAE

            return {"llava": LLAVA, "vae": VAE, "text": TEXT}
        sys.path.insert(0, TESTS)
        from tiny.models import save_llava_next, save_t5, save_vae  # pyright: ignore[reportMissingImports]

        made = {"llava": save_llava_next, "vae": save_vae, "text": save_t5}
        for name, save in made.items():
            if not (self.folder / name).exists():
                save(self.folder / name)
        return {name: str(self.folder / name) for name in made}

    def data(self) -> dict[str, Any]:
        """Make folder/images with folder/captions, of 15 to 250 words, and the encoded set folder/set."""
        import numpy as np
        from loader import make_set
        from throughput import make_images

        from tessera.curate.caption.caption import CaptionConfig, caption

        self._models()
        make_images(self.folder, self.encoded)
        rng = np.random.default_rng(0)
        words = ["a", "an", "of", "image", "red", "cat", "dog", "left"]
        with (self.folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(("key", "text"))
            for number in range(self.encoded):
                rows.writerow((f"a/{number}", " ".join(rng.choice(words, int(rng.integers(15, 250))))))
        config = CaptionConfig(captioner="import", file=str(self.folder / "captions.csv"))
        caption(self.folder / "captions", self.folder / "images", config)
        if self.toy:
            make_set(self.folder / "set", self.encoded, 0, False, tokens=12, width=16, shape=(4, 4, 4), fewest=1)
        else:
            make_set(self.folder / "set", self.encoded, 0, False, tokens=300, fewest=20)
        return {"images": self.encoded}

    def train_step(self) -> dict[str, Any]:
        import torch
        from train_step import on_gpu

        from tessera.devices import peak_tflops
        from tessera.encoded.store import open_encoded

        store = open_encoded(self.folder / "set")
        if self.toy:
            networks = {name: globals()[name] for name in self.networks}
            return {"rows": on_gpu(store, [8], 1.0, 2, networks, "cpu")}
        return {"rows": on_gpu(store, [64, 128], peak_tflops(torch.cuda.get_device_name()) or 989.0)}

    def train(self, network: str, out: str, *more: str) -> list[str]:
        """Return the words of `tessera train` after the program."""
        run = ["--plain", str(self.folder / "set"), "--out", str(self.folder / out), *more]
        return ["train", f"{Path(__file__)}:{network}", *run]

    def recompiles(self) -> dict[str, Any]:
        """Count in what torch logs."""
        found = {}
        for network in self.networks[-1:] if self.toy else self.networks:
            command = [sys.executable, "-m", "tessera.cli", *self.train(network, f"recompiles-{network}")]
            environment = os.environ | {"TORCH_LOGS": "recompiles,graph_breaks"}
            done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
            print(done.stderr, file=sys.stderr)
            done.check_returncode()
            found[network] = compilations(done.stderr)
        return found

    def captions(self) -> dict[str, Any]:
        import numpy as np
        from PIL import Image

        from tessera.pretrained.captioner.llava import Llava
        from tessera.pretrained.captioner.prompt import make_question

        llava = Llava(self._models()["llava"])
        paths = sorted((self.folder / "images").rglob("*.png"))[: self.captioned]
        questions = [make_question(np.asarray(Image.open(path)), None, llava.side) for path in paths]
        limit = {"max_new_tokens": 8} if self.toy else {}
        llava.describe(questions[: llava.batch], **limit)  # loads and compiles
        began = time.perf_counter()
        answers = llava.describe(questions, **limit)
        seconds = time.perf_counter() - began
        cut = sum(at_limit for _, at_limit in answers)
        return {"captions_per_second": len(paths) / seconds, "batch": llava.batch, "cut_at_limit": cut}

    def encode(self) -> dict[str, Any]:
        """Encode in both precisions; the rate is that after the first of four shards."""
        from tessera.curate.encode import EncodeConfig, encode

        models, found = self._models(), {}
        for compute in ("fp32", "bf16"):
            config = EncodeConfig(
                latents=models["vae"], text=models["text"], compute=compute, shard_size=self.encoded // 4
            )
            out = self.folder / f"encoded-{compute}"
            encode(out, self.folder / "images", self.folder / "captions", config)
            times = sorted(path.stat().st_mtime for path in out.glob("*.arrow"))
            found[compute] = {"records_per_second": 0.75 * self.encoded / (times[-1] - times[0])}
        return found

    def _on_all_gpus(self, *more: str) -> list[str]:
        processes = ["--nproc-per-node", "1" if self.toy else "gpu"]
        if self.toy:  # which are not to end before they are stopped
            more = ("--device", "cpu", "--num-images", "2400", *more)
        words = self.train(self.networks[0], "run", *more)
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", *processes, "-m", "tessera.cli", *words]

    def stop(self) -> dict[str, Any]:
        """Return how long it took to end after Ctrl-C, and its last checkpoint; RuntimeError if it has none."""
        process = subprocess.Popen(self._on_all_gpus())
        log = self.folder / "run" / "log.jsonl"
        while process.poll() is None and not (log.is_file() and log.stat().st_size):
            time.sleep(0.05)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        code, seconds = process.wait(), time.monotonic() - began
        checkpoints = sorted(path.name for path in (self.folder / "run" / "checkpoints").glob("*"))
        if code == 0 or not checkpoints:
            raise RuntimeError(
                f"exit code {code} and checkpoints {checkpoints}: not stopped in its middle, or not saved"
            )
        return {"seconds_to_stop": seconds, "images": int(checkpoints[-1])}

    def resume(self) -> dict[str, Any]:
        subprocess.run(self._on_all_gpus("--resume"), check=True)
        lines = (self.folder / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
        return {"last_line": json.loads(lines[-1])}


def compilations(log: str) -> dict[str, int]:
    """Count what torch logs with TORCH_LOGS=recompiles,graph_breaks."""
    return {"recompiles": log.count("Recompiling function"), "graph_breaks": log.count("Graph break")}


STEPS: tuple[Callable[[Hour], dict[str, Any]], ...]
STEPS = (Hour.data, Hour.train_step, Hour.recompiles, Hour.captions, Hour.encode, Hour.stop, Hour.resume)
TOGETHER = {"data", "train_step", "captions", "encode"}
"""Steps that toys make in one process: most of their time is that of loading libraries."""


def commands(hour: Hour) -> dict[str, list[str]]:
    """Return the command of each step."""
    toy = ["--toy"] if hour.toy else []
    tests = [sys.executable, "-m", "pytest", TESTS + "/test_accelerators.py", "-W", "default", "-p", "no:cacheprovider"]
    own = {s.__name__: [sys.executable, __file__, str(hour.folder), *toy, "--step", s.__name__] for s in STEPS}
    doctor = {"doctor": [sys.executable, "-m", "tessera.cli", "doctor", str(hour.folder), "--json"]}
    return doctor | {"tests": tests + (["-k", "not_finite and lamb"] if hour.toy else [])} | own


def run(name: str, command: list[str], folder: Path, seconds: float) -> dict[str, Any]:
    """Run a step, its output to folder/NAME.log; return its result, with the numbers of its last line where it is
    JSON."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    began, timed_out = time.monotonic(), False
    path = folder / f"{name}.log"
    with path.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            timed_out = True
            os.killpg(process.pid, signal.SIGTERM)  # torchrun ends its own processes then
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    lines = path.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()
    numbers = json.loads(lines.pop()) if lines and lines[-1].startswith("{") else {}
    return {
        "name": name,
        "command": shlex.join(command),
        "ok": process.returncode == 0 and not timed_out,
        "timed_out": timed_out,
        "seconds": round(time.monotonic() - began, 1),
        "numbers": numbers,
        "output": lines[-40:],
    }


def run_here(name: str, hour: Hour) -> dict[str, Any]:
    """Make a toy's step in this process; return its result as `run` does."""
    began = time.monotonic()
    done = {"name": name, "command": "", "ok": True, "timed_out": False, "output": []}
    done["numbers"] = getattr(hour, name)()
    return done | {"seconds": round(time.monotonic() - began, 1)}


def page(steps: list[dict[str, Any]]) -> str:
    """Return the report as text: a line for each step and its numbers, the last lines of those that failed."""
    lines = ["tessera: the first hour on this machine", ""]
    for step in steps:
        state = "ok" if step["ok"] else f"not done in {SECONDS} s" if step["timed_out"] else "FAILED"
        lines.append(f"{step['name']:12} {state:8} {step['seconds']:7.1f} s")
        if step["name"] == "doctor" and step["numbers"]:
            lines += [f"    {f['what']}: {f['found']}" for f in step["numbers"]["findings"]]
        elif step["numbers"]:
            lines += [f"    {line}" for line in _numbers(step["numbers"])]
        shown = TAIL if not step["ok"] else 1 if step["name"] == "tests" else 0
        lines += [f"    | {line[:160]}" for line in step["output"][len(step["output"]) - shown :]]
    return "\n".join(lines) + "\n"


def _numbers(value: Any, path: str = "") -> list[str]:
    """Return a line for each number or list below `value`."""
    if isinstance(value, dict) and any(isinstance(each, dict | list) for each in value.values()):
        return [line for name, each in value.items() for line in _numbers(each, f"{path}{name} ")]
    if isinstance(value, list):
        return [line for each in value for line in _numbers(each, path)]
    said = value.items() if isinstance(value, dict) else [("", value)]
    told = (f"{name} {each:.4g}" if isinstance(each, float) else f"{name} {each}" for name, each in said)
    return [path + ", ".join(told)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--step", choices=[step.__name__ for step in STEPS], help="one step in this process")
    arguments = parser.parse_args()
    hour = Hour(arguments.folder.absolute(), arguments.toy)
    if arguments.step:
        print(json.dumps(getattr(hour, arguments.step)()))
        return
    hour.folder.mkdir(parents=True, exist_ok=False)
    steps = []
    for name, command in commands(hour).items():
        here = hour.toy and name in TOGETHER
        steps.append(run_here(name, hour) if here else run(name, command, hour.folder, SECONDS))
        (hour.folder / "first_hour.json").write_text(json.dumps({"steps": steps}, indent=1), encoding="utf-8")
        (hour.folder / "first_hour.txt").write_text(page(steps), encoding="utf-8")
    print(page(steps))
    sys.exit(0 if all(step["ok"] for step in steps) else 1)


if __name__ == "__main__":
    main()
