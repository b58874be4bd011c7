"""The auditor: what clients were told, and what the books must therefore say. It shares nothing with the ledger.

Rules
-----
- All that open holds may still cost and ended ones have cost within their holds never passes the highest cap that the
  account ever had.
- An ending that a client was told is booked once, at its amount; a hold whose process died is booked at what recovery
  says of it. Only a power cut, a lost host or a failover takes anything away, and only what is named for it.
- Of a durable hold several ends may be told; one of them is booked.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NANOS_PER_TOKEN = 1000
"""The price of everything here."""

HEARD_US = 3_000_000
"""How long it may take until everybody has heard that there is more credit; longer where nobody can ask."""


@dataclass(slots=True)
class Request:
    """One hold, as its client and its operator know it. `recoveries`: since when it comes to what if its process dies."""

    account: int
    hold: int
    process: str
    host: str
    placed_us: int
    recoveries: list[tuple[int, int]]
    estimate: int = 0
    """What recovery would make of it if all of that were held."""
    exposed: int = 0
    """What it may cost beyond its hold, if it was held in part."""
    within: int = 0
    charge: int = 0
    """What it has cost at most, now that it has ended."""
    told_us: int = 0
    ended: bool = False
    durable: bool = False
    allowed: set[int | None] = field(default_factory=set)
    """What may be booked for it in the end; None: no row at all."""
    pots: tuple[Any, ...] = ()
    taken: dict[Any, tuple[int, int]] = field(default_factory=dict)
    """What it takes of limits beside credit."""
    ends: dict[str, tuple[int, int]] = field(default_factory=dict)
    """The ends of a durable hold: by host when, and what."""

    @property
    def recovery(self) -> int:
        return self.recoveries[-1][1]


@dataclass(slots=True)
class Pot:
    """What a limit lets through in one window. `within` is what counts against its cap, `charged` all that is charged."""

    measure: str
    cap: int
    within: int = 0
    charged: int = 0

    def share(self, request: Request, within: int, charge: int) -> tuple[int, int]:
        """What a request takes of it: within its hold, and in all."""
        if self.measure == "requests":
            count = int(not request.ended or None not in request.allowed)
            return count, count
        if self.measure == "concurrent":
            return int(not request.ended), 0
        if self.measure == "exposure":
            return 0 if request.ended else request.exposed, 0
        if self.measure == "tokens" and not request.ended:
            within += request.exposed  # of tokens all that it may come to is held
        unit = NANOS_PER_TOKEN if self.measure == "tokens" else 1
        return within // unit, charge // unit


@dataclass
class Auditor:
    """Watches; raises AssertionError."""

    requests: dict[Any, Request] = field(default_factory=dict)
    committed: Counter[int] = field(default_factory=Counter)
    caps: Counter[int] = field(default_factory=Counter)
    highest: Counter[int] = field(default_factory=Counter)
    excused: Counter[int] = field(default_factory=Counter)
    """What may have been lent twice, where a failover took leases back."""
    charged: Counter[int] = field(default_factory=Counter)
    """What ended holds have come to at most."""
    granted_us: Counter[int] = field(default_factory=Counter)
    pots: dict[Any, Pot] = field(default_factory=dict)
    """Limits beside credit, by limit and window."""
    lenient: bool = False
    """Whether something was lost that limits beside credit may have been lent twice for."""
    counts: Counter[str] = field(default_factory=Counter)

    # ── what is told ────────────────────────────────────────────────────────────────────────────────────────────────

    def cap(self, account: int, by: int, now_us: int) -> None:
        self.caps[account] += by
        if by > 0:
            self.granted_us[account] = now_us
        self.highest[account] = max(self.highest[account], self.caps[account])

    def placed(
        self, request_id: Any, account: int, hold: int, recovery: int, process: str, host: str, now_us: int,
        pots: tuple[Any, ...] = (), exposed: int = 0,
    ) -> None:  # fmt: skip
        assert request_id not in self.requests
        request = Request(account, hold, process, host, now_us, [(now_us, min(recovery, hold))], recovery, exposed)
        request.allowed = {request.recovery}
        request.told_us = now_us
        request.pots = pots
        self.requests[request_id] = request
        self.counts["placed"] += 1
        self._commit(request, hold)

    def extended(self, request_id: Any, hold: int, now_us: int) -> None:
        """More of it is held than before, and so less is exposed."""
        request = self.requests[request_id]
        assert not request.ended, "what has ended holds nothing"
        request.exposed -= hold - request.hold
        request.hold = hold
        request.recoveries.append((now_us, min(request.estimate, hold)))
        request.allowed = {request.recovery}
        request.told_us = now_us
        self.counts["extended"] += 1
        self._commit(request, hold)

    def progressed(self, request_id: Any, amount: int, now_us: int) -> None:
        request = self.requests[request_id]
        request.estimate = amount
        request.recoveries.append((now_us, min(amount, request.hold)))
        request.allowed = {request.recovery}
        request.told_us = now_us

    def refused_as_spent(self, account: int, amount: int, now_us: int) -> None:
        """Nobody is told that credit is spent which is merely held; of a grant everybody has heard after a while."""
        if now_us - self.granted_us[account] > HEARD_US:
            left = self.caps[account] - self.charged[account]
            assert amount > left, f"{amount} of account {account} are said to be spent, of which {left} are left"

    def ended(self, request_id: Any, amount: int, now_us: int, *, written: bool = True) -> None:
        request = self.requests[request_id]
        assert not request.ended, "a hold ends once"
        request.ended = True
        request.allowed = {amount} if written else {amount, request.recovery}
        request.told_us = now_us
        self.counts["ended"] += 1
        if amount > request.hold:
            self.counts["overrun"] += 1
        self._commit(request, min(amount, request.hold))

    def deferred(self, request_id: Any, now_us: int) -> None:
        request = self.requests[request_id]
        request.durable = request.ended = True
        request.allowed = {None}
        request.told_us = now_us
        self.counts["deferred"] += 1
        self._commit(request, request.within)

    def ended_durable(self, request_id: Any, amount: int, host: str, now_us: int) -> None:
        request = self.requests[request_id]
        request.ends[host] = (now_us, amount)
        request.allowed = {*request.allowed - {None}, amount}
        self._commit(request, min(amount, request.within))

    # ── what went wrong ─────────────────────────────────────────────────────────────────────────────────────────────

    def died(self, process: str) -> None:
        """A process was killed: what it had open is recovered, and no more than that is charged."""
        for request in self.requests.values():
            if request.process == process and not request.ended:
                request.ended = True
                self.counts["recovered"] += 1
                self._commit(request, request.recovery)

    def lost_power(self, host: str, safe_before_us: int) -> None:
        """What a host wrote down since an instant may be gone: endings, progress, the place itself."""
        for request in self.requests.values():
            if request.host == host and request.told_us >= safe_before_us:
                self.counts["unsafe"] += 1
                safe = [amount for since_us, amount in request.recoveries if since_us < safe_before_us]
                unsafe = [amount for since_us, amount in request.recoveries if since_us >= safe_before_us]
                request.allowed.update(safe[-1:] or [None], unsafe)
            if any(end_us >= safe_before_us for of, (end_us, _) in request.ends.items() if of == host):
                request.allowed.add(None)
            least = min(amount or 0 for amount in request.allowed)
            self._commit(request, min(request.within, least))

    def lost_host(self, host: str) -> None:
        """A host does not come back: what it had not settled is gone."""
        for request in self.requests.values():
            if request.host == host or host in request.ends:
                request.allowed.add(None)

    def _commit(self, request: Request, within: int) -> None:
        self.committed[request.account] += within - request.within
        request.within = within
        charge = max(amount or 0 for amount in request.allowed) if request.ended else 0
        self.charged[request.account] += charge - request.charge
        request.charge = charge
        for name in request.pots:
            self._take(name, request, within, charge)
        over = self.committed[request.account] - self.highest[request.account] - self.excused[request.account]
        assert over <= 0, f"account {request.account} is over-lent by {over}"

    def _take(self, name: Any, request: Request, within: int, charge: int) -> None:
        pot = self.pots[name]
        before, share = request.taken.get(name, (0, 0)), pot.share(request, within, charge)
        request.taken[name] = share
        pot.within += share[0] - before[0]
        pot.charged += share[1] - before[1]
        assert self.lenient or pot.within <= pot.cap, f"{name} has let through {pot.within} of {pot.cap} {pot.measure}"

    # ── the books ───────────────────────────────────────────────────────────────────────────────────────────────────

    def check_rows(self, booked: Mapping[Any, int]) -> None:
        """Each request's row is what it may be, and there is no other row."""
        for request_id, request in self.requests.items():
            amount = booked.get(request_id)
            assert amount in request.allowed, f"{request_id} is booked at {amount}, not at one of {request.allowed}"
        strangers = booked.keys() - self.requests.keys()
        assert not strangers, f"nobody was told of {strangers}"

    def spent(self, account: int, booked: Mapping[Any, int]) -> int:
        return sum(amount for request_id, amount in booked.items() if self.requests[request_id].account == account)
