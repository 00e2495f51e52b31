"""The demo page in a process of its own, the models that it draws with, and the hands of a visitor."""

import os
import re
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from tessera.models.build import build_network
from tessera.models.dit import DiTConfig
from tessera.stages import open_stage
from tessera.weights.export import ExportInfo, save_export

HOSTILE = [
    "<script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">",
    "a red circle " * 770,  # 10,010 characters
    "\U0001f98a\U0001f9d1\u200d\U0001f680 a fox \U0001f1eb\U0001f1f7 & \"quotes\" 'n' </textarea> {{7*7}} {prompt}",
    "\u202e\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 circle",
]

# Notes every address outside this machine that the process looks up or connects to.
GUARD = """
import socket, sys
noted = open(sys.argv[1], "a", buffering=1)
HERE = ("", None, "127.0.0.1", "localhost", "::1", b"127.0.0.1", b"localhost")
find = socket.getaddrinfo
def getaddrinfo(host, *args, **kwargs):
    if host not in HERE:
        noted.write(f"look up {host}\\n")
    return find(host, *args, **kwargs)
socket.getaddrinfo = getaddrinfo
class Guarded(socket.socket):
    def connect(self, address):
        if isinstance(address, tuple) and address[0] not in HERE:
            noted.write(f"connect {address[0]}\\n")
        return super().connect(address)
socket.socket = Guarded
from tessera.cli import main
main(sys.argv[2:])
"""


def save_model(folder, seed):
    torch.manual_seed(seed)
    network = build_network(
        DiTConfig(latent_channels=48, latent_size=2, width=64, depth=6, heads=2, text_width=8, refiner_depth=1)
    )
    for parameter in network.parameters():  # the output layer starts at zero, and every text would look the same
        torch.nn.init.normal_(parameter, std=0.2)
    info = ExportInfo(
        noise_schedule="linear",
        prediction="x0",
        latent_codec="pixel-unshuffle:4",
        text_encoder="words:8",
        image_size=8,
        guidance_scale=2.0,
        sampling_steps=5,
        null_condition=torch.ones(1, 8),
    )
    stage = open_stage(folder, stage="export", config={"seed": seed})
    save_export(folder, network, info)
    stage.finish(counts={"parameters": network.parameter_count})
    return folder


class Server:
    """The page in its own process."""

    def __init__(self, export, noted, *flags):
        self.noted = Path(noted)
        self.noted.touch()
        arguments = [sys.executable, "-c", GUARD, noted, "demo", export, "--device", "cpu", *flags]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self.log = self.noted.with_suffix(".log")
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [*map(str, arguments)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs ignore Ctrl-C
            )
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            assert selector.select(timeout=180), self.log.read_text()
        line = self.process.stdout.readline()
        found = re.match(r"Demo: (http://127\.0\.0\.1:\d+)", line)
        assert found, line + self.log.read_text()
        self.address = found[1]

    def memory(self):
        """Resident bytes."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def close(self):
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(timeout=30)
        self.process.stdout.close()
        return code


def wait_until(true, seconds=60.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.05)


def fill(page, name, value):
    box = page.locator(f"#{name} textarea, #{name} input").first
    box.fill(str(value))
    box.blur()


# The addresses of the images of a drawing, once gallery and preview both show it: the outputs of an event are not shown
# at the same moment, and until then one of them is still the last drawing's.
_DRAWN = """() => {
  const pixels = image => {
    const pen = new OffscreenCanvas(image.naturalWidth, image.naturalHeight).getContext('2d');
    pen.drawImage(image, 0, 0);
    return pen.getImageData(0, 0, image.naturalWidth, image.naturalHeight).data.join();
  };
  const all = [...document.querySelectorAll('#gallery .grid-container img')];
  const fresh = all.slice(0, all.length - (window.drawnBefore ?? 0)).reverse();  // the newest stands first
  const preview = [...document.querySelectorAll('#preview .preview > figure > div > img')];
  if (!fresh.length || fresh.length !== preview.length) return null;
  if (![...fresh, ...preview].every(image => image.complete && image.naturalWidth)) return null;
  if (!fresh.every((image, n) => pixels(image) === pixels(preview[n]))) return null;
  window.drawnBefore = all.length;
  return preview.map(image => image.src);
}"""


def draw(page, prompt, **numbers):
    """Draws and gives the images of the page as addresses; all drawings of a page by it."""
    fill(page, "prompt", prompt)
    for name, value in numbers.items():
        fill(page, name, value)
    page.click("#draw")
    drawn = page.wait_for_function(_DRAWN).json_value()
    page.wait_for_selector("#status >> text=/Done|the model read/")
    return drawn
