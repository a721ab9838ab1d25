"""The open connections of a server, found by id, by user and by where they come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Generic, NamedTuple, TypeVar

C = TypeVar("C", bound=Hashable)


class _Place(NamedTuple):
    user: str | None
    ip: str | None


class Registry(Generic[C]):
    """Connections in the order in which they came; finding and counting takes no longer the more there are.

    A place can be reserved for a connection that is still to come: it counts, and is not iterated over.
    """

    __slots__ = ("_by_id", "_by_user", "_connections", "_per_ip", "_per_user", "_places")

    def __init__(self) -> None:
        self._by_id: dict[str, C] = {}
        self._by_user: dict[str, dict[str, C]] = {}
        self._connections: set[C] = set()
        self._per_user: Counter[str] = Counter()
        self._per_ip: Counter[str] = Counter()
        self._places: dict[str, _Place] = {}

    def reserve(self, id: str, *, user: str | None, ip: str | None) -> None:  # noqa: A002 (a name as `ws.id`)
        """Keep a place for a connection of `user`, where there is one, from `ip`, a `network_key`, where there is one.

        Raises ValueError when the id is already there.
        """
        if id in self._places:
            raise ValueError(f"the connection {id!r} is already registered; remove it first")
        self._places[id] = _Place(user, ip)
        if user is not None:
            self._per_user[user] += 1
        if ip is not None:
            self._per_ip[ip] += 1

    def add(self, connection: C, *, id: str, user: str | None, ip: str | None) -> None:  # noqa: A002
        """Add a connection, in the place that was reserved for it where there is one; arguments as for `reserve`.

        Raises ValueError when the connection or its id is already there.
        """
        if connection in self._connections or id in self._by_id:
            raise ValueError(f"the connection {id!r} is already registered; remove it first")
        if id not in self._places:
            self.reserve(id, user=user, ip=ip)
        self._by_id[id] = connection
        self._connections.add(connection)
        if user is not None:
            self._by_user.setdefault(user, {})[id] = connection

    def remove(self, id: str) -> None:  # noqa: A002
        """Forget the connection `id`, and the place reserved for it; safe when there is neither."""
        place = self._places.pop(id, None)
        if place is None:
            return
        user, ip = place
        if user is not None:
            _take_one(self._per_user, user)
        if ip is not None:
            _take_one(self._per_ip, ip)
        connection = self._by_id.pop(id, None)
        if connection is None:
            return
        self._connections.remove(connection)
        if user is not None:
            of_user = self._by_user[user]
            del of_user[id]
            if not of_user:
                del self._by_user[user]

    def get(self, id: str) -> C | None:  # noqa: A002
        """Return the connection `id`, or None."""
        return self._by_id.get(id)

    def by_user(self, user: str) -> tuple[C, ...]:
        """Return the connections of `user`."""
        return tuple(self._by_user.get(user, {}).values())

    def count_user(self, user: str) -> int:
        """Return how many places `user` has, reserved ones too."""
        return self._per_user[user]

    def count_ip(self, ip: str) -> int:
        """Return how many places those who come from `ip`, a `network_key`, have, reserved ones too."""
        return self._per_ip[ip]

    def count(self) -> int:
        """Return how many places are taken, reserved ones too."""
        return len(self._places)

    def __iter__(self) -> Iterator[C]:
        """Iterate over those that are there now, whoever comes and goes meanwhile."""
        return iter(tuple(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, connection: object) -> bool:
        return connection in self._connections


def _take_one(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
