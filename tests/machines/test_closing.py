from __future__ import annotations

from itertools import product

import pytest

from wsconnkit.machines.closing import TRANSITIONS, Action, Closing, Input, State

OPEN, CLOSE_SENT, CLOSE_EXCHANGED, FAILING, CLOSED = (
    State.OPEN,
    State.CLOSE_SENT,
    State.CLOSE_EXCHANGED,
    State.FAILING,
    State.CLOSED,
)
LOCAL_CLOSE, PEER_CLOSE, FAIL, GIVE_UP, EOF, TIMEOUT = (
    Input.LOCAL_CLOSE,
    Input.PEER_CLOSE,
    Input.FAIL,
    Input.GIVE_UP,
    Input.EOF,
    Input.TIMEOUT,
)
SEND_CLOSE, START_TIMER, SEND_EOF, SERVER_SENDS_EOF, END = (
    Action.SEND_CLOSE,
    Action.START_TIMER,
    Action.SEND_EOF,
    Action.SERVER_SENDS_EOF,
    Action.END,
)

# Written from RFC 6455, section 7, and kept apart from TRANSITIONS on purpose.
EXPECTED: dict[tuple[State, Input], tuple[State, list[Action]]] = {
    (OPEN, LOCAL_CLOSE): (CLOSE_SENT, [SEND_CLOSE, START_TIMER]),
    (OPEN, PEER_CLOSE): (CLOSE_EXCHANGED, [SEND_CLOSE, START_TIMER, SERVER_SENDS_EOF]),
    (OPEN, FAIL): (FAILING, [SEND_CLOSE, START_TIMER, SEND_EOF]),
    (OPEN, GIVE_UP): (CLOSED, [SEND_CLOSE, END]),
    (OPEN, EOF): (CLOSED, [END]),
    (OPEN, TIMEOUT): (OPEN, []),
    (CLOSE_SENT, LOCAL_CLOSE): (CLOSE_SENT, []),
    (CLOSE_SENT, PEER_CLOSE): (CLOSE_EXCHANGED, [SERVER_SENDS_EOF]),
    (CLOSE_SENT, FAIL): (FAILING, [SEND_EOF]),
    (CLOSE_SENT, GIVE_UP): (CLOSED, [END]),
    (CLOSE_SENT, EOF): (CLOSED, [END]),
    (CLOSE_SENT, TIMEOUT): (CLOSED, [END]),
    (CLOSE_EXCHANGED, LOCAL_CLOSE): (CLOSE_EXCHANGED, []),
    (CLOSE_EXCHANGED, PEER_CLOSE): (CLOSE_EXCHANGED, []),
    (CLOSE_EXCHANGED, FAIL): (CLOSE_EXCHANGED, []),
    (CLOSE_EXCHANGED, GIVE_UP): (CLOSED, [END]),
    (CLOSE_EXCHANGED, EOF): (CLOSED, [END]),
    (CLOSE_EXCHANGED, TIMEOUT): (CLOSED, [END]),
    (FAILING, LOCAL_CLOSE): (FAILING, []),
    (FAILING, PEER_CLOSE): (FAILING, []),
    (FAILING, FAIL): (FAILING, []),
    (FAILING, GIVE_UP): (CLOSED, [END]),
    (FAILING, EOF): (CLOSED, [END]),
    (FAILING, TIMEOUT): (CLOSED, [END]),
    (CLOSED, LOCAL_CLOSE): (CLOSED, []),
    (CLOSED, PEER_CLOSE): (CLOSED, []),
    (CLOSED, FAIL): (CLOSED, []),
    (CLOSED, GIVE_UP): (CLOSED, []),
    (CLOSED, EOF): (CLOSED, []),
    (CLOSED, TIMEOUT): (CLOSED, []),
}

WAY_TO: dict[State, tuple[Input, ...]] = {
    OPEN: (),
    CLOSE_SENT: (LOCAL_CLOSE,),
    CLOSE_EXCHANGED: (PEER_CLOSE,),
    FAILING: (FAIL,),
    CLOSED: (EOF,),
}


def closing_in(state: State) -> Closing:
    closing = Closing()
    for event in WAY_TO[state]:
        closing.on(event)
    assert closing.state is state
    return closing


def every_path() -> set[tuple[State, tuple[Action, ...]]]:
    """Return each state with each history of actions that some path to it gives, over paths of any length.

    It ends because a path that repeats an action fails at once, so histories are short.
    """
    seen: set[tuple[State, tuple[Action, ...]]] = set()
    to_visit: list[tuple[State, tuple[Action, ...]]] = [(Closing().state, ())]
    while to_visit:
        state, history = to_visit.pop()
        if (state, history) in seen:
            continue
        assert len(set(history)) == len(history), f"an action is repeated on the way to {state}: {history}"
        seen.add((state, history))
        for event in Input:
            closing = Closing()
            closing.state = state
            actions = closing.on(event)
            to_visit.append((closing.state, history + actions))
    return seen


def test_a_new_connection_is_open() -> None:
    assert Closing().state is OPEN


def test_the_expected_table_has_every_state_and_input() -> None:
    assert set(EXPECTED) == set(product(State, Input))


def test_the_table_has_every_state_and_input() -> None:
    assert set(TRANSITIONS) == set(product(State, Input))


@pytest.mark.parametrize(("state", "event"), EXPECTED, ids=lambda value: value.name)
def test_each_input_in_each_state_does_what_is_expected(state: State, event: Input) -> None:
    closing = closing_in(state)
    actions = closing.on(event)
    assert (closing.state, list(actions)) == EXPECTED[state, event]


def test_paths_lead_to_every_state() -> None:
    assert {state for state, _ in every_path()} == set(State)


def test_no_path_repeats_an_action() -> None:
    # One Close frame, one timer and one end, whatever both sides do and however often.
    for _, history in every_path():
        assert max((history.count(action) for action in Action), default=0) <= 1


def test_a_path_is_closed_exactly_when_it_has_ended_and_nothing_follows() -> None:
    for state, history in every_path():
        assert (state is CLOSED) == (END in history)
        assert END not in history[:-1]


def test_every_path_through_a_closing_state_has_sent_close_and_started_the_timer() -> None:
    for state, history in every_path():
        if state in {CLOSE_SENT, CLOSE_EXCHANGED, FAILING}:
            assert history[:2] == (SEND_CLOSE, START_TIMER)


@pytest.mark.parametrize("state", [state for state in State if state is not CLOSED])
@pytest.mark.parametrize("event", [EOF, GIVE_UP])
def test_the_end_of_the_transport_or_of_our_patience_ends_every_state(state: State, event: Input) -> None:
    closing = closing_in(state)
    assert closing.on(event)[-1] is END
    assert closing.state is CLOSED


@pytest.mark.parametrize("state", [CLOSE_SENT, CLOSE_EXCHANGED, FAILING])
def test_the_timeout_ends_every_state_that_the_timer_bounds(state: State) -> None:
    closing = closing_in(state)
    assert closing.on(TIMEOUT) == (END,)
    assert closing.state is CLOSED


def test_a_timeout_without_a_timer_changes_nothing() -> None:
    closing = Closing()
    assert closing.on(TIMEOUT) == ()
    assert closing.state is OPEN


@pytest.mark.parametrize("event", Input)
def test_closed_absorbs_every_input(event: Input) -> None:
    closing = closing_in(CLOSED)
    assert closing.on(event) == ()
    assert closing.state is CLOSED


def test_the_timer_starts_exactly_when_open_is_left_without_an_end() -> None:
    for (source, _), (target, actions) in TRANSITIONS.items():
        assert (START_TIMER in actions) == (source is OPEN and target not in {OPEN, CLOSED})


def test_close_is_sent_only_on_the_way_out_of_open() -> None:
    # RFC 6455, section 5.5.1: after a Close frame nothing more may be sent.
    for (source, _), (target, actions) in TRANSITIONS.items():
        if SEND_CLOSE in actions:
            assert source is OPEN
            assert target is not OPEN


def test_no_input_leads_back() -> None:
    progress = {OPEN: 0, CLOSE_SENT: 1, CLOSE_EXCHANGED: 2, FAILING: 2, CLOSED: 3}
    for (source, _), (target, _) in TRANSITIONS.items():
        assert target is source or progress[target] > progress[source]


def test_both_sides_closing_at_once_exchange_one_close_each() -> None:
    closing = Closing()
    assert closing.on(LOCAL_CLOSE) == (SEND_CLOSE, START_TIMER)
    assert closing.on(PEER_CLOSE) == (SERVER_SENDS_EOF,)
    assert closing.on(LOCAL_CLOSE) == ()
    assert closing.on(EOF) == (END,)
    assert closing.on(EOF) == ()


def test_each_machine_has_a_state_of_its_own() -> None:
    one, other = Closing(), Closing()
    one.on(EOF)
    assert other.state is OPEN
