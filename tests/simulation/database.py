"""PostgreSQL and the way to it: the honest fake with a clock, failures and a network in between.

Rules
-----
- Every call is one transaction and happens at one instant, whenever its request arrives; that may be after its caller
  has given up.
- A call that failed may have happened. One that was answered has happened, unless a failover to a standby that lagged
  behind takes it back.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from copy import copy
from random import Random
from typing import Any
from uuid import UUID

from meterproxy.core.lending import LeaseKey, News, SessionFacts, Totals
from meterproxy.errors import MeterproxyError, StoreUnavailable
from tests.ledger.memory_store import MemoryStore
from tests.simulation.borders import running
from tests.simulation.timeline import Timeline
from tests.simulation.words import short

RECLAIM_US = 3_000_000


class Database(MemoryStore):
    """The fake with a clock of its own, reclaims that go stale, and a change counter that a failover sets back."""

    def __init__(self, timeline: Timeline) -> None:
        super().__init__()
        self._timeline = timeline
        self._asked_us: dict[tuple[LeaseKey, UUID], int] = {}
        self._expires_us: dict[UUID, int] = {}
        self._folded: dict[tuple[LeaseKey, UUID], int] = {}
        self._kept_folded = self._folded
        """What was lent by leases that are folded; and by those that were when the standby last heard."""
        self.began_us = 0
        """When PostgreSQL was started last."""

    @property
    def now_us(self) -> int:  # type: ignore[override]
        return self._timeline.epoch_us + self._timeline.now_us

    @now_us.setter
    def now_us(self, _value: int) -> None:
        """The fake's own beginning."""

    def change_cap(self, key: LeaseKey, by_nanos: int) -> None:
        """What an operator does: a grant, or a lowered cap."""
        self.credit(key, by_nanos)

    def remember(self) -> None:
        super().remember()
        self.kept["changes"] = list(self.changes)
        self._kept_folded = dict(self._folded)

    def fail_over(self) -> None:
        """Go on with what the standby has."""
        kept = dict(self.kept)
        self.changes = list(kept.pop("changes"))
        for name, rows in kept.items():
            setattr(self, name, {key: copy(row) for key, row in rows.items()})
        self.reclaims = {}
        self._folded = dict(self._kept_folded)
        self.moved = True

    def lent_to(self, key: LeaseKey, session_id: UUID) -> int:
        """What was ever lent to a session of a limit window."""
        return self._lent.get((key, session_id), 0)

    @property
    def _lent(self) -> dict[tuple[LeaseKey, UUID], int]:
        """What was ever lent, by lease, whether that is folded or not."""
        return self._folded | {lent: lease.granted for lent, lease in self.leases.items()}

    async def fold(self) -> None:
        before = self._lent
        await super().fold()
        self._folded = {lent: granted for lent, granted in before.items() if lent not in self.leases}

    def forgotten(self, keys: Sequence[LeaseKey]) -> dict[tuple[int, UUID], int]:
        """Totals of leases from one of these windows, by its place and session, which the standby does not know."""
        known = self.kept["leases"]
        return {
            (keys.index(key), session_id): granted
            for (key, session_id), granted in self._lent.items()
            if key in keys
            and (key, session_id) not in self._kept_folded
            and ((key, session_id) not in known or known[key, session_id].granted < granted)
        }

    async def open_session(self, session_id: UUID, journal_id: UUID, host: str, slot: int, ttl_seconds: float) -> int:
        now_us = await super().open_session(session_id, journal_id, host, slot, ttl_seconds)
        self._expires_us[session_id] = now_us + int(ttl_seconds * 1e6)
        return now_us

    async def renew_session(self, session_id: UUID, ttl_seconds: float, life: UUID) -> int:
        now_us = await super().renew_session(session_id, ttl_seconds, life)
        self._expires_us[session_id] = now_us + int(ttl_seconds * 1e6)
        return now_us

    async def present(
        self, session: SessionFacts, ttl_seconds: float, life: UUID, totals: Mapping[LeaseKey, Totals]
    ) -> int:
        forgotten = await super().present(session, ttl_seconds, life, totals)
        self._expires_us[session.session_id] = self.now_us + int(ttl_seconds * 1e6)
        return forgotten

    def mark_lost(self, ttl_seconds: float) -> list[UUID]:
        """What any worker does now and then: name the sessions that were not heard of for a ttl after their trust."""
        before_us = self.now_us - int(ttl_seconds * 1e6)
        if self.moved or max(self.began_us, self.paused_until_us) > before_us:
            return []
        lost = [
            session_id
            for session_id, row in self.sessions.items()
            if row.state == "live" and self._expires_us[session_id] < before_us
        ]
        for session_id in lost:
            self.sessions[session_id].state = "lost"
        return lost

    async def ask_reclaim(self, session_id: UUID, key: LeaseKey, wanted: int) -> None:
        if not self._waits(key, session_id):
            self.reclaims.pop((key, session_id), None)  # who was away stands at the end again
        await super().ask_reclaim(session_id, key, wanted)
        self._asked_us[key, session_id] = self.now_us

    def _waits(self, key: LeaseKey, session_id: UUID) -> bool:
        """A wish that was not told again in time is none any more."""
        return super()._waits(key, session_id) and self._asked_us[key, session_id] > self.now_us - RECLAIM_US

    async def poll(self, session_id: UUID, version: int) -> News:
        news = await super().poll(session_id, version)
        return news if version < len(self.changes) else news._replace(changes=())


class Network:
    """What stands between processes and PostgreSQL, and whether that is up at all."""

    def __init__(self, timeline: Timeline, database: Database, random: Random) -> None:
        self._timeline = timeline
        self._random = random
        self.database = database
        self.up = True
        self.incarnation = 0
        """Grows with every restart: what was under way then is never answered."""
        self.unreachable: set[str] = set()
        """Hosts that are cut off."""
        self.delay_us = (100, 2000)
        self.lost = self.unheard = self.late = 0.0
        """Of how many requests the request gets lost, or the answer, or the request arrives when nobody waits for it."""
        self._arrivals: dict[tuple[str, str], int] = {}
        self._unanswered: list[Callable[[], None]] = []
        self.tell: Callable[[str, str], None] = lambda _who, _what: None

    def restart(self) -> None:
        self.up = True
        self.incarnation += 1
        self.database.began_us = self.database.now_us

    def heal(self) -> None:
        """From now on all is well, and who waits for an answer that will not come learns it now."""
        self.restart()
        self.unreachable.clear()
        self._arrivals.clear()
        self.delay_us = (100, 2000)
        self.lost = self.unheard = self.late = 0.0
        for give_up in self._unanswered:
            self._timeline.after(self._delay(), give_up)
        self._unanswered.clear()

    def ask(self, host: str, name: str, arguments: tuple[Any, ...]) -> Any:
        """Send a request on its way; answers the future of its answer, in the process that asks."""
        loop = running()
        answer = loop.create_future()
        incarnation = self.incarnation

        def deliver(result: Any, error: BaseException | None) -> None:
            if loop.dead or answer.done():
                return
            if error is not None:
                self.tell(loop.name, f"{name} failed: {error}")
                answer.set_exception(error)
            else:
                answer.set_result(result)

        def give_up(delay_us: int, why: str) -> None:
            given_up = lambda: deliver(None, StoreUnavailable(why))  # noqa: E731
            self._unanswered.append(given_up)
            self._timeline.after(delay_us, given_up)

        def arrive(heard: bool) -> None:
            if not self.up or self.incarnation != incarnation:
                give_up(self._delay(), "PostgreSQL is down")
                return
            result, error = None, None
            try:
                result = finished(getattr(self.database, name)(*arguments))
            except (MeterproxyError, AssertionError) as raised:
                error = raised
            self.tell(loop.name, f"{name}{short(arguments)} -> {short(error or result)}{'' if heard else ' unheard'}")
            if heard:
                self._timeline.after(self._delay(), lambda: come_back(result, error))

        def come_back(result: Any, error: BaseException | None) -> None:
            if self.incarnation != incarnation or not self.up:
                error = StoreUnavailable("the connection was lost")
            deliver(result, error)

        fate = self._random.random()
        if host in self.unreachable:
            give_up(5_000_000, "PostgreSQL is not reachable")
        elif fate < self.lost:
            give_up(self._patience(), "the request got lost")
        elif fate < self.lost + self.unheard:
            arrives_us = self._in_turn(loop.name, name, self._delay())
            self._timeline.after(arrives_us - self._timeline.now_us, lambda: arrive(heard=False))
            give_up(2 * self.delay_us[1] + self._patience(), "the answer got lost")
        elif fate < self.lost + self.unheard + self.late:
            give_up(self._patience(), "PostgreSQL does not answer in time")
            arrives_us = self._in_turn(loop.name, name, self._random.randint(50_000, 4_000_000))
            self._timeline.after(arrives_us - self._timeline.now_us, lambda: arrive(heard=False))
        else:
            arrives_us = self._in_turn(loop.name, name, self._delay())
            self._timeline.after(arrives_us - self._timeline.now_us, lambda: arrive(heard=True))
        return answer

    def _in_turn(self, process: str, name: str, delay_us: int) -> int:
        """When a call arrives: a late one holds its locks until then, so that it is never overtaken by its like."""
        last_us = self._arrivals.get((process, name), 0)
        self._arrivals[process, name] = max(self._timeline.now_us + delay_us, last_us + 1)
        return self._arrivals[process, name]

    def _delay(self) -> int:
        return self._random.randint(*self.delay_us)

    def _patience(self) -> int:
        """When a caller learns that there is no answer: at once where the connection breaks, else late."""
        return self._random.choice((1_000, 30_000, 300_000, 6_000_000))


class Link:
    """All ports of one host, as its processes see them."""

    def __init__(self, network: Network, host: str) -> None:
        self._network = network
        self._host = host

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*arguments: Any) -> Any:
            return await self._network.ask(self._host, name, arguments)

        return call


def finished(work: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine answers that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as stopped:
        return stopped.value
    raise AssertionError("a transaction waits for nothing")
