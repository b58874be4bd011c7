"""The presenter: after PostgreSQL may have forgotten what it confirmed, tells it again what this session was lent.

A replica that was promoted, or a backup that was restored, may lack the last leases: it would lend the same money to
somebody else. So the database has a *life*, and when it is another database than it was, or a worker misses something
in it, a new life begins, in which nobody is lent to for one ttl. Whoever is alive has presented its leases by then: no
session is trusted for longer than a ttl without having renewed, and none is renewed in a life that it has not
presented to.

Rules
-----
- Presented is what was granted and returned, in all; what is less than PostgreSQL has changes nothing. It is drawn even
  above the cap: it may be spent already, and the books show it.
- What was consumed is not presented. The journal is read again, and the rows that are sent again consume.
- Nothing is settled before its session has presented, or its leases could not pay.
- Who comes when lending goes on already gives back first what it has free: others may have it by now.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from meterproxy.core.lending import SessionFacts
from meterproxy.errors import SessionOver
from meterproxy.ledger.lease import Borrower
from meterproxy.ledger.ports import SessionStore
from meterproxy.ledger.session import Session
from meterproxy.ledger.settle import Settler

_log: Final = logging.getLogger(__name__)


class Presenter:
    """Keeps one session known to whatever life PostgreSQL is in; `on_new_life` is told of each after the first."""

    def __init__(
        self,
        store: SessionStore,
        session: Session,
        facts: SessionFacts,
        borrower: Borrower,
        settler: Settler,
        on_new_life: Callable[[], None],
    ) -> None:
        self._store = store
        self._session = session
        self._facts = facts
        self._borrower = borrower
        self._settler = settler
        self._on_new_life = on_new_life
        self._presenting = asyncio.Lock()

    async def present(self, *, forgot: bool = False) -> None:
        """Meet the database, and present to it if it is in a life that does not know this session.

        `forgot`: this worker has found that something is missing in the life it knows.

        Raises:
            StoreUnavailable: it is to be tried again.
            SessionOver: somebody has ended this session.
        """
        known = self._session.life
        async with self._presenting:
            if self._session.life != known:
                return  # somebody has presented while this one waited
            met = await self._store.meet(known if forgot else None, self._session.ttl_seconds)
            if met.life == known:
                return
            totals = self._borrower.presented(give_back=not met.paused)
            try:
                forgotten = await self._store.present(self._facts, self._session.ttl_seconds, met.life, totals)
            except SessionOver:
                self._session.over = True
                raise
            self._session.life = met.life
            self._settler.doubt(met.life)
        _log.warning(
            "PostgreSQL may have forgotten what it confirmed: leases were presented, its journal is compared",
            extra={"leases": len(totals), "forgotten": forgotten, "lending_paused": met.paused},
        )
        self._on_new_life()
