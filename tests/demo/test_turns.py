"""The line of those who wait for one device."""

import threading

import pytest

from tessera.config import UserError
from tessera.demo.turns import Turns


def test_first_come_first_served_and_who_leaves_makes_room():
    turns = Turns(most=2)
    with turns.place() as first:
        second = turns.place()
        third = turns.place()
        places = [second.__enter__(), third.__enter__()]
        assert [place.ahead for place in (first, *places)] == [0, 1, 2]
        with pytest.raises(UserError, match="The queue is full: 2 drawings wait already"), turns.place():
            pass
        second.__exit__(None, None, None)
        assert places[1].ahead == 1
        with turns.place() as last:
            assert last.ahead == 2
        third.__exit__(None, None, None)
    with turns.place() as alone:
        assert alone.ahead == 0


def test_waiting_ends_when_the_one_before_leaves():
    turns = Turns(most=1)
    first = turns.place()
    first.__enter__()
    with turns.place() as place:
        assert place.wait(0.01) == 1
        timer = threading.Timer(0.05, first.__exit__, (None, None, None))
        timer.start()
        assert place.wait(60) == 0
        timer.join()
