"""Identity: from what a request carries to the principal that asks.

A bearer token is the admin token, a key, a user's token, or one of the OpenID provider that the configuration names.
Without one, a browser's cookie is looked at, and nothing else.
"""

import hmac
from dataclasses import replace
from typing import Final

from aiohttp import web

from meterproxy.control.access import reads_all
from meterproxy.control.openid import OpenId
from meterproxy.control.principal import ANONYMOUS, OPERATOR, Anonymous, Key, Membership, Principal, User
from meterproxy.control.tokens import PAGES, Tokens
from meterproxy.core.key import KEY_PREFIX, digest_of
from meterproxy.core.role import Role
from meterproxy.errors import ApiError, Case
from meterproxy.store.keys import Keys
from meterproxy.store.people import People, PersonRow

COOKIE: Final = "meterproxy_session"
LONGEST: Final = 16_384
"""Bytes of a token that is looked at: those of other issuers may name many groups."""


class Identity:
    """Knows who asks. The admin token is compared in constant time."""

    def __init__(
        self, admin_token: str, keys: Keys, people: People, tokens: Tokens, openid: OpenId | None = None
    ) -> None:
        self._admin_token = admin_token.encode()
        self._keys = keys
        self._people = people
        self._tokens = tokens
        self._openid = openid

    async def of(self, request: web.BaseRequest) -> Principal:
        """Who asks; whoever carries nothing is anonymous. Raises ApiError for what is carried and not valid."""
        if "Authorization" not in request.headers:
            return await self._visitor(request.cookies.get(COOKIE, ""))
        token = bearer(request)
        if hmac.compare_digest(token, self._admin_token):
            return OPERATOR
        if token.startswith(KEY_PREFIX.encode()):
            return await self._holder(token)
        return await self._user(token)

    def check_admin_token(self, request: web.BaseRequest) -> None:
        """Raises ApiError ADMIN_TOKEN_INVALID."""
        if not hmac.compare_digest(bearer(request), self._admin_token):
            raise ApiError(
                Case.ADMIN_TOKEN_INVALID, "This needs the admin token.", headers={"WWW-Authenticate": "Bearer"}
            )

    async def _holder(self, secret: bytes) -> Key:
        found = await self._keys.find(digest_of(secret))
        if found is None:
            raise ApiError(Case.KEY_INVALID, "This API key is not known here, or not any more.")
        row, policy = found.row, found.policy
        role = None if row["role"] is None else Role(row["role"])
        reads_usage = row["reads_usage"] and reads_all(role)
        return Key(row["id"], row["user_id"], row["organization_id"], row["account_id"], reads_usage, policy.networks)

    async def _visitor(self, token: str) -> User | Anonymous:
        """Who has this cookie; one that is over is as good as none."""
        claim = self._tokens.read(token, PAGES) if 0 < len(token) <= LONGEST else None
        person = None if claim is None else await self._people.read(claim.user_id, claim.login_id)
        return (
            ANONYMOUS
            if claim is None or person is None
            else replace(_user(person), csrf=self._tokens.csrf(claim.login_id))
        )

    async def _user(self, token: bytes) -> User:
        person = await self._person(token.decode("ascii", "replace")) if len(token) <= LONGEST else None
        if person is None:
            raise ApiError(Case.NOT_SIGNED_IN, "Sign in again.", headers={"WWW-Authenticate": "Bearer"})
        return _user(person)

    async def _person(self, token: str) -> PersonRow | None:
        claim = self._tokens.read(token)
        if claim is not None:
            return await self._people.read(claim.user_id, claim.login_id)
        return None if self._openid is None else await self._openid.person(token)


def bearer(request: web.BaseRequest) -> bytes:
    """The bearer token of a request, empty where it has none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip().encode("utf-8", "surrogateescape") if scheme.lower() == "bearer" else b""


def _user(person: PersonRow) -> User:
    places = [Membership(place.organization_id, place.account_id, place.role) for place in person.memberships]
    return User(
        person.id,
        person.name,
        person.email,
        person.login_id,
        person.organization_id,
        person.is_operator,
        {place.organization_id: place for place in places},
    )
