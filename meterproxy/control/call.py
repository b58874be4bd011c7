"""Calls: what an endpoint is given, one request and all that can be done."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar
from uuid import UUID

from aiohttp import web
from pydantic import BaseModel

from meterproxy.config import Provider as ConfiguredProvider
from meterproxy.control.access import Acting
from meterproxy.control.mailer import Mailer
from meterproxy.control.sign_in import SignIn
from meterproxy.control.single_sign_on import SingleSignOn
from meterproxy.control.tokens import Tokens
from meterproxy.control.typesetter import Typesetter
from meterproxy.core.logged import LoggedUsage
from meterproxy.errors import ApiError, Case
from meterproxy.proxy.models import Offer
from meterproxy.store.accounts import Accounts
from meterproxy.store.activity import Activity
from meterproxy.store.audit import InvariantResult
from meterproxy.store.audit_log import AuditLog
from meterproxy.store.credit_marks import CreditMarks
from meterproxy.store.fleet import Fleet
from meterproxy.store.keys import Keys
from meterproxy.store.limits import Limits
from meterproxy.store.logged import LoggedEvents
from meterproxy.store.lost import LostSessions
from meterproxy.store.members import Members
from meterproxy.store.notifications import Notifications
from meterproxy.store.people import People
from meterproxy.store.providers import ProviderRows
from meterproxy.store.purchases import Purchases
from meterproxy.store.refusals import Refusals
from meterproxy.store.since import SpentSince
from meterproxy.store.teams import Teams
from meterproxy.store.usage import UsageFigures
from meterproxy.store.whose import Whose

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Machine:
    """What the rest of the worker does for the API.

    Args:
        unready: says why the worker cannot serve, or None.
        settle_now: waits until what was captured before is settled.
        offers: the models that can be had, with their prices.
        exchange: has a request answered as a chat completion with this body, paid by the key with this secret.
        log: books usage that did not pass here. Raises ApiError or StoreUnavailable where nothing was booked.
        markup_ppm: what is charged for a cost of a million.
    """

    unready: Callable[[], str | None]
    metrics: Callable[[], Awaitable[tuple[bytes, str]]]
    settle_now: Callable[[], Awaitable[None]]
    explain: Callable[[UUID], Awaitable[dict[str, Any]]]
    offers: Callable[[], Awaitable[Sequence[Offer]]]
    exchange: Callable[[web.BaseRequest, str, bytes], Awaitable[None]]
    log: Callable[[LoggedUsage], Awaitable[None]]
    markup_ppm: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Services:
    """All that endpoints can have done."""

    accounts: Accounts
    keys: Keys
    limits: Limits
    teams: Teams
    fleet: Fleet
    people: People
    members: Members
    sign_in: SignIn
    audit_log: AuditLog
    activity: Activity
    usage: UsageFigures
    spent_since: SpentSince
    typesetter: Typesetter
    tokens: Tokens
    lost_sessions: LostSessions
    logged: LoggedEvents
    audit: Callable[[], Awaitable[Sequence[InvariantResult]]]
    providers: ProviderRows
    purchases: Purchases
    notifications: Notifications
    credit_marks: CreditMarks
    refusals: Refusals
    watch: Callable[[UUID, web.BaseRequest], Awaitable[web.StreamResponse]]
    machine: Machine
    single_sign_on: SingleSignOn | None = None
    mailer: Mailer | None = None
    configured: Mapping[str, ConfiguredProvider] = field(default_factory=dict)
    """Providers of the configuration by name, in its order."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as the endpoints see it.

    Args:
        ids: what stands in the path where its template has ids.
        query, body: as their route's models read them.
        acting: who asks, in the name of which organization, and whose rows he may see.
        request: for what answers by a stream of its own.
        address: where it comes from, as far as is known, and as attempts are counted (`origin.neighbourhood`).
        own_url: where people reach this service, without a slash at its end.
        form: the fields of what was sent to a page.
    """

    ids: tuple[str, ...]
    query: BaseModel
    body: BaseModel | None
    acting: Acting
    request: web.BaseRequest
    address: str = ""
    own_url: str = "http://localhost"
    form: Mapping[str, str] = field(default_factory=dict)

    def id(self, place: int = 0) -> UUID:
        """An id in the path. Raises ApiError NOT_FOUND where it is no id at all."""
        try:
            return UUID(self.ids[place])
        except ValueError as error:
            raise ApiError(Case.NOT_FOUND, "There is nothing under this id.") from error

    def asking(self, query: BaseModel | None = None, body: BaseModel | None = None, ids: tuple[str, ...] = ()) -> Self:
        """The same call as another endpoint wants it."""
        return replace(self, query=query or self.query, body=body or self.body, ids=ids or self.ids)

    def query_as(self, kind: type[T]) -> T:
        """The query, which its route has validated as this."""
        assert isinstance(self.query, kind)
        return self.query

    def body_as(self, kind: type[T]) -> T:
        """The body, which its route has validated as this."""
        assert isinstance(self.body, kind)
        return self.body

    @property
    def account_id(self) -> UUID:
        """The account that the call is about, where its permission is about an organization."""
        assert self.acting.account_id is not None
        return self.acting.account_id

    @property
    def organization_id(self) -> UUID:
        """The organization that the call is about, where its permission is about one."""
        assert self.acting.organization_id is not None
        return self.acting.organization_id

    def whose(self, user_id: UUID | None = None, key_id: UUID | None = None) -> Whose:
        """Whose rows are read: all that the caller may see, or of that one user's or key's.

        Raises:
            ApiError: NOT_FOUND for a user or key that the caller sees nothing of.
        """
        acting = self.acting
        for wanted, own in ((user_id, acting.user_id), (key_id, acting.key_id)):
            if wanted is not None and own is not None and wanted != own:
                raise ApiError(Case.NOT_FOUND, f"There is no {'user' if wanted is user_id else 'key'} {wanted}.")
        return Whose(self.account_id, acting.user_id or user_id, acting.key_id or key_id)
