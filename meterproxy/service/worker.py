"""The worker: one process that serves, from its socket to its journal.

It takes connections when its ledger has recovered and PostgreSQL trusts it. Where that takes long it takes them all the
same, answers health truthfully and everything else with 503.
On SIGTERM it stops accepting, lets running exchanges finish within `drain_seconds`, captures what is left as broken,
settles its journal to the end and gives its leases back. A second SIGTERM ends the wait for exchanges; so does, after a
moment, the death of the supervisor, whose successor wants this worker's journal. Where a successor serves already
(`LEAVE_SIGNAL`), connections go on until their next answer before all of that begins.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import uvloop

from meterproxy.config import Config
from meterproxy.core.lending import Change, Settling
from meterproxy.errors import ApiError, Case, JournalFailed, MeterproxyError, SessionOver, StoreUnavailable
from meterproxy.ledger.journal_files import JournalLocked
from meterproxy.ledger.worker import WorkerLedger
from meterproxy.proxy.brakes import Brakes
from meterproxy.proxy.client import Client, Room
from meterproxy.proxy.exchanges import Exchanges
from meterproxy.proxy.house import Ports
from meterproxy.proxy.server import Dispatch, HttpServer
from meterproxy.runtime import logs
from meterproxy.runtime.keeping import cancelled
from meterproxy.runtime.metrics import Metrics
from meterproxy.runtime.parent import call_process, on_parent_gone, say_failed, say_ready
from meterproxy.runtime.tasks import SideTasks
from meterproxy.runtime.tokenizer import TokenizerClient
from meterproxy.service import observe, providers
from meterproxy.service.braking import Braking
from meterproxy.service.catalog import catalog_of
from meterproxy.service.fitness import local_problems
from meterproxy.service.handover import LEAVE_SIGNAL, LINGER_SECONDS, Handover, listening_socket, take_over
from meterproxy.service.heirs import Heirs, inheriting
from meterproxy.service.idempotency import finish_telling, idempotency_rows, keep_reversed
from meterproxy.service.marking import Marking
from meterproxy.service.parts import Pools, api_of, exchanges_of, journal_of, ledger_of, mailer_of, poller_of
from meterproxy.service.refusing import Refusing
from meterproxy.service.serving import Serving
from meterproxy.service.siblings import Siblings, settle_now
from meterproxy.service.sweeper import Sweeper
from meterproxy.service.upkeep import keep_fleet_counted, keep_tidy
from meterproxy.store.directory import KeyDirectory
from meterproxy.store.limits import set_exposure
from meterproxy.store.lost import LostSessions
from meterproxy.store.notices import Notices
from meterproxy.store.refusals import Refusals
from meterproxy.store.upkeep import (
    living_workers,
    self_test,
)

T = TypeVar("T")

RETRY_SECONDS: Final = 1.0
COLLECTED_AT_ONCE: Final = 10_000
"""Objects made and still there before the youngest are looked through (Python's own default is 700)."""
STOP_SECONDS: Final = 10.0
ORPHAN_SECONDS: Final = 3.0
"""How long exchanges may go on after the supervisor was killed."""
ORPHAN_END_SECONDS: Final = 20.0
"""When an orphan that has not ended by itself leaves the rest to its journal: nobody is there to kill it."""
LOCKED_SECONDS: Final = 0.1
UNANSWERED_SECONDS: Final = 10.0
"""How long connections may wait in the socket's queue for a worker that starts, before they are told that it does."""
OTHERS_INTERVALS: Final = 2
"""Settle intervals after which a worker of another host has settled what it captured before."""
CLOSE_SECONDS: Final = 2.0
LETTERS_SECONDS: Final = 5.0
"""How long letters that were promised are waited for at least: most are sent within one."""
BACKLOG: Final = 1024
BODIES_BYTES: Final = 512 << 20
"""Memory that the bodies of all running requests may take together."""

_log: Final = logging.getLogger(__name__)


def main() -> int:
    """Run the worker that the supervisor asked for; answers the exit code."""
    try:
        handover = take_over()
        call_process(f"mp worker {handover.slot}")
        logs.set_up(handover.config.log.level, handover.config.log.format)
        uvloop.run(Worker(handover).run())
    except (MeterproxyError, OSError) as error:
        say_failed(f"a worker cannot run: {error}")
        _log.critical("the worker cannot run", extra={"error": str(error)})
        return 1
    return 0


def _spare_the_collector() -> None:
    """Keep Python's cycle collector from walking again and again over what was made at start and stays.

    Requests leave hardly any cycles behind, so it may come seldom too: together a tenth of a request's CPU.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECTED_AT_ONCE, 20, 50)


class Worker:
    """The composition root of one worker process."""

    def __init__(self, handover: Handover) -> None:
        self._handover = handover
        self._config: Config = handover.config
        self._metrics = Metrics()
        self._tasks = SideTasks()
        self._stopping = asyncio.Event()
        self._told_to_stop = asyncio.Event()
        self._leaving = False
        self._exchanges: Exchanges | None = None
        self._providers: providers.StoredProviders | None = None
        self._room = Room(BODIES_BYTES)
        self._counter = TokenizerClient(handover.run_dir / "tokenizer")
        self._siblings = Siblings(
            handover.run_dir,
            handover.slot,
            self._metrics,
            self._settle_own,
            lambda: living_workers(self._pool),
            OTHERS_INTERVALS * handover.config.settle.interval_ms / 1000,
        )
        self._brakes = Brakes()
        self._unfit: list[str] = ["the ledger has not been recovered yet"]

    async def run(self) -> None:
        """Serve until told to stop."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        loop.add_signal_handler(LEAVE_SIGNAL, self._leave)
        on_parent_gone(self._orphaned)
        self._pools = await Pools.opened(self._handover.dsn, pooled=self._handover.pooled)
        self._pool = self._pools.others
        self._serving = Serving(self._pool, self._siblings, self._unready, self._settle_own, self._config.markup_ppm)
        self._mailer = mailer_of(self._config, lambda outcome: self._metrics.letters.labels(outcome).inc())
        api, self._live = api_of(self._config, self._pools.people, self._serving.machine, self._mailer)
        if self._mailer is not None:
            self._tasks.start("letters", self._mailer.keep_sent)
        server = HttpServer(Dispatch(self._exchange, api.answer, api.admit))
        listening = listening_socket()
        starting = asyncio.create_task(self._start(), name="start")
        acceptor = None
        try:
            if not await self._first(starting, UNANSWERED_SECONDS) and not self._stopping.is_set():
                acceptor = await loop.create_server(server, sock=listening, backlog=BACKLOG)
            if await self._first(starting):
                acceptor = acceptor or await loop.create_server(server, sock=listening, backlog=BACKLOG)
                if say_ready():
                    await self._stopping.wait()
        finally:
            await cancelled([starting])
            if acceptor is not None:
                acceptor.close()
            await self._end(server)

    # ── the way up ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _first(self, starting: "asyncio.Task[None]", seconds: float | None = None) -> bool:
        """Wait for the start, so long or until the end begins; whether it came, and came first."""
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait((starting, stopping), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if starting.done():
            starting.result()
        return starting.done()

    async def _start(self) -> None:
        own = journal_of(self._handover)
        self._directory = KeyDirectory(self._pool)
        self._notices = Notices(self._handover.direct_dsn)
        self._heirs = Heirs(own.parent, own, inheriting(self._config, self._pool, self._metrics.settled))
        self._marking = Marking(self._pool)
        self._ledger = await self._own_ledger()
        self._ledger.observe = self._settled
        self._ledger.pause = self._notices.pause
        await self._siblings.answer()
        await self._until_available(self._ledger.start)
        if self._ledger.recovered:
            _log.warning("ended holds that a killed worker left open", extra={"holds": self._ledger.recovered})
        await self._until_available(lambda: set_exposure(self._pool, self._config.exposure_nanos))
        problems = await self._until_available(lambda: self_test(self._pool))
        self._unfit = problems + local_problems(self._config, self._ledger)
        for problem in self._unfit:
            _log.error("the worker is not ready: %s", problem)
        self._braking = Braking(self._pool, self._ledger, self._brakes, socket.gethostname())
        self._refusing = Refusing(Refusals(self._pool))
        self._ledger.holds.on_refused = self._refusing.refused
        self._start_tasks()
        await self._until_available(self._braking.look)
        self._metrics.before_scrape.append(
            observe.gauges_of(self._ledger, self._metrics, self._config.exchange.max_seconds)
        )
        exchanges = exchanges_of(self._config, self._ports(), self._room)
        router = exchanges.house.router
        rows = providers.provider_rows(self._config, self._pool)
        self._providers = providers.StoredProviders(rows, router.providers, router)
        await self._until_available(self._providers.look)
        self._tasks.start("providers", self._providers.keep_told)
        self._exchanges = exchanges
        self._serving.begin(exchanges)
        poller = poller_of(self._config, self._pool, self._ledger, self._exchanges)
        self._tasks.start("durable holds", poller.keep_polled)
        self._tasks.start("kept answers", self._exchanges.house.idempotency.keep_told)
        self._tasks.start("reversals", lambda: keep_reversed(self._pool))
        _spare_the_collector()

    async def _own_ledger(self) -> WorkerLedger:
        """The ledger, once nobody else owns its journal: a worker of a killed supervisor may take a moment to end."""
        told = False
        while True:
            try:
                return ledger_of(self._handover, self._pools, self._metrics, self._changed)
            except JournalLocked as error:
                self._unfit = [str(error)]
                if not told:
                    _log.warning("the worker waits", extra={"error": str(error)})
                    told = True
                await asyncio.sleep(LOCKED_SECONDS)

    async def _until_available(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do what needs PostgreSQL and the journal's volume, again and again until they are there."""
        while True:
            try:
                return await work()
            except (StoreUnavailable, JournalFailed) as error:
                self._unfit = [str(error)]
                _log.warning("the worker waits", extra={"error": str(error)})
                await asyncio.sleep(RETRY_SECONDS)

    def _start_tasks(self) -> None:
        ledger = self._ledger
        self._tasks.start("session", self._keep_session)
        self._tasks.start("journal sync", ledger.keep_synced)
        self._tasks.start("settle", ledger.keep_settled)
        self._tasks.start("news", ledger.keep_informed)
        self._tasks.start("notices", self._notices.keep_heard)
        self._tasks.start("brakes", self._braking.keep_told)
        self._tasks.start("crossings", self._marking.keep_marked)
        self._tasks.start("forecasts", self._marking.keep_foreseen)
        self._tasks.start("refusals", self._refusing.keep_noted)
        self._tasks.start("changed accounts", self._directory.keep_fresh)
        self._tasks.start("forgotten owners", ledger.owners.keep_heard)
        self._tasks.start("journal sweep", ledger.keep_swept)
        self._tasks.start("upkeep", lambda: keep_tidy(self._pool, self._config.usage.retention_days))
        self._tasks.start("fleet gauges", lambda: keep_fleet_counted(self._pool, self._metrics))
        self._tasks.start("heirs", self._heirs.keep_looking)
        lost, longest_seconds = LostSessions(self._pool), self._config.exchange.max_seconds
        sweeper = Sweeper(ledger.session, lost, longest_seconds, self._metrics.lost_lease_nanos)
        self._tasks.start("lost sessions", sweeper.keep_swept)

    async def _keep_session(self) -> None:
        """A session that somebody else has ended cannot be mended: end, and let the successor open its own."""
        try:
            await self._ledger.keep_session()
        except SessionOver as error:
            _log.error("the worker ends", extra={"error": str(error)})
            self._stopping.set()

    def _changed(self, change: Change | None) -> None:
        if change is None:
            self._directory.forget_all()
            self._heirs.look_again()
            self._braking.look_again()
            self._providers_changed()
        elif change.kind == "provider":
            self._providers_changed()
        elif change.kind == "key" and change.subject_id is not None:
            self._directory.key_changed(change.subject_id)
        elif change.kind == "fleet":
            self._braking.look_again()
        elif change.account_id is not None:
            self._directory.account_changed(change.account_id)

    def _providers_changed(self) -> None:
        if self._providers is not None:  # news may come before they were looked at for the first time
            self._providers.look_again()

    def _settled(self, endings: Sequence[Settling], seconds: float) -> None:
        self._metrics.settled(endings, seconds)
        self._marking.settled(endings)

    def _ports(self) -> Ports:
        ledger = self._ledger
        return Ports(
            ledger.clock,
            self._directory,
            ledger.holds,
            self._counter,
            catalog_of(self._config),
            self._metrics,
            ledger.owners,
            ledger.durable,
            idempotency_rows(self._config, self._pools.keyed, ledger.session.session_id),
            self._brakes,
        )

    # ── while it runs ───────────────────────────────────────────────────────────────────────────────────────────────

    def _exchange(self, client: Client) -> Awaitable[None]:
        return self._refuse(client) if self._exchanges is None else self._exchanges.run(client)

    async def _refuse(self, client: Client) -> None:
        client.closing = True
        client.refuse(ApiError(Case.UNAVAILABLE, f"The service is starting: {self._unfit[0]}."))

    def _unready(self) -> str | None:
        if self._stopping.is_set() and not self._leaving:  # who leaves has a successor on the same port
            return "the worker is shutting down"
        if self._unfit:
            return "; ".join(self._unfit)
        return self._ledger.ready or self._braking.unready

    async def _settle_own(self) -> None:
        if self._exchanges is not None:
            await settle_now(self._ledger)

    def _stop(self) -> None:
        """Begin the end; told again, hasten it."""
        if self._told_to_stop.is_set():
            self._cut_short()
        self._told_to_stop.set()
        self._stopping.set()

    def _leave(self) -> None:
        """Begin the end, and let the connections have their time: a successor serves all new ones."""
        self._leaving = True
        self._stopping.set()

    def _orphaned(self) -> None:
        """The supervisor is gone: nobody lingers, and its successor wants the journal."""
        self._told_to_stop.set()
        self._stopping.set()
        loop = asyncio.get_running_loop()
        loop.call_later(ORPHAN_SECONDS, self._cut_short)
        loop.call_later(ORPHAN_END_SECONDS, os._exit, 1)

    def _cut_short(self) -> None:
        if self._exchanges is not None:
            self._exchanges.cut_all_short(ApiError(Case.UNAVAILABLE, "The service is shutting down."))

    # ── the way down ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _end(self, server: HttpServer) -> None:
        self._live.close()
        if self._leaving:
            await self._linger(server)
        elif self._exchanges is not None:
            await self._siblings.ask_for_successor()
        server.drain()
        if self._exchanges is not None:
            letters = asyncio.create_task(self._finish_letters(), name="last letters")
            await self._exchanges.finish(self._config.drain_seconds)
            await letters
            await self._serving.finish()
            await finish_telling(self._exchanges.house.idempotency)
            await self._tasks.stop()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await self._ledger.stop()
            except (StoreUnavailable, TimeoutError) as error:
                _log.warning("the journal is left to the next start", extra={"error": str(error)})
            await self._exchanges.close()
            if self._providers is not None:
                await self._providers.close()
            await self._siblings.say_farewell()
        self._siblings.close()
        await self._counter.close()
        await server.shutdown(1.0)
        with contextlib.suppress(TimeoutError):  # cut short, closing becomes cutting connections
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.gather(*(pool.close() for pool in self._pools))

    async def _finish_letters(self) -> None:
        if self._mailer is not None:
            await self._mailer.finish(min(LETTERS_SECONDS, self._config.drain_seconds))

    async def _linger(self, server: HttpServer) -> None:
        """Let clients hear of the end with their next answer, unless everything is to end."""
        lingering = asyncio.create_task(server.linger(LINGER_SECONDS))
        hastened = asyncio.create_task(self._told_to_stop.wait())
        await asyncio.wait((lingering, hastened), return_when=asyncio.FIRST_COMPLETED)
        await cancelled([lingering, hastened])
