"""An API on real PostgreSQL, asked in process: what a client hears of it, and people to ask as."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import partial
from typing import Any, Literal
from uuid import UUID

import asyncpg
import orjson
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from meterproxy.config import Provider
from meterproxy.control.api import Api
from meterproxy.control.call import Machine, Services
from meterproxy.control.identity import Identity
from meterproxy.control.mailer import Mailer
from meterproxy.control.openid import OpenId
from meterproxy.control.passwords import Passwords
from meterproxy.control.routes import ROUTES
from meterproxy.control.sign_in import SignIn
from meterproxy.control.single_sign_on import SingleSignOn
from meterproxy.control.tokens import Tokens
from meterproxy.control.typesetter import Typesetter
from meterproxy.core.bound import ModelFacts
from meterproxy.core.logged import LoggedUsage
from meterproxy.core.price import Price, RateCard
from meterproxy.core.purchase import PurchaseTerms
from meterproxy.core.role import Role
from meterproxy.core.seal import Seal
from meterproxy.dashboard.live import Live
from meterproxy.dashboard.pages import told
from meterproxy.dashboard.routes import PAGES
from meterproxy.errors import ApiError, Case
from meterproxy.proxy.models import Offer
from meterproxy.store.accounts import Accounts
from meterproxy.store.activity import Activity
from meterproxy.store.audit import audit
from meterproxy.store.audit_log import AuditLog
from meterproxy.store.credit_marks import CreditMarks
from meterproxy.store.explain import explain
from meterproxy.store.fleet import Fleet
from meterproxy.store.identities import Identities
from meterproxy.store.keys import Keys
from meterproxy.store.limits import Limits
from meterproxy.store.logged import LoggedEvents
from meterproxy.store.lost import LostSessions
from meterproxy.store.members import Members
from meterproxy.store.notifications import Notifications
from meterproxy.store.people import People
from meterproxy.store.providers import PURPOSE, ProviderRows
from meterproxy.store.purchases import Purchases
from meterproxy.store.refusals import Refusals
from meterproxy.store.since import SpentSince
from meterproxy.store.teams import Teams
from meterproxy.store.usage import UsageFigures

ADMIN_TOKEN = "hush"
SECRET = "a secret that is long enough for the longest of the signatures that are tried"
PASSWORD = "correct horse battery"
TERMS = PurchaseTerms(instructions="Bank of Examples, account 42")


@dataclass
class Heard:
    """What came of a request: an answer, or a refusal."""

    status: int
    body: Any = None
    case: Case | None = None
    param: str | None = None
    message: str = ""
    headers: Any = None
    cookies: Any = None


def services_of(absent: Any, **there: Any) -> Services:
    """Services of which only those named are there; `absent` stands for the others."""
    return Services(**{one.name: absent for one in fields(Services) if one.default is MISSING} | there)


class Asking:
    """Somebody who asks an API."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        registration: Literal["open", "invitation", "closed"] = "open",
        openid: Callable[[Identities], OpenId | None] = lambda _identities: None,
        machine: Machine | None = None,
        public_url: str | None = None,
        single_sign_on: Callable[[OpenId], SingleSignOn] | None = None,
        configured: Mapping[str, Provider] | None = None,
        mailer: Mailer | None = None,
    ) -> None:
        accounts, keys = Accounts(pool), Keys(pool)
        self.pool = pool
        self.people, self.tokens = People(pool, accounts), Tokens(SECRET)
        self.passwords = Passwords(memory_kib=8, passes=1)
        members = Members(pool)
        sign_in = SignIn(self.people, members, self.passwords, self.tokens, registration)
        known = openid(Identities(pool, accounts, registration))
        services = Services(
            accounts, keys, Limits(pool), Teams(pool), Fleet(pool), self.people, members, sign_in, AuditLog(pool),
            Activity(pool), UsageFigures(pool), SpentSince(pool), Typesetter(), self.tokens, LostSessions(pool),
            LoggedEvents(pool), partial(audit, pool), ProviderRows(pool, Seal(bytes(32), PURPOSE)), Purchases(pool, TERMS),
            Notifications(pool), CreditMarks(pool), Refusals(pool),
            Live(accounts.look).watch, machine or machine_of(pool),
            None if single_sign_on is None or known is None else single_sign_on(known), mailer, configured or {},
        )  # fmt: skip
        identity = Identity(ADMIN_TOKEN, keys, self.people, self.tokens, known)
        self.api = Api(
            services, identity, (*ROUTES, *PAGES), open_metrics=False, public_url=public_url, on_page_error=told
        )

    async def __call__(
        self, method: str, path: str, body: Any = None, *, token: str | None = None, headers: Any = None
    ) -> Heard:
        headers = {**({} if token is None else {"Authorization": f"Bearer {token}"}), **(headers or {})}
        request = make_mocked_request(method, path, headers=headers)
        request._read_bytes = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
        try:
            answer = await self.api.answer(request)
        except ApiError as error:
            return Heard(error.status, None, error.case, error.param, error.message, error.headers)
        if not isinstance(answer, web.Response):
            return Heard(answer.status, headers=answer.headers)
        content = answer.body if isinstance(answer.body, bytes) else b""
        told = orjson.loads(content) if answer.content_type == "application/json" and content else content
        return Heard(answer.status, told, headers=answer.headers, cookies=answer.cookies)

    async def person(self, name: str) -> "Person":
        """Somebody who has registered and signed in."""
        email = f"{name}@example.com"
        made = await self("POST", "/api/auth/register", {"username": name, "email": email, "password": PASSWORD})
        assert made.status == 201, made
        signed = await self("POST", "/api/auth/login", {"email": email, "password": PASSWORD})
        token = signed.body["access_token"]
        (place,) = (await self("GET", "/api/auth/me", token=token)).body["organizations"]
        return Person(
            UUID(made.body["id"]), email, token, signed.body["renewal_token"],
            UUID(place["organization_id"]), UUID(place["account_id"]),
        )  # fmt: skip

    async def joins(self, person: "Person", organization_id: UUID, role: Role) -> None:
        """Make somebody a member of another organization."""
        await self.pool.execute(
            "INSERT INTO memberships (organization_id, user_id, role) VALUES ($1, $2, $3)",
            organization_id, person.id, role,
        )  # fmt: skip


@dataclass
class Person:
    id: UUID
    email: str
    token: str
    renewal: str
    organization_id: UUID
    account_id: UUID


def machine_of(pool: asyncpg.Pool) -> Machine:
    """What the API asks of its worker, without one: the books are real, and three models can be had."""

    async def explained(request_id: UUID) -> dict[str, Any]:
        return await explain(pool, request_id)

    return Machine(lambda: None, _metrics, _settled, explained, _offered, _exchanged, _logged, 2_000_000)


async def _metrics() -> tuple[bytes, str]:
    return b"x 1\n", "text/plain"


async def _settled() -> None:
    return None


async def _offered() -> list[Offer]:
    facts = ModelFacts(128_000, 16_384)
    dear = RateCard.written([(-1, {"input": 5_000_000_000, "output": 15_000_000_000})])
    free = RateCard.written([(-1, {"input": 0, "output": 0})])
    cheap = RateCard.written([(-1, {"input": 100_000_000, "output": 400_000_000})])
    return [
        Offer("dear", "openai", Price("openai", "dear", {"default": dear}), facts),
        Offer("cheap", "openai", Price("openai", "cheap", {"default": cheap}), facts),
        Offer("judge", "openai", Price("openai", "judge", {"default": free}), ModelFacts(32_768, 0, mode="moderation")),
    ]


async def _logged(_usage: LoggedUsage) -> None:
    return None


async def _exchanged(_request: web.BaseRequest, _secret: str, _body: bytes) -> None:
    return None
