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
from meterproxy.store.accounts import Accounts
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


class ExhibitThere(MeterproxyError):
    """The exhibit was made before."""


class Exhibit(NamedTuple):
    """What there is to look at: who can sign in, and that all of it is made up."""

    organization: str
    account_id: UUID
    sign_in: list[str]
    password: str
    requests: int


async def make_exhibit(pool: Pool, catalog: Catalog, rows: int = ROWS) -> Exhibit:
    """Make it. Raises ExhibitThere where it was made before, MeterproxyError where no model has a price."""
    accounts = Accounts(pool, ACTOR)
    if await accounts.find(ORGANIZATION) is not None:
        raise ExhibitThere(f"the organization {ORGANIZATION!r} is there already; sign in as {PEOPLE[0][1]}")
    now_us = time.time_ns() // 1000
    prices = [price for model in MODELS if (price := catalog.price(PRICES, model, now_us)) is not None]
    if not prices:
        raise MeterproxyError("none of the models that the usage would be made up of has a price")
    account = await accounts.create(ORGANIZATION)
    await accounts.credit(account.id, CREDIT_NANOS, "grant", "made-up credit", "exhibit")
    password = secrets.token_urlsafe(12)
    owner = await _people(pool, account.id, account.organization_id, password)
    spenders = await _spenders(pool, account.id, owner)
    records = list(invented(spenders, prices, now_us - DAYS * DAY_US, now_us, rows, seed=7))
    requests = await book_invented(Settlement(pool), records, prices)
    await _budgets(pool, account.id)
    return Exhibit(ORGANIZATION, account.id, [email for _, email, _ in PEOPLE], password, requests)


async def _people(pool: Pool, account_id: UUID, organization_id: UUID, password: str) -> list[UUID]:
    """People who can sign in; their ids, without those of whoever only looks."""
    accounts, people, members = Accounts(pool, ACTOR), People(pool, Accounts(pool, ACTOR)), Members(pool)
    hashed, spending = await Passwords().hash(password), []
    for name, email, role in PEOPLE:
        user = await accounts.create_user(account_id, name, email)
        await people.set_password(user.id, hashed, None)
        if role is not Role.MEMBER:
            await members.change(organization_id, user.id, role, by_owner=True)
        if role is not Role.VIEWER:
            spending.append(user.id)
    return spending


async def _spenders(pool: Pool, account_id: UUID, user_ids: list[UUID]) -> list[Spender]:
    teams, keys = Teams(pool, ACTOR), Keys(pool, ACTOR)
    ids = {name: (await teams.create(account_id, name)).id for name in {team for _, team in KEYS}}
    made = [
        await keys.create(account_id, name, user_id=user_ids[number % len(user_ids)], team_id=ids[team])
        for number, (name, team) in enumerate(KEYS)
    ]
    credit_limit_id = await keys.credit_limit(account_id)
    return [Spender(account_id, credit_limit_id, key.row.user_id, key.row.id) for key in made]


async def _budgets(pool: Pool, account_id: UUID) -> None:
    limits = Limits(pool, ACTOR)
    for name, window, cap_usd in (("Monthly ceiling", WindowKind.MONTH, 60), ("A day at most", WindowKind.DAY, 5)):
        terms = LimitTerms(measure=Measure.AMOUNT, window=window, cap=cap_usd * NANOS_PER_USD, name=name)
        await limits.create(Scope.ACCOUNT, account_id, terms, is_own=True)
