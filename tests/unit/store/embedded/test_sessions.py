from __future__ import annotations

import pytest

from fqlstream.store.embedded.exceptions import EngineError
from fqlstream.store.embedded.sessions import Sessions


class Connection:
    closed = False

    def close(self) -> None:
        self.closed = True


def test_a_session_serves_one_statement_at_a_time() -> None:
    sessions, connection = Sessions(), Connection()
    assert sessions.take("s") is None
    assert sessions.keep("s", connection, 60)
    assert sessions.take("s") is connection
    with pytest.raises(EngineError) as caught:
        sessions.take("s")
    assert caught.value.code == 373
    assert sessions.keep("s", connection, 60)
    assert not sessions.keep("s", Connection(), 60)
    assert sessions.take("s") is connection


def test_an_unused_session_ends() -> None:
    now = [0.0]
    sessions, connection = Sessions(lambda: now[0]), Connection()
    sessions.keep("s", connection, 60)
    now[0] = 61

    assert sessions.take("s") is None
    assert connection.closed


def test_too_many_sessions_push_out_the_oldest() -> None:
    sessions, connections = Sessions(), [Connection() for _ in range(65)]
    for number, connection in enumerate(connections):
        sessions.keep(str(number), connection, 60)

    assert [c.closed for c in connections] == [True] + [False] * 64
    sessions.close()
    assert all(c.closed for c in connections)
