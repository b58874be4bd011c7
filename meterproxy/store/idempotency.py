"""Idempotency in PostgreSQL: claims of keys, answers that are kept sealed, and charges that are given back.

Rules
-----
- Each claim and each end is decided by one function under the row's lock; repeating either changes nothing.
- An answer is sealed for its row: for one account, key and request. One that cannot be opened (another master key, a
  damaged row) is as one that was not kept; it is never an error, and never a second charge.
- A charge is given back under its account's lock, once, by whichever worker looks first.
"""

import logging
import os
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from meterproxy.core.idempotency import (
    KEPT_SECONDS,
    ClaimRequest,
    EndedClaim,
    Found,
    KeptAnswer,
    Replaced,
    Verdict,
)
from meterproxy.core.seal import NONCE_BYTES, Seal, SealBroken
from meterproxy.store.instants import to_datetime
from meterproxy.store.pool import Pool, retried, transaction
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("idempotency")

MOST_BYTES: Final = 64 << 20
"""How much is kept for one account; beyond that the oldest answers go."""
PURPOSE: Final = b"kept answers"
DECIDED_AT_ONCE: Final = 100
DELETED_AT_ONCE: Final = 1000

_log: Final = logging.getLogger(__name__)
_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(KeptAnswer)


class IdempotencyRows:
    """Fulfils `proxy.ports.IdempotencyStore` for the requests of one worker session.

    Args:
        longest_seconds: how long an exchange may last; a claim that is older is nobody's.
        most_bytes: how much is kept for one account.
    """

    def __init__(
        self, pool: Pool, seal: Seal, session_id: UUID, longest_seconds: float, most_bytes: int = MOST_BYTES
    ) -> None:
        self._pool = pool
        self._seal = seal
        self._session_id = session_id
        self._longest_seconds = longest_seconds
        self._most_bytes = most_bytes

    async def claim(self, request: ClaimRequest) -> Found:
        """Ask for a key. Raises StoreUnavailable; then it may have been claimed all the same."""

        async def attempt() -> asyncpg.Record:
            async with transaction(self._pool) as connection:
                row = await connection.fetchrow(
                    _SQL["claim"], request.account_id, request.key_digest, request.request_digest, request.request_id,
                    to_datetime(request.occurred_us), self._session_id, KEPT_SECONDS, self._longest_seconds,
                )  # fmt: skip
            assert row is not None
            return row

        return self._found(request, await retried(attempt))

    def _found(self, request: ClaimRequest, row: asyncpg.Record) -> Found:
        verdict = Verdict(row["verdict"])
        if verdict is not Verdict.ANSWERED:
            return Found(verdict)
        if row["master_key_id"] != self._seal.key_id:
            _log.warning("a kept answer was sealed under another master_key")
            return Found(Verdict.UNKEPT)
        try:
            text = self._seal.open(row["answer"], _bound_to(request, row["answered_by"]))
            return Found(verdict, _decoder.decode(text))
        except (SealBroken, msgspec.MsgspecError):
            _log.exception("a kept answer is damaged", extra={"request_id": str(row["answered_by"])})
            return Found(Verdict.UNKEPT)

    async def end(self, ended: Sequence[EndedClaim]) -> None:
        """Tell how claims ended; those that somebody else has taken over stay his. Raises StoreUnavailable."""
        rows = [self._row(claim) for claim in sorted(ended, key=lambda claim: claim.request[:2])]

        async def attempt() -> None:
            async with transaction(self._pool) as connection:
                await connection.executemany(_SQL["end_claim"], rows)

        await retried(attempt)

    def _row(self, ended: EndedClaim) -> tuple[Any, ...]:
        request, answer = ended.request, None
        if ended.answer is not None:
            bound_to = _bound_to(request, request.request_id)
            answer = self._seal.seal(_encoder.encode(ended.answer), bound_to, os.urandom(NONCE_BYTES))
        return (
            request.account_id, request.key_digest, request.request_id, str(ended.end), answer,
            None if answer is None else self._seal.key_id, self._most_bytes,
        )  # fmt: skip


def _bound_to(request: ClaimRequest, answered_by: UUID) -> bytes:
    return request.account_id.bytes + request.key_digest + answered_by.bytes


async def reverse_replaced(pool: Pool) -> int:
    """Decide about the replaced requests that are due; answers how many were decided. Raises StoreUnavailable."""
    async with transaction(pool) as connection:
        due = [Replaced(*row) for row in await connection.fetch(_SQL["take_due"], DECIDED_AT_ONCE)]
    return sum([await _decide(pool, replaced) != "pending" for replaced in due])


async def _decide(pool: Pool, replaced: Replaced) -> str:
    async def attempt() -> str:
        async with transaction(pool) as connection:
            return str(await connection.fetchval(_SQL["decide"], *replaced))

    decision = await retried(attempt)
    if decision == "reversed":
        _log.info("a charge was given back", extra={"request_id": str(replaced.request_id)})
    return decision


async def delete_expired(pool: Pool) -> int:
    """Forget keys that are older than a day; answers how many. Raises StoreUnavailable."""

    async def attempt() -> int:
        async with transaction(pool) as connection:
            return int(await connection.fetchval(_SQL["delete_expired"], DELETED_AT_ONCE))

    total = 0
    while True:
        deleted = await retried(attempt)
        total += deleted
        if deleted < DELETED_AT_ONCE:
            return total
