"""The poller: asks providers what became of durable holds, so that each ends whether or not its client comes back.

Rules
-----
- One worker in the fleet asks about a hold at a time: it takes what is due for a term, by a row that it moves on. What
  a dead worker had taken is due again when the term is over.
- The older a hold, the less often it is asked about. One that is older than anything may run is ended by the policy for
  holds whose worker died, and is never left for ever.
- That a resource is gone is believed when the provider has said so some times over a minute, not before: one 404 may be
  a replica that is behind, and what is booked stays booked.
- A provider that fails, is slow or says nothing of use is asked again later; nothing is charged for that.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final
from uuid import UUID

from meterproxy.core.hold import DueHold, DurableHold
from meterproxy.core.record import Ending
from meterproxy.errors import JournalFailed, MeterproxyError, StoreUnavailable
from meterproxy.ledger.clock import elapsed_us
from meterproxy.ledger.durable import DurableHolds
from meterproxy.ledger.ports import DurableStore
from meterproxy.ledger.recover import OpenHoldPolicy
from meterproxy.proxy.background import VANISHED, ask_provider
from meterproxy.proxy.ports import Clock
from meterproxy.proxy.route import Router
from meterproxy.proxy.turns import Turns

POLL_SECONDS: Final = 1.0
FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 60.0
PAUSE_SHARE: Final = 0.25
"""Of a hold's age: so much later its end is noticed at most, unless its client asks first."""
ASK_SECONDS: Final = 8.0
TERM_SECONDS: Final = 12.0
AT_ONCE: Final = 32
MOST_SECONDS: Final = 48 * 3600.0
"""When a durable hold is ended whatever its provider says. Batches, the longest that run, end within 24 hours."""

GONE_TIMES: Final = 3
GONE_SECONDS: Final = 60.0
"""How often, and for how long, a provider has to say that a resource does not exist until that is believed."""
GONE_REMEMBERED: Final = 4096

NOT_CONFIGURED: Final = "the provider of a durable hold is not configured any more"

Ask = Callable[[DurableHold], Awaitable[Ending | None]]
"""Asks a provider for the state of a hold's resource: how it ended, or None while it runs."""

_log: Final = logging.getLogger(__name__)


class Poller:
    """The part of one worker in it."""

    def __init__(self, rows: DurableStore, holds: DurableHolds, ask: Ask, policy: OpenHoldPolicy) -> None:
        self._rows = rows
        self._holds = holds
        self._ask = ask
        self._policy = policy
        self._gone: OrderedDict[UUID, tuple[int, int]] = OrderedDict()
        """How often a provider has not known these, and since when."""
        self._asking: set[asyncio.Task[None]] = set()

    async def keep_polled(self) -> None:
        """Take what is due, again and again."""
        try:
            while True:
                await asyncio.sleep(POLL_SECONDS)
                with suppress(StoreUnavailable):
                    await self.begin_all()
        finally:
            for task in self._asking:
                task.cancel()

    async def begin_all(self) -> None:
        """Begin to ask about all that is due, so many at a time. Raises StoreUnavailable."""
        while True:
            room = AT_ONCE - len(self._asking)
            if not room:
                await asyncio.wait(self._asking, return_when=asyncio.FIRST_COMPLETED)
            elif await self.begin() < room:
                return

    async def begin(self) -> int:
        """Begin to ask about what is due, as far as there is room; answers how many. Raises StoreUnavailable."""
        room = AT_ONCE - len(self._asking)
        due = await self._rows.take_due(room, TERM_SECONDS) if room else ()
        for hold in due:
            task = asyncio.create_task(self.poll(hold))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        return len(due)

    async def finish(self) -> None:
        """Wait until nothing is being asked."""
        while self._asking:
            await asyncio.wait(self._asking)

    async def poll(self, due: DueHold) -> None:
        """Ask about one hold and end it, or put it off."""
        try:
            ended = await self._end(due)
        except JournalFailed as error:
            _log.warning("a durable hold cannot be ended yet", extra={**_named(due), "error": str(error)})
            ended = False
        if not ended:
            with suppress(StoreUnavailable):
                await self._rows.put_off(due.hold, pause_seconds(due.age_seconds))

    async def _end(self, due: DueHold) -> bool:
        ending = await self._asked(due)
        if ending is None or not self._believed(due, ending):
            if due.age_seconds < MOST_SECONDS:
                return False
            _log.warning("nobody has seen the end of a durable hold", extra=_named(due))
            self._holds.expire(due.hold, self._policy)
        else:
            self._holds.end(due.hold, ending)
        return True

    def _believed(self, due: DueHold, ending: Ending) -> bool:
        """Whether an ending may be booked: that a resource is gone must have been heard some times, over a minute."""
        request_id = due.hold.subject.request_id
        if not set(VANISHED) & set(ending.flags):
            self._gone.pop(request_id, None)
            return True
        times, first_us = self._gone.pop(request_id, (0, elapsed_us()))
        if times + 1 >= GONE_TIMES and elapsed_us() - first_us >= GONE_SECONDS * 1_000_000:
            return True
        self._gone[request_id] = times + 1, first_us
        if len(self._gone) > GONE_REMEMBERED:
            self._gone.popitem(last=False)
        return False

    async def _asked(self, due: DueHold) -> Ending | None:
        try:
            async with asyncio.timeout(ASK_SECONDS):
                return await self._ask(due.hold)
        except Exception as error:  # noqa: BLE001  whatever goes wrong at a provider, it is asked again
            _log.info("a provider could not be asked", extra={**_named(due), "error": repr(error)})
            return None


def asking(router: Router, clock: Clock, turns: Turns) -> Ask:
    """How to ask the configured providers."""

    async def ask(hold: DurableHold) -> Ending | None:
        provider = router.named(hold.resource.provider)
        if provider is None:
            raise MeterproxyError(NOT_CONFIGURED)
        return await ask_provider(provider, hold.resource, hold, clock.now_us(), turns)

    return ask


def pause_seconds(age_seconds: float) -> float:
    """How long to leave a hold of this age alone."""
    return min(max(age_seconds * PAUSE_SHARE, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)


def _named(due: DueHold) -> dict[str, str]:
    return {"request_id": str(due.hold.subject.request_id), "provider": due.hold.resource.provider}
