"""The border where the driver's errors become ours."""

import asyncpg
import pytest

from meterproxy.errors import StoreUnavailable
from meterproxy.store.pool import translated

AWAY = [
    asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
    asyncpg.InterfaceError("the underlying connection is closed"),
    asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress"),
    asyncpg.AdminShutdownError("terminating connection due to administrator command"),
    asyncpg.CannotConnectNowError("the database system is starting up"),
    asyncpg.TooManyConnectionsError("sorry, too many clients already"),
    ConnectionResetError("reset by peer"),
    FileNotFoundError("no socket"),
    TimeoutError(),
]
"""What is raised while PostgreSQL is killed, ended, started or out of reach."""

OURS = [
    asyncpg.DataError("invalid input for query argument"),
    asyncpg.UniqueViolationError("duplicate key value"),
    asyncpg.UndefinedTableError("relation does not exist"),
    KeyError("a bug"),
]
"""What would come again however often it was tried."""


@pytest.mark.parametrize("error", AWAY, ids=lambda error: type(error).__name__)
def test_postgresql_is_away(error: Exception) -> None:
    """In all its forms an outage is a StoreUnavailable, which callers know to wait for."""
    with pytest.raises(StoreUnavailable), translated():
        raise error


@pytest.mark.parametrize("error", OURS, ids=lambda error: type(error).__name__)
def test_not_an_outage(error: Exception) -> None:
    """What is wrong with a request or with us passes as it is, and is never waited for."""
    with pytest.raises(type(error)), translated():
        raise error
