"""Idempotency: a request that carries an `Idempotency-Key` is answered and charged once, however often it is sent.

Rules
-----
- The key is claimed in PostgreSQL before anything is held or sent. Who does not get it waits for who has it, for a
  bounded time, and then gets that one's answer; it never asks the provider beside it.
- A claim ends once, when its exchange has ended, and PostgreSQL is told afterwards, again and again until it heard.
- Only whole answers that were charged (or are to be, in the background) are kept. What cost nothing is forgotten, so
  that it may be tried again; what was charged and cannot be kept stays charged, and is not tried again.
- Where it was our own fault that there is no whole answer, the next one takes its place, and the charge is given back
  when that one is captured (`core/idempotency`, `sql/migrations/0011_idempotency.sql`).
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Final
from uuid import UUID

from meterproxy.core.idempotency import (
    KEY_BYTES,
    ClaimEnd,
    ClaimRequest,
    EndedClaim,
    Found,
    KeptAnswer,
    Verdict,
    digest_of_key,
    digest_of_request,
    is_key,
)
from meterproxy.errors import ApiError, Case, StoreUnavailable
from meterproxy.proxy.capture import OpenHold
from meterproxy.proxy.client import Client, Room
from meterproxy.proxy.headers import Header
from meterproxy.proxy.ports import IdempotencyStore, Observer
from meterproxy.proxy.recording import Recording
from meterproxy.proxy.settings import ExchangeSettings
from meterproxy.proxy.shares import Shares

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = (b"x-meterproxy-replayed", b"true")
_NOT_KEPT: Final = (b"x-meterproxy-balance", b"x-ratelimit-")
"""Beginnings of headers that were true only at that moment."""

HASHED_AT_ONCE_BYTES: Final = 1 << 20
"""A longer body is hashed in a thread: it would stall the loop."""
FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 1.0
ASKED_AT_ONCE: Final = 2
"""How many look-ups one account has at once: whoever sends a key again and again must not keep others from theirs."""
TOLD_AT_ONCE: Final = 32
TOLD_AT_ONCE_BYTES: Final = 4 << 20
"""Of answers; a batch that is longer than one has no more than that."""
MOST_UNTOLD: Final = 10_000
"""Ends that PostgreSQL has not heard of; with more of them nobody claims anything."""
RETRY_SECONDS: Final = 1.0
PIECE_BYTES: Final = 65536

_log: Final = logging.getLogger(__name__)


class KeyClaim:
    """One request's claim of its key, and the copy of its answer."""

    __slots__ = ("recording", "request")

    def __init__(self, request: ClaimRequest, recording: Recording) -> None:
        self.request = request
        self.recording = recording


class Idempotency:
    """The keys that requests of one worker claim."""

    def __init__(self, store: IdempotencyStore, observer: Observer, settings: ExchangeSettings) -> None:
        self._store = store
        self._observer = observer
        self._settings = settings
        self._room = Room(settings.recordings_bytes)
        self._ended: deque[tuple[EndedClaim, Recording | None]] = deque()
        self._news = asyncio.Event()
        self._telling = asyncio.Lock()
        self._waiting = 0
        self._shares = Shares(ASKED_AT_ONCE)

    # ── before ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def claim(
        self, client: Client, body: bytes, account_id: UUID, request_id: UUID, occurred_us: int
    ) -> KeyClaim | None:
        """The claim of a request that is to be answered; None where it was answered by what is kept.

        Raises:
            ApiError: MALFORMED (no key), CONFLICT (the key of another request), KEY_RUNNING, ANSWER_UNKEPT,
                UNAVAILABLE where PostgreSQL is away.
        """
        key = _key_of(client.head.idempotency_keys)
        digest = await _digest(client.target, body)
        request = ClaimRequest(account_id, digest_of_key(key), digest, request_id, occurred_us)
        answer = await self._ask(request, client)
        if answer is not None:
            await replay(client, answer)
            self._observer.replayed()
            return None
        recording = client.recording = Recording(self._settings.kept_bytes, self._room)
        return KeyClaim(request, recording)

    async def _ask(self, request: ClaimRequest, client: Client) -> KeptAnswer | None:
        """Ask for the key until it is clear what becomes of this request; the answer, or None where it may run."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.key_wait_seconds
        pause_seconds = FIRST_PAUSE_SECONDS
        while True:
            found = await self._claimed(request)
            if found.verdict is Verdict.CLAIMED or found.verdict is Verdict.ANSWERED:
                return found.answer
            if found.verdict is not Verdict.RUNNING:
                raise _refusal(found.verdict)
            if client.gone or loop.time() >= deadline or self._waiting >= self._settings.keys_waiting:
                raise _refusal(found.verdict)
            await self._pause(pause_seconds)
            pause_seconds = min(pause_seconds * 2, LONGEST_PAUSE_SECONDS)

    async def _pause(self, seconds: float) -> None:
        self._waiting += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._waiting -= 1

    async def _claimed(self, request: ClaimRequest) -> Found:
        async with self._shares.taken(request.account_id):
            return await self._asked(request)

    async def _asked(self, request: ClaimRequest) -> Found:
        if len(self._ended) >= MOST_UNTOLD:
            raise _unavailable()
        try:
            return await self._store.claim(request)
        except BaseException as error:
            # It may have been claimed all the same, and nobody would ever end it.
            self._tell(EndedClaim(request, ClaimEnd.RELEASED))
            if isinstance(error, StoreUnavailable):
                raise _unavailable() from None
            raise

    # ── after ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def end(self, claim: KeyClaim, hold: OpenHold | None, cut_short_by: ApiError | None) -> None:
        """Decide how a claim ends, once its exchange has ended; synchronous."""
        end = _end_of(claim.recording, hold, cut_short_by)
        answer = claim.recording.taken() if end is ClaimEnd.ANSWERED else None
        if answer is None:
            claim.recording.spoil()
        else:
            lasting = [header for header in answer.headers if not header[0].lower().startswith(_NOT_KEPT)]
            answer = KeptAnswer(answer.status, lasting, answer.streamed, answer.body)
        self._tell(EndedClaim(claim.request, end, answer), claim.recording)

    def _tell(self, ended: EndedClaim, recording: Recording | None = None) -> None:
        self._ended.append((ended, recording))
        self._news.set()

    async def keep_told(self) -> None:
        """Tell PostgreSQL how claims ended, again and again until it heard."""
        while True:
            await self._news.wait()
            try:
                await self.tell()
            except StoreUnavailable:
                await asyncio.sleep(RETRY_SECONDS)

    async def tell(self) -> None:
        """Tell PostgreSQL all that it has not heard. Raises StoreUnavailable; then it is told again."""
        async with self._telling:
            self._news.clear()
            try:
                while self._ended:
                    await self._tell_first()
            finally:
                if self._ended:
                    self._news.set()

    async def _tell_first(self) -> None:
        batch = self._batch()
        await self._tell_batch([ended for ended, _ in batch])
        for _, recording in batch:
            self._ended.popleft()
            if recording is not None:
                recording.spoil()

    def _batch(self) -> list[tuple[EndedClaim, Recording | None]]:
        batch: list[tuple[EndedClaim, Recording | None]] = []
        size = 0
        for ended, recording in islice(self._ended, TOLD_AT_ONCE):
            size += 0 if ended.answer is None else len(ended.answer.body)
            if batch and size > TOLD_AT_ONCE_BYTES:
                break
            batch.append((ended, recording))
        return batch

    async def _tell_batch(self, batch: Sequence[EndedClaim]) -> None:
        try:
            await self._store.end(batch)
        except StoreUnavailable:
            raise
        except Exception:  # noqa: BLE001  one that PostgreSQL refuses must not keep it from hearing of all others
            if len(batch) > 1:
                for ended in batch:
                    await self._tell_batch([ended])
                return
            request_id = str(batch[0].request.request_id)
            _log.exception("how a request with a key ended could not be told", extra={"request_id": request_id})


def _key_of(values: tuple[bytes, ...]) -> bytes:
    if len(values) > 1:
        raise ApiError(Case.MALFORMED, f"'{HEADER}' may be there once.", param=HEADER)
    if not is_key(values[0]):
        raise ApiError(Case.MALFORMED, f"'{HEADER}' needs 1 to {KEY_BYTES} printable ASCII characters.", param=HEADER)
    return values[0]


async def _digest(target: str, body: bytes) -> bytes:
    if len(body) <= HASHED_AT_ONCE_BYTES:
        return digest_of_request(target, body)
    return await asyncio.to_thread(digest_of_request, target, body)


def _end_of(recording: Recording, hold: OpenHold | None, cut_short_by: ApiError | None) -> ClaimEnd:
    if hold is None or hold.released:
        return ClaimEnd.RELEASED
    written = hold.receipt is not None or hold.deferred
    if recording.whole and written:
        return ClaimEnd.UNKEPT if recording.spoiled else ClaimEnd.ANSWERED
    stopping = cut_short_by is not None and cut_short_by.case is Case.UNAVAILABLE
    return ClaimEnd.FORFEITED if stopping or not written else ClaimEnd.UNKEPT


def _unavailable() -> ApiError:
    message = f"Whether this '{HEADER}' was used before cannot be looked up right now. Please try again."
    return ApiError(Case.UNAVAILABLE, message)


def _refusal(verdict: Verdict) -> ApiError:
    match verdict:
        case Verdict.DIFFERS:
            message = f"This '{HEADER}' was used for another request. Use one key for each request."
            return ApiError(Case.CONFLICT, message, param=HEADER, headers={"x-should-retry": "false"})
        case Verdict.UNKEPT:
            message = (
                f"A request with this '{HEADER}' was charged before, but its answer was not kept: it was too large, "
                "broke off, or had to make room. It is not made again under this key; use another one to ask again."
            )
            return ApiError(Case.ANSWER_UNKEPT, message, param=HEADER)
        case _:
            message = f"A request with this '{HEADER}' is still being answered. Please try again."
            return ApiError(Case.KEY_RUNNING, message, param=HEADER)


async def replay(client: Client, answer: KeptAnswer) -> None:
    """Give a client the answer that was kept, byte for byte."""
    headers: list[Header] = [*answer.headers, REPLAYED]
    if not answer.streamed:
        client.answer(answer.status, headers, answer.body)
        return
    client.begin(answer.status, headers)
    for start in range(0, len(answer.body), PIECE_BYTES):
        if client.congested:
            await client.drain()
        client.send(answer.body[start : start + PIECE_BYTES])
    client.end()
