"""The exhibit: an organization with people, keys, budgets and a month of usage, all of it made up, to look around.

It is an organization beside others, whose name says what it is; its usage is booked like any other, so the
books balance.
"""

import secrets
import time
from typing import Final, NamedTuple
from uuid import UUID

from meterproxy.catalog.catalog import Catalog
from meterproxy.control.passwords import Passwords
from meterproxy.core.limit import Measure, Scope
from meterproxy.core.limit_terms import LimitTerms
from meterproxy.core.money import NANOS_PER_USD
from meterproxy.core.role import Role
from meterproxy.core.window import WindowKind
from meterproxy.errors import MeterproxyError
from meterproxy.service.invention import DAY_US, Spender, book_invented, invented
from meterproxy.store.accounts import AccountRow, Accounts
from meterproxy.store.audit_log import AuditFilter, AuditLog
from meterproxy.store.instants import to_datetime
from meterproxy.store.keys import Keys
from meterproxy.store.limits import Limits
from meterproxy.store.members import Members
from meterproxy.store.people import People
from meterproxy.store.pool import Pool
from meterproxy.store.settle import Settlement
from meterproxy.store.teams import Teams

ACTOR: Final = "demo"
ORGANIZATION: Final = "Acme (made up)"
PEOPLE: Final = (
    ("Ada Owner", "ada@acme.example", Role.OWNER),
    ("Ben Member", "ben@acme.example", Role.MEMBER),
    ("Cleo Viewer", "cleo@acme.example", Role.VIEWER),
)
KEYS: Final = (
    ("website", "Product"),
    ("help desk", "Product"),
    ("nightly reports", "Research"),
    ("experiments", "Research"),
)
MODELS: Final = ("gpt-4o-mini", "gpt-4.1-mini", "gpt-4o", "gpt-4.1", "text-embedding-3-small")
PRICES: Final = "openai"
DAYS: Final = 35
ROWS: Final = 12_000
CREDIT_NANOS: Final = 100 * NANOS_PER_USD
MOST: Final = 500
"""Of people, teams, keys and limits that are looked through for what is there already."""


class NotExhibit(MeterproxyError):
    """There is an organization of the exhibit's name that was not made for it."""


class Exhibit(NamedTuple):
    """What there is to look at: who can sign in, and that all of it is made up; `again`: it was there before."""

    organization: str
    account_id: UUID
    sign_in: list[str]
    password: str
    requests: int
    again: bool


async def make_exhibit(pool: Pool, catalog: Catalog, rows: int = ROWS) -> Exhibit:
    """Make it, or what an earlier call that was cut off has not made; its people get a new password in any case.

    Raises:
        NotExhibit: somebody else's organization has its name.
        MeterproxyError: no model has a price.
    """
    accounts = Accounts(pool, ACTOR)
    now_us = time.time_ns() // 1000
    prices = [price for model in MODELS if (price := catalog.price(PRICES, model, now_us)) is not None]
    if not prices:
        raise MeterproxyError("none of the models that the usage would be made up of has a price")
    own = await _own_account(pool)
    account_id = own or (await accounts.create(ORGANIZATION)).id
    begin_us = now_us - DAYS * DAY_US
    came_at = to_datetime(begin_us - begin_us % DAY_US)  # before anything is used, on the same day in statements
    await accounts.credit(account_id, CREDIT_NANOS, "grant", "made-up credit", "exhibit", came_at)
    account = await accounts.read(account_id)
    password = secrets.token_urlsafe(12)
    spending = await _people(pool, account, password)
    spenders = await _spenders(pool, account_id, spending)
    requests = 0
    if account.balance_nanos == account.credits_nanos:  # nothing was used yet
        records = list(invented(spenders, prices, begin_us, now_us, rows, seed=7))
        requests = await book_invented(Settlement(pool), records, prices)
    await _budgets(pool, account_id)
    return Exhibit(ORGANIZATION, account_id, [email for _, email, _ in PEOPLE], password, requests, own is not None)


async def _own_account(pool: Pool) -> UUID | None:
    """The account that an earlier call has made. Raises NotExhibit."""
    account_id = await Accounts(pool).find(ORGANIZATION)
    if account_id is None:
        return None
    if not await AuditLog(pool).list(AuditFilter(ACTOR, "account.create", account_id), None, 1):
        raise NotExhibit(f"there is an organization {ORGANIZATION!r} that was not made by this command")
    return account_id


async def _people(pool: Pool, account: AccountRow, password: str) -> list[UUID]:
    """People who can sign in; the ids of those who use anything."""
    accounts, people, members = Accounts(pool, ACTOR), People(pool, Accounts(pool, ACTOR)), Members(pool)
    there = {member.email: member.id for member in await members.list(account.organization_id, None, MOST)}
    hashed, spending = await Passwords().hash(password), []
    for name, email, role in PEOPLE:
        user_id = there.get(email) or (await accounts.create_user(account.id, name, email)).id
        await people.set_password(user_id, hashed)
        if email not in there and role is not Role.MEMBER:
            await members.change(account.organization_id, user_id, role, by_owner=True)
        if role is not Role.VIEWER:
            spending.append(user_id)
    return spending


async def _spenders(pool: Pool, account_id: UUID, user_ids: list[UUID]) -> list[Spender]:
    teams, keys = Teams(pool, ACTOR), Keys(pool, ACTOR)
    teams_there = {team.name: team.id for team in await teams.list(account_id, None, MOST)}
    keys_there = {key.name: key for key in await keys.list(account_id, None, MOST)}
    made = []
    for number, (name, team) in enumerate(KEYS):
        if team not in teams_there:
            teams_there[team] = (await teams.create(account_id, team)).id
        user_id = user_ids[number % len(user_ids)]
        made.append(
            keys_there.get(name)
            or (await keys.create(account_id, name, user_id=user_id, team_id=teams_there[team])).row
        )
    credit_limit_id = await keys.credit_limit(account_id)
    return [Spender(account_id, credit_limit_id, key.user_id, key.id) for key in made]


async def _budgets(pool: Pool, account_id: UUID) -> None:
    limits = Limits(pool, ACTOR)
    there = {row.name for row in await limits.list(account_id, None, None, MOST)}
    for name, window, cap_usd in (("Monthly ceiling", WindowKind.MONTH, 60), ("A day at most", WindowKind.DAY, 5)):
        if name not in there:
            terms = LimitTerms(measure=Measure.AMOUNT, window=window, cap=cap_usd * NANOS_PER_USD, name=name)
            await limits.create(Scope.ACCOUNT, account_id, terms, is_own=True)
