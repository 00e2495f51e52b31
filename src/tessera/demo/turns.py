"""Turns of drawings: one at a time, first come first served, in a line of bounded length."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tessera.config import UserError


class Turns:
    """The line in front of one device."""

    def __init__(self, most: int):
        """Let `most` wait behind the one whose turn it is."""
        self.most = most
        self.line: list[Place] = []
        self.changed = threading.Condition()

    @contextmanager
    def place(self) -> Iterator["Place"]:
        """Take a place at the end of the line, given up at the end of the block. Raises UserError: the line is full."""
        place = Place(self)
        with self.changed:
            if len(self.line) > self.most:
                raise UserError(f"The queue is full: {self.most} drawings wait already. Try again in a minute.")
            self.line.append(place)
        try:
            yield place
        finally:
            with self.changed:
                self.line.remove(place)
                self.changed.notify_all()


class Place:
    """A place in the line."""

    def __init__(self, turns: Turns):
        self._turns = turns

    @property
    def ahead(self) -> int:
        """The number of places before this one; 0 = it is its turn."""
        return self._turns.line.index(self)

    def wait(self, seconds: float) -> int:
        """Return `ahead`, once that has become less, or after so many seconds."""
        with self._turns.changed:
            before = self.ahead
            self._turns.changed.wait_for(lambda: self.ahead < before, seconds if before else 0)
            return self.ahead
