"""Honest fakes of the ports: they keep the promises of their protocols, in memory, and remember what was asked."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from msgspec import structs
from msgspec.structs import replace

from meterproxy.core.account import AccountEntry
from meterproxy.core.hold import HoldRequest, Rates, Receipt, Rest
from meterproxy.core.idempotency import ClaimEnd, ClaimRequest, EndedClaim, Found, KeptAnswer, Verdict
from meterproxy.core.key import KeyEntry, KeyPolicy, digest_of
from meterproxy.core.price import Price
from meterproxy.core.record import Ending, EndRecord, Subject, encode_payload
from meterproxy.core.resource import Resource
from meterproxy.core.usage import Usage
from meterproxy.core.vocabulary import vocabulary_of
from meterproxy.errors import ApiError, Case, JournalFailed, StoreUnavailable
from meterproxy.proxy.ports import Finished
from meterproxy.simulator.vocabulary import count_tokens

ACCOUNT = UUID(int=1)
SECRET = "mp-" + "a" * 43


class FakeClock:
    """Unix time by the monotonic clock; `advance` moves it."""

    def __init__(self) -> None:
        self._offset_us = int(time.time() * 1e6) - time.monotonic_ns() // 1000
        self._advanced_us = 0

    def now_us(self) -> int:
        return time.monotonic_ns() // 1000 + self._offset_us

    def elapsed_us(self) -> int:
        return time.monotonic_ns() // 1000 + self._advanced_us

    def advance(self, seconds: float) -> None:
        """Let time pass, on both clocks."""
        self.correct(seconds)
        self._advanced_us += int(seconds * 1e6)

    def correct(self, seconds: float) -> None:
        """The database says that it is later; no time has passed."""
        self._offset_us += int(seconds * 1e6)


def key_entry(number: int = 1, policy: KeyPolicy | None = None, expires_us: int | None = None) -> KeyEntry:
    return KeyEntry(
        key_id=UUID(int=100 + number),
        account=AccountEntry(ACCOUNT, UUID(int=2), UUID(int=4)),
        user_id=UUID(int=3),
        policy=policy or KeyPolicy(),
        expires_us=expires_us,
    )


class FakeDirectory:
    """Keys by secret; those in `cold` must be looked up first."""

    def __init__(self, keys: dict[str, KeyEntry]) -> None:
        self.keys = {digest_of(secret.encode()): key for secret, key in keys.items()}
        self.cold = False
        self.away = False
        self.lookups = 0

    def known(self, digest: bytes) -> KeyEntry | bool:
        return True if self.cold else self.keys.get(digest, False)

    async def find(self, digest: bytes) -> KeyEntry | None:
        self.lookups += 1
        if self.away:
            raise StoreUnavailable
        self.cold = False
        return self.keys.get(digest)


@dataclass(eq=False)
class FakeHold:
    subject: Subject
    price: Price
    request: HoldRequest


@dataclass(frozen=True)
class Row:
    """What was booked of one exchange."""

    how: str
    request_id: UUID
    outcome: str
    status: int
    source: str
    usage: Usage
    amount_nanos: int
    hold_nanos: int
    ending: Ending


@dataclass
class FakeLedger:
    """One account's credit in memory: holds come out of it, endings are rows. Ending a hold twice fails."""

    balance_nanos: int = 5_000_000_000
    cold: bool = False
    trusted: bool = True
    journal_works: bool = True
    room: bool = True
    open: dict[UUID, FakeHold] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    told: list[Usage] = field(default_factory=list)
    placed: list[HoldRequest] = field(default_factory=list)
    rated: Rates | None = None

    @property
    def free_nanos(self) -> int:
        return self.balance_nanos - sum(hold.request.hold_nanos for hold in self.open.values())

    def try_place(self, request: HoldRequest) -> FakeHold | None:
        if not self.trusted:
            raise ApiError(Case.UNAVAILABLE, "no trust")
        if not self.room:
            raise ApiError(Case.OVERLOADED, "no room")
        if self.cold:
            return None
        if request.hold_nanos > self.balance_nanos:
            raise ApiError(Case.CREDIT_SPENT, "spent")
        if request.hold_nanos > self.free_nanos:
            return None
        assert request.request_id not in self.open
        hold = FakeHold(_subject(request), request.price, request)
        self.open[request.request_id] = hold
        self.placed.append(request)
        return hold

    async def place(self, request: HoldRequest) -> FakeHold:
        self.cold = False
        hold = self.try_place(request)
        if hold is None:
            raise ApiError(Case.CREDIT_HELD, "held")
        return hold

    def rest(self, request: HoldRequest) -> Rest | None:
        return None if self.cold else Rest(self.free_nanos)

    async def fetch_rest(self, request: HoldRequest) -> Rest:
        return Rest(self.free_nanos)

    def rates(self, key: KeyEntry, operation: str, model: str, at_us: int) -> Rates | None:
        return self.rated

    def confirm(self, hold: FakeHold) -> None:
        assert hold.subject.request_id in self.open
        if not self.trusted:
            raise ApiError(Case.UNAVAILABLE, "no trust")

    def extend(self, hold: FakeHold, more_nanos: int) -> bool:
        assert 0 <= more_nanos <= hold.request.exposed_nanos
        if more_nanos > self.free_nanos:
            return False
        request = hold.request
        hold.request = structs.replace(
            request, hold_nanos=request.hold_nanos + more_nanos, exposed_nanos=request.exposed_nanos - more_nanos
        )
        hold.subject = structs.replace(hold.subject, hold_nanos=hold.request.hold_nanos)
        return True

    async def make_room(self, hold: FakeHold, more_nanos: int) -> bool:
        return more_nanos <= self.free_nanos

    def progress(self, hold: FakeHold, usage: Usage) -> None:
        assert hold.subject.request_id in self.open
        self.told.append(usage)

    def capture(self, hold: FakeHold, ending: Ending, status_unwritten: int | None = None) -> Receipt:
        if status_unwritten is not None and not self.journal_works:
            ending = replace(ending, status=status_unwritten)
        amounts = hold.price.amounts(ending.usage, ending.service_tier, hold.subject.markup_ppm)
        cost, amount = amounts.cost_nanos, amounts.amount_nanos
        self.balance_nanos -= amount
        self._end("captured", hold, ending, amount)
        return Receipt(cost, amount, self.free_nanos)

    def release(self, hold: FakeHold, ending: Ending) -> None:
        self._end("released", hold, ending, 0)

    def _end(self, how: str, hold: FakeHold, ending: Ending, amount: int) -> None:
        subject = hold.subject
        del self.open[subject.request_id]
        encode_payload(EndRecord(how, subject, ending, 0, amount, 0))
        self.rows.append(
            Row(
                how,
                subject.request_id,
                str(ending.outcome),
                ending.status,
                str(ending.usage_source),
                ending.usage,
                amount,
                subject.hold_nanos,
                ending,
            )
        )
        if not self.journal_works:
            raise JournalFailed


def _subject(request: HoldRequest) -> Subject:
    return Subject(
        request.request_id,
        request.occurred_us,
        request.key.account_id,
        request.key.user_id,
        request.key.key_id,
        request.operation,
        request.provider,
        request.model,
        request.price.id,
        request.markup_ppm,
        request.hold_nanos,
        request.bound.input_tokens,
        request.bound.output_tokens,
        request.stream,
        (),
        request.conversation,
        request.tags,
    )


class FakeOwners:
    """Whose resources are, in memory; what is in `stored` only must be looked up first. Claims twice are harmless."""

    def __init__(self) -> None:
        self.known_ones: dict[tuple[UUID, str, str], Resource] = {}
        self.stored: dict[tuple[UUID, str, str], Resource] = {}
        self.absent: set[tuple[UUID, str, str]] = set()
        self.claimed: list[Resource] = []
        self.forgotten: list[Resource] = []
        self.lookups = 0
        self.away = False
        self.journal_works = True

    def give(self, kind: str, resource_id: str, provider: str = "openai", account_id: UUID = ACCOUNT) -> Resource:
        """Have an account own something that this worker has not heard of."""
        resource = Resource(account_id, kind, resource_id, provider)
        self.stored[account_id, kind, resource_id] = resource
        return resource

    def known(self, account_id: UUID, kind: str, resource_id: str) -> Resource | bool:
        place = (account_id, kind, resource_id)
        return self.known_ones.get(place) or place not in self.absent

    async def find(self, account_id: UUID, kind: str, resource_id: str, *, patient: bool = True) -> Resource | None:
        self.lookups += 1
        if self.away:
            raise StoreUnavailable
        place = (account_id, kind, resource_id)
        if place in self.stored:
            self.known_ones[place] = self.stored[place]
        else:
            self.absent.add(place)
        return self.stored.get(place)

    def claim(self, resource: Resource, occurred_us: int) -> None:
        assert occurred_us > 0
        if not self.journal_works:
            raise JournalFailed
        place = (resource.account_id, resource.kind, resource.id)
        self.known_ones[place] = self.stored[place] = resource
        self.absent.discard(place)
        self.claimed.append(resource)

    def forget(self, resource: Resource, occurred_us: int) -> None:
        assert occurred_us > 0
        if not self.journal_works:
            raise JournalFailed
        place = (resource.account_id, resource.kind, resource.id)
        self.known_ones.pop(place, None)
        self.stored.pop(place, None)
        self.absent.add(place)
        self.forgotten.append(resource)


class FakeDurableHolds:
    """Holds that outlive their exchange, out of a ledger's open ones; the first capture counts."""

    def __init__(self, ledger: "FakeLedger") -> None:
        self._ledger = ledger
        self.waiting: dict[Resource, FakeHold] = {}
        self.away = False
        self.journal_works = True
        self.lookups = 0

    def defer(self, hold: FakeHold, resource: Resource) -> None:
        if not self.journal_works:
            raise JournalFailed
        assert hold.subject.request_id in self._ledger.open
        self.waiting[resource] = hold

    async def find(self, resource: Resource) -> FakeHold | None:
        self.lookups += 1
        if self.away:
            raise StoreUnavailable
        return self.waiting.get(resource)

    def capture(self, hold: FakeHold, ending: Ending) -> Receipt:
        return self._ledger.capture(hold, ending) if self._ends(hold) else Receipt(0, 0, None)

    def release(self, hold: FakeHold, ending: Ending) -> None:
        if self._ends(hold):
            self._ledger.release(hold, ending)

    def end(self, hold: FakeHold, ending: Ending) -> None:
        if any(ending.usage):
            self.capture(hold, ending)
        else:
            self.release(hold, ending)

    def _ends(self, hold: FakeHold) -> bool:
        """Take a hold out of those that wait; False where somebody has ended it before."""
        if not self.journal_works:
            raise JournalFailed
        resource = next((resource for resource, waiting in self.waiting.items() if waiting is hold), None)
        return resource is not None and self.waiting.pop(resource) is hold


class FakeCounter:
    """Counts as the model's own tokenizer does; `away` is a helper that cannot be reached."""

    def __init__(self) -> None:
        self.away = False
        self.asked: list[list[str]] = []

    async def count(self, model: str, texts: Sequence[str]) -> tuple[int, bool] | None:
        self.asked.append(list(texts))
        if self.away:
            return None
        name, exact = vocabulary_of(model)
        return sum(count_tokens(name, text) for text in texts), exact


@dataclass
class FakeObserver:
    ended: list[Finished] = field(default_factory=list)
    refusals: list[tuple[str, str]] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    streams: int = 0
    replays: int = 0

    def finished(self, finished: Finished) -> None:
        self.ended.append(finished)

    def refused(self, reason: str, route: str) -> None:
        self.refusals.append((reason, route))

    def stream_opened(self) -> None:
        self.streams += 1

    def stream_closed(self) -> None:
        self.streams -= 1

    def replayed(self) -> None:
        self.replays += 1

    def upstream_failed(self, provider: str, reason: str) -> None:
        self.failures.append((provider, reason))


@dataclass
class FakeIdempotencyStore:
    """Claims in memory; `asked` counts look-ups, `ends` remembers what was told."""

    away: bool = False
    asked: int = 0
    claims: dict[tuple[UUID, bytes], ClaimRequest] = field(default_factory=dict)
    found: dict[tuple[UUID, bytes], tuple[Verdict, KeptAnswer | None]] = field(default_factory=dict)
    ends: list[EndedClaim] = field(default_factory=list)

    async def claim(self, request: ClaimRequest) -> Found:
        self.asked += 1
        if self.away:
            raise StoreUnavailable
        earlier = self.claims.setdefault(request[:2], request)
        if earlier is request:
            return Found(Verdict.CLAIMED)
        if earlier.request_digest != request.request_digest:
            return Found(Verdict.DIFFERS)
        return Found(*self.found.get(request[:2], (Verdict.RUNNING, None)))

    async def end(self, ended: Sequence[EndedClaim]) -> None:
        if self.away:
            raise StoreUnavailable
        for claim in ended:
            self.ends.append(claim)
            key = claim.request[:2]
            if self.claims.get(key) is not claim.request:
                continue
            if claim.end in {ClaimEnd.RELEASED, ClaimEnd.FORFEITED}:
                del self.claims[key]
            else:
                self.found[key] = Verdict(claim.end), claim.answer
