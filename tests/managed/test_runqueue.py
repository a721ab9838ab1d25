from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest

from wsconnkit.managed.runqueue import FRAME_COST, RunQueue


class Passes:
    """An event loop of which one pass after the other is made by hand."""

    def __init__(self) -> None:
        self.soon: deque[Callable[[], None]] = deque()

    def __call__(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def make(self) -> None:
        for _ in range(len(self.soon)):
            self.soon.popleft()()


class Flooder:
    """Has so many frames left, and takes as many as a budget allows."""

    def __init__(self, queue: RunQueue, frames: int) -> None:
        self.queue = queue
        self.frames = frames
        queue.add(self.turn)

    def turn(self, budget: int) -> int:
        while self.frames and budget > 0:
            self.frames -= 1
            budget -= FRAME_COST
        if self.frames:
            self.queue.add(self.turn)
        return budget


def test_whoever_is_alone_does_as_much_in_a_pass_as_without_a_turn() -> None:
    queue = RunQueue(passes := Passes())
    alone_at_once = queue.budget // FRAME_COST
    flooder = Flooder(queue, 1000)
    passes.make()
    assert flooder.frames == 1000 - alone_at_once


@pytest.mark.parametrize("flooders", [10, 40])
def test_what_is_done_in_a_pass_does_not_depend_on_how_many_wait(flooders: int) -> None:
    queue = RunQueue(passes := Passes())
    crowd = [Flooder(queue, 1000) for _ in range(flooders)]
    left = sum(flooder.frames for flooder in crowd)
    for _ in range(50):
        before, left = left, left - 8
        passes.make()
        assert sum(flooder.frames for flooder in crowd) == left == before - 8


def test_all_have_their_turn_in_order() -> None:
    queue = RunQueue(passes := Passes())
    crowd = [Flooder(queue, 1000) for _ in range(5)]
    for _ in range(10):
        passes.make()
    assert [flooder.frames for flooder in crowd] == [1000 - 2 * 8] * 5


def test_those_who_need_little_share_a_pass() -> None:
    queue = RunQueue(passes := Passes())
    crowd = [Flooder(queue, 2) for _ in range(6)]
    passes.make()
    assert [flooder.frames for flooder in crowd] == [0, 0, 0, 0, 2, 2]
    passes.make()
    assert [flooder.frames for flooder in crowd] == [0] * 6
    assert not passes.soon  # nobody waits, nothing is called


def test_less_is_done_without_a_turn_while_others_wait() -> None:
    queue = RunQueue(passes := Passes())
    before = queue.budget
    Flooder(queue, 1)
    assert queue.budget < before
    passes.make()
    assert queue.budget == before


def test_a_turn_that_raises_takes_nobody_elses() -> None:
    queue = RunQueue(passes := Passes())

    def broken(budget: int) -> int:
        raise ZeroDivisionError

    queue.add(broken)
    flooder = Flooder(queue, 1)
    with pytest.raises(ZeroDivisionError):
        passes.make()
    passes.make()
    assert flooder.frames == 0
