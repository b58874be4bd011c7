"""Exports: rows of any number as the pieces of a file, which PostgreSQL writes; nobody ever has all of it.

No connection is kept while a piece is being sent: each is a statement of its own, behind the last row of the one
before.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, Literal, TypeVar

import asyncpg

from meterproxy.store.pool import Pool, transaction

Place = TypeVar("Place")
FileFormat = Literal["csv", "json"]

EXPORTED_AT_ONCE: Final = 4000
"""Rows of one statement of an export: some milliseconds of PostgreSQL, about a megabyte of text."""


async def exported(
    pool: Pool,
    query: str,
    arguments: Callable[[Place | None, int], Sequence[Any]],
    place_of: Callable[[asyncpg.Record], Place],
    header: str,
    format_: FileFormat,
) -> AsyncIterator[bytes]:
    """The pieces of a file.

    Args:
        query: answers `rows`, their `text`, and what `place_of` finds.
        arguments: of the query, for so many rows behind a place.
        header: the first line of a CSV file.

    Raises:
        StoreUnavailable: also when a part of it was given already.
    """
    yield header.encode() if format_ == "csv" else b"["
    before: Place | None = None
    while True:
        async with transaction(pool, readonly=True) as connection:
            page = await connection.fetchrow(query, *arguments(before, EXPORTED_AT_ONCE))
        assert page is not None
        if page["rows"]:
            lead = ",\n" if format_ == "json" and before is not None else ""
            yield (lead + page["text"]).encode()
        if page["rows"] < EXPORTED_AT_ONCE:
            break
        before = place_of(page)
    if format_ == "json":
        yield b"]\n"
