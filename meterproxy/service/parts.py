"""Parts of a worker, each built from the configuration and from what it stands on."""

import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, Self

from meterproxy.config import Config
from meterproxy.control.api import Api
from meterproxy.control.call import Machine, Services
from meterproxy.control.identity import Identity
from meterproxy.control.issuer import Issuer
from meterproxy.control.mailer import Mailer
from meterproxy.control.openid import OpenId
from meterproxy.control.passwords import Passwords
from meterproxy.control.routes import ROUTES
from meterproxy.control.sign_in import SignIn
from meterproxy.control.single_sign_on import SingleSignOn
from meterproxy.control.tokens import Tokens
from meterproxy.control.typesetter import Typesetter
from meterproxy.core.lending import Change
from meterproxy.dashboard.live import Live
from meterproxy.dashboard.pages import told
from meterproxy.dashboard.routes import PAGES
from meterproxy.ledger.recover import OpenHoldPolicy
from meterproxy.ledger.worker import WorkerLedger
from meterproxy.proxy.client import Room
from meterproxy.proxy.exchanges import Exchanges
from meterproxy.proxy.house import Ports
from meterproxy.proxy.settings import ExchangeSettings
from meterproxy.runtime.metrics import Metrics
from meterproxy.service import observe, providers
from meterproxy.service.handover import Handover
from meterproxy.service.poller import Poller, asking
from meterproxy.store.accounts import Accounts
from meterproxy.store.activity import Activity
from meterproxy.store.audit import audit
from meterproxy.store.audit_log import AuditLog
from meterproxy.store.credit_marks import CreditMarks
from meterproxy.store.durable import DurableRows
from meterproxy.store.fleet import Fleet
from meterproxy.store.identities import Identities
from meterproxy.store.keys import Keys
from meterproxy.store.limits import Limits
from meterproxy.store.logged import LoggedEvents
from meterproxy.store.lost import LostSessions
from meterproxy.store.members import Members
from meterproxy.store.notifications import Notifications
from meterproxy.store.owners import OwnerRows
from meterproxy.store.people import People
from meterproxy.store.pool import Pool, open_pool
from meterproxy.store.purchases import Purchases
from meterproxy.store.refusals import Refusals
from meterproxy.store.settle import Settlement
from meterproxy.store.since import SpentSince
from meterproxy.store.teams import Teams
from meterproxy.store.usage import UsageFigures

LEDGER_CONNECTIONS: Final = 4
"""For renewals, borrowing, settling and news, which wait for nobody else."""
OTHER_CONNECTIONS: Final = 6
"""For look-ups of keys (three at a time), of owners (one), for polling and upkeep."""
KEY_CONNECTIONS: Final = 4
"""For requests with an `Idempotency-Key`, however many there are; none is opened where nobody sends one."""
PEOPLE_CONNECTIONS: Final = 4
"""For the API and the pages, whose reading may take longer than a request could wait."""


class Pools(NamedTuple):
    """A worker's connections to PostgreSQL, apart by who must not wait for whom."""

    others: Pool
    ledger: Pool
    keyed: Pool
    people: Pool

    @classmethod
    async def opened(cls, dsn: str, *, pooled: bool) -> Self:
        """Open them; connections are made when they are needed."""
        sizes = (OTHER_CONNECTIONS, LEDGER_CONNECTIONS, KEY_CONNECTIONS, PEOPLE_CONNECTIONS)
        return cls(*[await open_pool(dsn, pooled=pooled, size=size) for size in sizes])


def journal_of(handover: Handover) -> Path:
    """Where a slot's journal is."""
    return handover.config.data_dir / "journals" / f"slot-{handover.slot}"


def ledger_of(
    handover: Handover, pools: Pools, metrics: Metrics, on_change: Callable[[Change | None], None]
) -> WorkerLedger:
    """The ledger of a slot. Raises JournalLocked where its journal still has another owner."""
    config = handover.config
    sessions = observe.CountedSessions(pools.ledger)
    sessions.metrics = metrics
    return WorkerLedger(
        sessions,
        Settlement(pools.ledger),
        journal_of(handover),
        owner_rows=OwnerRows(pools.others),
        durable_rows=DurableRows(pools.others),
        host=socket.gethostname(),
        slot=handover.slot,
        ttl_seconds=config.lease.ttl_seconds,
        wait_ms=config.hold.wait_ms,
        settle_interval_ms=config.settle.interval_ms,
        fsync_ms=config.journal.fsync_ms,
        segment_bytes=config.journal.segment_bytes,
        max_bytes=config.journal.max_bytes,
        retain_seconds=config.journal.retain_hours * 3600,
        open_hold=OpenHoldPolicy(config.recovery.open_hold),
        on_change=on_change,
    )


def exchanges_of(config: Config, ports: Ports, room: Room) -> Exchanges:
    """What answers the data plane."""
    settings = ExchangeSettings(
        trusted_proxies=config.trusted_proxies,
        max_body_bytes=config.max_body_bytes,
        markup_ppm=config.markup_ppm,
        unpriced=config.unpriced,
        out_of_credit_status=config.out_of_credit_status,
        on_disconnect=config.on_disconnect,
        hold_max_share_ppm=config.hold.max_share_ppm,
        adaptive=config.exposure_nanos is not None,
        max_seconds=config.exchange.max_seconds,
        keepalive_seconds=config.stream.keepalive_seconds,
    )
    return Exchanges(settings, ports, providers.build(config), room)


def poller_of(config: Config, pool: Pool, ledger: WorkerLedger, exchanges: Exchanges) -> Poller:
    """What asks providers about durable holds."""
    ask = asking(exchanges.house.router, ledger.clock, exchanges.house.turns)
    return Poller(DurableRows(pool), ledger.durable, ask, OpenHoldPolicy(config.recovery.open_hold))


def _single_sign_on(config: Config, openid: OpenId | None, secret: str) -> SingleSignOn | None:
    """How people sign in elsewhere, where the configuration names a client of theirs."""
    terms = config.openid
    if openid is None or terms.issuer is None or terms.client_id is None:
        return None
    return SingleSignOn(terms, Issuer(terms.issuer), openid, secret)


def mailer_of(config: Config, count: Callable[[str], None]) -> Mailer | None:
    """What sends letters, where the configuration names a server for them."""
    if config.mail.host is None or config.public_url is None:
        return None
    return Mailer(config.mail, config.public_url, count)


def api_of(config: Config, pool: Pool, machine: Machine, mailer: Mailer | None) -> tuple[Api, Live]:
    """What answers everything outside of the data plane, and what tells open pages of changes."""
    token, secret = config.admin_token, config.jwt_secret
    assert token is not None, "the supervisor has made what was not set"
    assert secret is not None, "the supervisor has made what was not set"
    accounts = Accounts(pool, new_limits=config.limits.of_accounts, exposure_nanos=config.exposure_nanos)
    keys = Keys(pool, new_limits=config.limits.of_keys)
    people, members, live = People(pool, accounts), Members(pool), Live(accounts.look)
    tokens = Tokens(secret.get_secret_value())
    openid = OpenId.of(config.openid, Identities(pool, accounts, config.registration))
    services = Services(
        accounts,
        keys,
        Limits(pool),
        Teams(pool),
        Fleet(pool),
        people,
        members,
        SignIn(people, members, Passwords(), tokens, config.registration),
        AuditLog(pool),
        Activity(pool),
        UsageFigures(pool),
        SpentSince(pool),
        Typesetter(),
        tokens,
        LostSessions(pool),
        LoggedEvents(pool),
        partial(audit, pool),
        providers.provider_rows(config, pool),
        Purchases(pool, config.billing.purchase.terms),
        Notifications(pool),
        CreditMarks(pool),
        Refusals(pool),
        live.watch,
        machine,
        _single_sign_on(config, openid, secret.get_secret_value()),
        mailer,
        config.providers,
    )
    api = Api(
        services,
        Identity(token.get_secret_value(), keys, people, tokens, openid),
        (*ROUTES, *PAGES),
        open_metrics=config.listen.is_loopback,
        trusted_proxies=config.trusted_proxies,
        public_url=config.public_url,
        on_page_error=told,
    )
    return api, live
