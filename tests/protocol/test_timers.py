from __future__ import annotations

from wsconnkit.machines.deadlines import READ_GRACE
from wsconnkit.protocol.timers import Timer, Timers


def timers(idle_timeout: float | None = None, max_unread_age: float | None = None, now: float = 0.0) -> Timers:
    return Timers(idle_timeout=idle_timeout, max_unread_age=max_unread_age, close_timeout=5.0, now=now)


def fired(timers: Timers, at: float) -> list[Timer]:
    """What is due at `at` and still is when the transport has been read."""
    assert timers.handle_timeout(at) == []
    return timers.handle_timeout(at + READ_GRACE)


def test_without_an_idle_timeout_nothing_wakes_an_open_connection() -> None:
    silent = timers()
    assert not silent.watches_idle
    silent.reading_paused(0.5)
    silent.reading_resumed(1.0)
    silent.stop_watching()
    assert (silent.watches_idle, silent.next()) == (False, None)
    assert silent.handle_timeout(1000.0) == []


def test_idleness_counts_from_the_last_message() -> None:
    idle = timers(10.0, now=1.0)
    assert (idle.watches_idle, idle.next()) == (True, (Timer.IDLE, 11.0))
    idle.restart_idle(4.0)
    assert idle.next() == (Timer.IDLE, 14.0)
    assert fired(idle, 14.0) == [Timer.IDLE]


def test_idleness_is_not_watched_in_a_pause_and_counts_anew_after_it() -> None:
    idle = timers(10.0)
    idle.reading_paused(1.0)
    assert (idle.watches_idle, idle.next()) == (False, None)
    idle.reading_resumed(7.0)
    assert (idle.watches_idle, idle.next()) == (True, (Timer.IDLE, 17.0))


def test_a_connection_that_ends_is_not_idle_any_more() -> None:
    idle = timers(10.0)
    idle.stop_watching()
    idle.reading_resumed(1.0)
    assert (idle.watches_idle, idle.next()) == (False, None)


def test_there_is_a_warning_at_a_tenth_of_the_time_for_which_an_application_may_take_nothing() -> None:
    unread = timers(max_unread_age=300.0)
    unread.reading_paused(10.0)
    assert unread.next() == (Timer.UNREAD_WARNING, 40.0)
    assert fired(unread, 40.0) == [Timer.UNREAD_WARNING]
    assert unread.unread_for(40.0) == 30.0
    assert unread.next() == (Timer.UNREAD, 310.0)
    assert fired(unread, 310.0) == [Timer.UNREAD]
    assert unread.next() is None


def test_an_application_that_takes_something_has_all_the_time_again() -> None:
    unread = timers(max_unread_age=300.0)
    unread.reading_paused(10.0)
    assert fired(unread, 40.0) == [Timer.UNREAD_WARNING]
    unread.restart_unread(100.0)
    assert unread.next() == (Timer.UNREAD_WARNING, 130.0)
    assert fired(unread, 130.0) == [Timer.UNREAD_WARNING]
    assert unread.unread_for(130.0) == 30.0
    assert unread.next() == (Timer.UNREAD, 400.0)


def test_nothing_is_unread_when_reading_resumes_or_the_connection_ends() -> None:
    unread = timers(max_unread_age=300.0)
    unread.reading_paused(10.0)
    unread.reading_resumed(20.0)
    assert unread.next() is None
    unread.reading_paused(30.0)
    unread.stop_watching()
    assert unread.next() is None
    unread.reading_paused(40.0)
    assert unread.next() is None


def test_the_closing_has_its_time() -> None:
    closing = timers()
    closing.start_closing(2.0)
    assert closing.next() == (Timer.CLOSE, 7.0)
    assert fired(closing, 7.0) == [Timer.CLOSE]
    assert closing.next() is None


def test_the_verdict_on_what_is_unsent_can_be_moved_and_taken_back() -> None:
    unsent = timers()
    unsent.set_unsent(3.0)
    unsent.set_unsent(4.0)
    assert unsent.next() == (Timer.UNSENT, 4.0)
    unsent.set_unsent(None)
    unsent.set_unsent(None)
    assert unsent.next() is None


def test_the_same_time_again_does_not_put_off_the_verdict() -> None:
    unsent = timers()
    unsent.set_unsent(3.0)
    assert unsent.handle_timeout(3.0) == []
    unsent.set_unsent(3.0)
    assert unsent.handle_timeout(3.0 + READ_GRACE) == [Timer.UNSENT]


def test_a_verdict_that_was_told_can_be_set_for_the_same_time() -> None:
    unsent = timers()
    unsent.set_unsent(3.0)
    assert fired(unsent, 3.0) == [Timer.UNSENT]
    unsent.set_unsent(3.0)
    assert unsent.next() == (Timer.UNSENT, 3.0)


def test_the_next_timer_is_the_earliest() -> None:
    all_of_them = timers(10.0)
    all_of_them.set_unsent(8.0)
    all_of_them.start_closing(1.0)
    assert all_of_them.next() == (Timer.CLOSE, 6.0)
    assert fired(all_of_them, 9.0) == [Timer.CLOSE, Timer.UNSENT]
    assert all_of_them.next() == (Timer.IDLE, 10.0)
