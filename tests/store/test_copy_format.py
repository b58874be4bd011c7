"""Binary COPY: what was encoded is what PostgreSQL reads."""

import struct
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import orjson
import pytest

from meterproxy.store import copy_format
from meterproxy.store.copy_format import HEADER, TRAILER, bigint, instant, jsonb, text, text_array, uuid
from meterproxy.store.instants import to_us
from tests.ledger.bank import pool_of

ID = UUID("018f2f6e-7c1a-7c1a-8c1a-0123456789ab")
ROWS = (
    ("plain", 0, ID, {"a": 1}, ["x", "y"]),
    ("", -(2**63), UUID(int=0), [], ["", "ä€😀", 'quote " comma , brace {}']),
    ("ä€😀\n\t\\.", 2**63 - 1, UUID(int=2**128 - 1), {"ä": None}, ["one"]),
    (None, None, None, None, None),
)


async def test_rows_read_back_as_they_were(database: str) -> None:
    """Every type in its extremes, and NULL."""
    encoded = [
        struct.pack(">h", 5)
        + text(word)
        + bigint(number)
        + uuid(None if name is None else name.bytes)
        + jsonb(None if value is None else orjson.dumps(value))
        + text_array(words or ())
        for word, number, name, value, words in ROWS
    ]
    async with pool_of(database) as pool, pool.acquire() as connection, connection.transaction():
        await connection.execute(
            "CREATE TEMPORARY TABLE t (word text, number bigint, name uuid, value jsonb, words text[])"
        )
        await connection.copy_to_table("t", source=pieces(*encoded), format="binary")
        found = await connection.fetch("SELECT * FROM t")
    read = [(*row[:3], None if row[3] is None else orjson.loads(row[3]), row[4]) for row in map(tuple, found)]
    assert read == [tuple(row) for row in ROWS]


async def test_instants(database: str) -> None:
    """A microsecond of Unix time is the same microsecond in PostgreSQL; what no calendar has is refused."""
    moments = [0, 1, 946_684_800_000_000, to_us(datetime(2026, 11, 25, 23, 59, 59, 999_999, tzinfo=UTC))]
    encoded = [struct.pack(">hiq", 1, 8, instant(moment)) for moment in moments]
    async with pool_of(database) as pool, pool.acquire() as connection, connection.transaction():
        await connection.execute("CREATE TEMPORARY TABLE t (at timestamptz)")
        await connection.copy_to_table("t", source=pieces(*encoded), format="binary")
        assert [to_us(row["at"]) for row in await connection.fetch("SELECT at FROM t")] == moments
    for beyond in (-1, 253_402_300_800_000_000, 2**63):
        with pytest.raises(OverflowError):
            instant(beyond)


@pytest.mark.parametrize("value", ["\ud800", "a\udfffb"])
def test_text_that_is_no_unicode_is_refused(value: str) -> None:
    """What cannot be written is an error before anything is sent."""
    with pytest.raises(UnicodeEncodeError):
        text(value)


async def test_what_postgresql_does_not_take_is_its_error(database: str) -> None:
    """NUL in a text and JSON that is none are refused by PostgreSQL, not stored as something else."""
    for field, kind in ((text("a\0b"), "text"), (jsonb(b"{nope"), "jsonb")):
        async with pool_of(database) as pool, pool.acquire() as connection:
            await connection.execute(f"CREATE TEMPORARY TABLE t_{kind} (value {kind})")
            with pytest.raises(asyncpg.PostgresError):
                await connection.copy_to_table(
                    f"t_{kind}", source=pieces(struct.pack(">h", 1) + field), format="binary"
                )


def test_words_are_remembered_up_to_a_bound() -> None:
    """Names that tenants choose do not fill the memory."""
    assert copy_format.word.cache_parameters()["maxsize"] == 4096


async def pieces(*rows: bytes):
    for piece in (HEADER, *rows, TRAILER):
        yield piece
