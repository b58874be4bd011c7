"""Single sign-on: people who sign in on pages at an OpenID provider, by OpenID Connect's authorization code flow.

Rules
-----
- What is sent back must be what this browser began, within ten minutes: it keeps what was sent (state, nonce, the
  verifier of PKCE) in a cookie that we have signed, and another site's link cannot bring a code of somebody else's.
- The code is exchanged by us, at the address that the issuer publishes, and the token that comes of it is verified as
  any other of this issuer, for our client and this nonce. What it says is never taken from the browser.
- Nothing of it is kept here, so nobody can fill us up by beginning; only so many exchange a code at a time.

Source: OpenID Connect Core 1.0, section 3.1; RFC 7636 (PKCE, S256).
"""

import asyncio
import base64
import hashlib
import hmac
import secrets
import time
from typing import Any, Final, NamedTuple
from urllib.parse import quote_plus, urlencode, urlsplit

import aiohttp
import jwt

from meterproxy.config.openid import OpenIdTerms
from meterproxy.control.issuer import Issuer, read_object
from meterproxy.control.openid import OpenId
from meterproxy.errors import ApiError, Case
from meterproxy.store.people import PersonRow

AUDIENCE: Final = "meterproxy single sign-on"
ALGORITHM: Final = "HS256"
SECONDS: Final = 600
EXCHANGE_SECONDS: Final = 10.0
AT_ONCE: Final = 16
LONGEST: Final = 4096
"""Characters of a code, a state or a cookie."""
COOKIE_BYTES: Final = 3800
"""What a browser keeps of a cookie beside its name and attributes."""
SCOPE: Final = "openid profile email"


class Begun(NamedTuple):
    """Where the browser goes, and what it keeps until it comes back."""

    url: str
    kept: str


class Ended(NamedTuple):
    """Who has come back, and where he wanted to go."""

    person: PersonRow
    next: str


class SingleSignOn:
    """Signs people in at one OpenID provider. `secret` signs what browsers keep."""

    def __init__(self, terms: OpenIdTerms, issuer: Issuer, openid: OpenId, secret: str) -> None:
        assert terms.client_id is not None, "there is a client where people are sent to sign in"
        assert terms.issuer is not None, "and an issuer"
        self.name: Final = urlsplit(terms.issuer).hostname or terms.issuer
        """What people know the provider by."""
        self._client_id: Final = terms.client_id
        self._client_secret = terms.client_secret.get_secret_value() if terms.client_secret else None
        self._issuer = issuer
        self._openid = openid
        self._secret = secret
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def begin(self, back: str, next_: str) -> Begun:
        """Send a browser to the provider, which sends it to `back`. Raises ApiError UNAVAILABLE."""
        document = await self._issuer.document()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code", "client_id": self._client_id, "redirect_uri": back, "scope": SCOPE, "state": state,
            "nonce": nonce, "code_challenge": challenge, "code_challenge_method": "S256",
        }  # fmt: skip
        address = document.authorization_endpoint
        url = f"{address}{'&' if '?' in address else '?'}{urlencode(asked)}"
        kept = {"aud": AUDIENCE, "exp": int(time.time()) + SECONDS, "state": state, "nonce": nonce,
                "verifier": verifier, "back": back, "next": next_}  # fmt: skip
        signed = jwt.encode(kept, self._secret, ALGORITHM)
        if len(signed) > COOKIE_BYTES:  # of letters that take six or more each where they are kept
            signed = jwt.encode(kept | {"next": "/"}, self._secret, ALGORITHM)
        return Begun(url, signed)

    async def end(self, kept: str, state: str, code: str) -> Ended:
        """Who it is that has come back with a code; an empty one where the provider has refused.

        Raises:
            ApiError: MALFORMED where this browser has not begun that, or the provider does not vouch for anybody;
                PERMISSION_DENIED where he may not become a user; UNAVAILABLE, OVERLOADED.
        """
        begun = self._begun(kept)
        if begun is None or not hmac.compare_digest(state.encode(), begun["state"].encode()):
            raise ApiError(Case.MALFORMED, "This sign-in was not begun here, or too long ago. Please try again.")
        if not code:
            raise ApiError(Case.MALFORMED, "You were not signed in there. Please try again.")
        if self._turns.locked():
            raise ApiError(Case.OVERLOADED, "Too many people are signing in right now. Please try again.")
        async with self._turns:
            token = await self._exchanged(code, begun["verifier"], begun["back"])
        person = await self._openid.person(token, self._client_id, begun["nonce"])
        if person is None:
            raise ApiError(Case.MALFORMED, "The provider does not vouch for you, or you are suspended here.")
        return Ended(person, begun["next"])

    def _begun(self, kept: str) -> dict[str, str] | None:
        try:
            return jwt.decode(
                kept, self._secret, algorithms=[ALGORITHM], audience=AUDIENCE, options={"require": ["exp", "aud"]}
            )
        except (jwt.PyJWTError, ValueError, TypeError):
            return None

    async def _exchanged(self, code: str, verifier: str, back: str) -> str:
        """The identity token for a code. Raises ApiError UNAVAILABLE, MALFORMED."""
        url = (await self._issuer.document()).token_endpoint
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": back, "code_verifier": verifier}
        headers = {"Accept": "application/json"}
        if self._client_secret is None:
            form["client_id"] = self._client_id
        else:
            headers["Authorization"] = _basic(self._client_id, self._client_secret)
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(EXCHANGE_SECONDS)) as session,
                session.post(url, data=form, headers=headers, allow_redirects=False) as answer,
            ):
                told: dict[str, Any] = await read_object(answer)
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
            raise ApiError(Case.UNAVAILABLE, "The sign-in provider does not answer as it should right now.") from error
        token = told.get("id_token")
        if status != 200 or not isinstance(token, str):
            raise ApiError(Case.MALFORMED, "The provider does not take this sign-in. Please try again.")
        return token


def _basic(client_id: str, secret: str) -> str:
    """RFC 6749, section 2.3.1: both are encoded as in a form before they are joined."""
    joined = f"{quote_plus(client_id)}:{quote_plus(secret)}"
    return "Basic " + base64.b64encode(joined.encode()).decode()
