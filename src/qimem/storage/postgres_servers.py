"""The servers that a URL names, of which one takes writes: `postgresql://qimem@a,b/qimem`.

The one that was found last is asked first. Otherwise each connection would wait for a dead machine at the head of the
list, for longer than any request may take.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from qimem.kernel.refusal import Refused

_EACH = ("host", "hostaddr", "port")
_Place = Mapping[str, str]


class Servers:
    """Shared by all connections of a database, on all threads.

    Raises:
        Refused: the URL is malformed.
    """

    def __init__(self, url: str) -> None:
        try:
            named = conninfo_to_dict(url)
        except psycopg.ProgrammingError as error:
            # Its text repeats the URL, which may hold a password.
            raise Refused(
                "the database URL cannot be read", "postgresql://user@host:port/database"
            ) from error
        lists = {name: str(named[name]).split(",") for name in _EACH if named.get(name)}
        count = max(map(len, lists.values()), default=1)
        if any(len(values) not in {1, count} for values in lists.values()):
            raise Refused(
                "the database URL names more ports than hosts, or fewer",
                "postgresql://user@a:5432,b:5432/database",
            )
        self._places: tuple[_Place, ...] = tuple(
            {name: values[number % len(values)] for name, values in lists.items()} for number in range(count)
        )

    def in_order(self) -> dict[str, Any]:
        """What replaces the servers of the URL; nothing where it names one."""
        places = self._places
        return (
            {name: ",".join(place[name] for place in places) for name in places[0]} if len(places) > 1 else {}
        )

    def found(self, connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
        """Ask the server of this connection first from now on."""
        first, *_ = places = self._places
        if len(places) > 1 and not _is(first, connection):
            self._places = tuple(sorted(places, key=lambda place: not _is(place, connection)))


def _is(place: _Place, connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    info = connection.info
    same = (place.get("host"), place.get("hostaddr")) in {(info.host, None), (info.host, info.hostaddr)}
    return (same or place.get("hostaddr") == info.hostaddr) and place.get("port") in {
        None,
        "",
        str(info.port),
    }
