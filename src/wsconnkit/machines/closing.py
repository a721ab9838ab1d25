"""The closing handshake as a table of every state and every input (RFC 6455, section 7).

Alone::

    from wsconnkit.machines.closing import Action, Closing, Input, State

    closing = Closing()
    closing.on(Input.LOCAL_CLOSE)         # (Action.SEND_CLOSE, Action.START_TIMER)
    closing.on(Input.PEER_CLOSE)          # (Action.SERVER_SENDS_EOF,)
    closing.on(Input.EOF)                 # (Action.END,)
    closing.state                         # State.CLOSED

`TRANSITIONS` is the one home of these rules; `scripts/closing_diagram.py` draws the documentation from it.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class State(Enum):
    """Where a connection stands between its opening handshake and its end."""

    OPEN = "open"
    """Messages flow both ways."""
    CLOSE_SENT = "close_sent"
    """We sent Close and wait for the peer's; what it still sends as messages is discarded."""
    CLOSE_EXCHANGED = "close_exchanged"
    """Both Close frames have passed; only the transport is left to end."""
    FAILING = "failing"
    """We gave up on what the peer sends (RFC 6455, section 7.1.7) and wait for the transport to end."""
    CLOSED = "closed"
    """Nothing follows."""


class Input(Enum):
    """What can happen to a connection that bears on its closing."""

    LOCAL_CLOSE = "local close"
    """The application closes."""
    PEER_CLOSE = "peer close"
    """A Close frame arrived."""
    FAIL = "fail"
    """The peer broke the protocol or a limit: what it sends can no longer be read."""
    GIVE_UP = "give up"
    """The peer is taken for dead: waiting for it is pointless."""
    EOF = "eof"
    """The transport ended, in order or not."""
    TIMEOUT = "timeout"
    """The close timeout is over."""


class Action(Enum):
    """What the owner of the machine must do, in the order given."""

    SEND_CLOSE = "send Close"
    START_TIMER = "start timer"
    SEND_EOF = "send EOF"
    SERVER_SENDS_EOF = "server sends EOF"
    """The server ends the transport first; a client waits for that (RFC 6455, section 7.1.1)."""
    END = "end"
    """Release the transport and tell the application, once."""


class Transition(NamedTuple):
    """The state after an input, and the actions on the way."""

    state: State
    actions: tuple[Action, ...] = ()


TRANSITIONS: dict[tuple[State, Input], Transition] = {
    (State.OPEN, Input.LOCAL_CLOSE): Transition(State.CLOSE_SENT, (Action.SEND_CLOSE, Action.START_TIMER)),
    (State.OPEN, Input.PEER_CLOSE): Transition(
        State.CLOSE_EXCHANGED, (Action.SEND_CLOSE, Action.START_TIMER, Action.SERVER_SENDS_EOF)
    ),
    (State.OPEN, Input.FAIL): Transition(State.FAILING, (Action.SEND_CLOSE, Action.START_TIMER, Action.SEND_EOF)),
    (State.OPEN, Input.GIVE_UP): Transition(State.CLOSED, (Action.SEND_CLOSE, Action.END)),
    (State.OPEN, Input.EOF): Transition(State.CLOSED, (Action.END,)),
    (State.OPEN, Input.TIMEOUT): Transition(State.OPEN),
    # One timer bounds the whole closing, so it is started once.
    (State.CLOSE_SENT, Input.LOCAL_CLOSE): Transition(State.CLOSE_SENT),
    (State.CLOSE_SENT, Input.PEER_CLOSE): Transition(State.CLOSE_EXCHANGED, (Action.SERVER_SENDS_EOF,)),
    (State.CLOSE_SENT, Input.FAIL): Transition(State.FAILING, (Action.SEND_EOF,)),
    (State.CLOSE_SENT, Input.GIVE_UP): Transition(State.CLOSED, (Action.END,)),
    (State.CLOSE_SENT, Input.EOF): Transition(State.CLOSED, (Action.END,)),
    (State.CLOSE_SENT, Input.TIMEOUT): Transition(State.CLOSED, (Action.END,)),
    # After a Close frame the peer must send nothing more (RFC 6455, section 5.5.1); what it sends is discarded.
    (State.CLOSE_EXCHANGED, Input.LOCAL_CLOSE): Transition(State.CLOSE_EXCHANGED),
    (State.CLOSE_EXCHANGED, Input.PEER_CLOSE): Transition(State.CLOSE_EXCHANGED),
    (State.CLOSE_EXCHANGED, Input.FAIL): Transition(State.CLOSE_EXCHANGED),
    (State.CLOSE_EXCHANGED, Input.GIVE_UP): Transition(State.CLOSED, (Action.END,)),
    (State.CLOSE_EXCHANGED, Input.EOF): Transition(State.CLOSED, (Action.END,)),
    (State.CLOSE_EXCHANGED, Input.TIMEOUT): Transition(State.CLOSED, (Action.END,)),
    (State.FAILING, Input.LOCAL_CLOSE): Transition(State.FAILING),
    (State.FAILING, Input.PEER_CLOSE): Transition(State.FAILING),
    (State.FAILING, Input.FAIL): Transition(State.FAILING),
    (State.FAILING, Input.GIVE_UP): Transition(State.CLOSED, (Action.END,)),
    (State.FAILING, Input.EOF): Transition(State.CLOSED, (Action.END,)),
    (State.FAILING, Input.TIMEOUT): Transition(State.CLOSED, (Action.END,)),
    (State.CLOSED, Input.LOCAL_CLOSE): Transition(State.CLOSED),
    (State.CLOSED, Input.PEER_CLOSE): Transition(State.CLOSED),
    (State.CLOSED, Input.FAIL): Transition(State.CLOSED),
    (State.CLOSED, Input.GIVE_UP): Transition(State.CLOSED),
    (State.CLOSED, Input.EOF): Transition(State.CLOSED),
    (State.CLOSED, Input.TIMEOUT): Transition(State.CLOSED),
}


class Closing:
    """The state of one connection's closing; total: every input is safe in every state."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: State = State.OPEN

    def on(self, event: Input) -> tuple[Action, ...]:
        """Take an input and return what to do about it, in order."""
        self.state, actions = TRANSITIONS[self.state, event]
        return actions
