"""The open connections of a server, found by id, by user and by where they come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Generic, NamedTuple, TypeVar

C = TypeVar("C", bound=Hashable)


class _Place(NamedTuple):
    id: str
    user: str | None
    ip: str | None


class Registry(Generic[C]):
    """Connections in the order in which they came; finding and counting takes no longer the more there are."""

    __slots__ = ("_by_id", "_by_user", "_per_ip", "_places")

    def __init__(self) -> None:
        self._by_id: dict[str, C] = {}
        self._by_user: dict[str, dict[str, C]] = {}
        self._per_ip: Counter[str] = Counter()
        self._places: dict[C, _Place] = {}

    def add(self, connection: C, *, id: str, user: str | None, ip: str | None) -> None:  # noqa: A002 (a name as `ws.id`)
        """Add a connection of `user`, where there is one, from `ip`, a `network_key`, where there is one.

        Raises ValueError when the connection or its id is already there.
        """
        if connection in self._places or id in self._by_id:
            raise ValueError(f"the connection {id!r} is already registered; remove it first")
        self._by_id[id] = connection
        self._places[connection] = _Place(id, user, ip)
        if user is not None:
            self._by_user.setdefault(user, {})[id] = connection
        if ip is not None:
            self._per_ip[ip] += 1

    def remove(self, id: str) -> None:  # noqa: A002
        """Forget the connection `id`; safe when it is not there."""
        connection = self._by_id.pop(id, None)
        if connection is None:
            return
        _, user, ip = self._places.pop(connection)
        if user is not None:
            of_user = self._by_user[user]
            del of_user[id]
            if not of_user:
                del self._by_user[user]
        if ip is not None:
            self._per_ip[ip] -= 1
            if not self._per_ip[ip]:
                del self._per_ip[ip]

    def get(self, id: str) -> C | None:  # noqa: A002
        """Return the connection `id`, or None."""
        return self._by_id.get(id)

    def by_user(self, user: str) -> tuple[C, ...]:
        """Return the connections of `user`."""
        return tuple(self._by_user.get(user, {}).values())

    def count_user(self, user: str) -> int:
        """Return how many connections `user` has."""
        return len(self._by_user.get(user, ()))

    def count_ip(self, ip: str) -> int:
        """Return how many connections come from `ip`, a `network_key`."""
        return self._per_ip[ip]

    def __iter__(self) -> Iterator[C]:
        """Iterate over those that are there now, whoever comes and goes meanwhile."""
        return iter(tuple(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, connection: object) -> bool:
        return connection in self._places
