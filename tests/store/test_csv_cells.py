"""Cells of CSV files: those that are taken as they are need nothing, and whatever people write is text to a spreadsheet."""

import csv
import io
import random
from collections.abc import AsyncIterator

import asyncpg
import orjson
import pytest

from meterproxy.service.invention import HOUR_US, book_invented, invented
from meterproxy.store.accounts import Accounts
from meterproxy.store.activity import Activity, ActivityFilter
from meterproxy.store.keys import Keys
from meterproxy.store.settle import Settlement
from meterproxy.store.whose import Whose
from tests.control.history import PRICES, spender_of
from tests.ledger.bank import pool_of

HOSTILE = [
    "=1+1", "+1", "-1", "@x", " =1", "\t=1", "\u3000=1", "\xa0-1", "＝1", "＋1", "－1", "＠1", "\tx", "\rx", "\nx", 'a"b', "a,b", "a\nb", "a\r",
    '"', ",", "a\x01=b", "\x01=b", "\x01", "a\x01b", "", " ", "é", "a=1", "x-y", "gpt-4o (new) #1", "a'b", "{}", "'=1",
]  # fmt: skip
RUN = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n")
"""With what a cell must not begin, after blanks or without."""


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


async def test_what_is_taken_as_it_is_needs_nothing(pool: asyncpg.Pool) -> None:
    """Alone and among others, whatever it is made of: nothing that is called plain is changed by looking at it closely."""
    chance = random.Random(3)
    letters = "ab1 .=-+@\"',\r\n\t\x01＝＠\u3000é(#/"
    texts = HOSTILE + ["".join(chance.choices(letters, k=chance.randint(0, 5))) for _ in range(4000)]
    rows = await pool.fetch(
        "SELECT t, csv_cell(t) AS cell, csv_cell(t, csv_are_plain(E'\\x01' || t)) AS told,"
        " csv_are_plain(concat_ws(E'\\x01', '', 'a', t, 'b')) AS is_plain FROM unnest($1::text[]) AS t",
        texts,
    )
    assert [row["told"] for row in rows] == [row["cell"] for row in rows]
    assert all(row["cell"] == row["t"] for row in rows if row["is_plain"])
    assert 100 < sum(row["is_plain"] for row in rows) < 2000
    assert await pool.fetchval("SELECT csv_are_plain(concat_ws(E'\\x01', '', NULL, NULL))")
    assert await pool.fetchval("SELECT csv_cell(NULL, true) || csv_cell(NULL, false)") == ""


@pytest.mark.parametrize("column", ["conversation", "model", "served_model", "provider", "tools", "key", "user"])
async def test_nothing_that_is_written_runs(pool: asyncpg.Pool, column: str) -> None:
    """In whatever column it stands, beside lines that are plain; with its tags beside it as they are."""
    account = await Accounts(pool, "test").create("Acme")
    key = await Keys(pool, "test").create(account.id, "one")
    records = list(invented([await spender_of(pool, key.row.id)], PRICES, 10**15, 10**15 + HOUR_US, len(HOSTILE)))
    await book_invented(Settlement(pool), records, PRICES)
    for record, text in zip(records, HOSTILE, strict=True):
        statement = {
            "tools": "UPDATE usage_events SET tools = ARRAY[$2::text] WHERE id = $1",
            "key": "WITH k AS (INSERT INTO keys (id, origin_id, account_id, user_id, name, prefix, digest) SELECT $1, $1, account_id, user_id,"
            " COALESCE(NULLIF($2, ''), 'x'), '', sha256($1::uuid::text::bytea) FROM keys LIMIT 1 RETURNING id)"
            " UPDATE usage_events SET key_id = $1 WHERE id = $1",
            "user": "WITH u AS (INSERT INTO users (id, organization_id, name) SELECT $1, organization_id,"
            " COALESCE(NULLIF($2, ''), 'x') FROM users LIMIT 1) UPDATE usage_events SET user_id = $1 WHERE id = $1",
        }.get(column, f"UPDATE usage_events SET {column} = $2 WHERE id = $1")
        await pool.execute(statement, record.subject.request_id, text)
    pieces = Activity(pool).exported(Whose(account.id), ActivityFilter(), "csv")
    whole = b"".join([piece async for piece in pieces]).decode()
    shown = {row["id"]: row for row in csv.DictReader(io.StringIO(whole, newline=""))}
    name = {"conversation": "conversation", "tools": "tools", "key": "key_name", "user": "user_name"}.get(
        column, column
    )
    for record, text in zip(records, HOSTILE, strict=True):
        row = shown[str(record.subject.request_id)]
        told = row[name]
        runs = text.lstrip().startswith(RUN) or text.startswith(("\t", "\r", "\n"))
        expected = text or ("x" if column in {"key", "user"} else "")
        assert told == (f"'{text}" if runs else expected)
        tags = dict(record.subject.tags)
        assert (orjson.loads(row["tags"]) if row["tags"] else {}) == tags
