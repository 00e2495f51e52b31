"""A judge in place of drawing and scoring: its score is made of the bytes of the weights."""

import json
import sys
from pathlib import Path

from tessera.train.config import JudgeOptions

SCRIPT = """
import hashlib, json, os, signal, sys, time
from pathlib import Path
place, calls, waits, fails = Path(sys.argv[4]), Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
with open(calls, "a") as file:
    print(place.name, "RANK" in os.environ, file=file)
what = fails.get(place.name, "")
while what == "hang" or (what == "later" and not waits.exists()):
    time.sleep(0.01)
if what == "raise":
    sys.exit("error: no memory for this")
if what == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if what != "nothing":
    digest = hashlib.sha256((place / "export" / "model.safetensors").read_bytes()).hexdigest()
    text = "{" if what == "garbage" else json.dumps({"scores": {"fid": {"value": int(digest[:8], 16)}}})
    (place / "new.json").write_text(text)
    os.replace(place / "new.json", place / "values.json")
"""


def stub_judge(folder: Path, every: int = 40, wait: bool = False, **fails: str) -> JudgeOptions:
    """A judge that notes its calls in `folder`/calls. fails: image _000000000040 -> "raise", "kill", "nothing",
    "garbage", "hang", or "later", for one that waits for the file `folder`/later."""
    folder.mkdir(exist_ok=True)
    script = folder / "judge.py"
    script.write_text(SCRIPT)
    names = json.dumps({name.strip("_"): what for name, what in fails.items()})
    command = (sys.executable, "-S", str(script), str(folder / "calls"), str(folder / "later"), names)
    return JudgeOptions(evaluate_every_images=every, command=command, described={"seed": 1}, wait=wait)


def calls_of(folder: Path) -> list[str]:
    """The images of the calls, in order; with " True" after those that believe to be a rank."""
    lines = (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []
    return [line.removesuffix(" False") for line in lines]
