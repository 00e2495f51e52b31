"""A captioner's server on loopback that fails, stalls and babbles."""

import base64
import hashlib
import io
import time
from collections import Counter
from typing import Any

import numpy as np
from PIL import Image

from tiny.chat_server import ChatServer, completion

JUNK = [b"<html>no</html>", {}, {"choices": []}, {"choices": [{"message": {}}]}]


def digest(pixels: Any) -> str:
    """A short hash of an image."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()[:12]


class CaptionServer(ChatServer):
    """Tells each image's hash, after it has failed at some of its first tries.

    instead: the reply for images with these hashes.
    asked: hashes in order; answered: how often each was; prompts, images: the prompt and number of images of each.
    """

    def __init__(
        self,
        fail: float = 0.0,
        stall: float = 0.0,
        junk: float = 0.0,
        down_after: int | None = None,
        more: str = "",
        instead: dict[str, Any] | None = None,
    ):
        self.asked: list[str] = []
        self.answered: Counter[str] = Counter()
        self.prompts: dict[str, str] = {}
        self.images: dict[str, int] = {}
        self.rates, self.down_after, self.more = (fail, fail + stall, fail + stall + junk), down_after, more
        self.instead = instead or {}
        self.draw = np.random.default_rng(0)
        super().__init__(self.reply)

    def reply(self, body, number):
        assert body["model"] == "stub"
        assert (body["temperature"], body["max_tokens"]) in ((0, 200), (0.7, 200))
        *shown, text = body["messages"][0]["content"]
        decoded = [base64.b64decode(part["image_url"]["url"].split(",")[1]) for part in shown]
        name = digest(np.asarray(Image.open(io.BytesIO(decoded[0]))))
        with self.lock:
            self.asked.append(name)
            self.prompts[name], self.images[name] = text["text"], len(decoded)
            luck = self.draw.random()
            down = self.down_after is not None and len(self.answered) >= self.down_after
        if name in self.instead:
            return self.instead[name]
        fail, stall, junk = self.rates
        if down or luck < fail:
            return 503, {"error": {"message": "overloaded"}}
        if luck < stall:
            time.sleep(1.5)
            return None
        if luck < junk:
            return 200, JUNK[int(luck * 1000) % 4]
        time.sleep(0.02)
        with self.lock:
            self.answered[name] += 1
        return 200, completion(f'  told "{name}",\n\tassistant <b>{self.more}\n')
