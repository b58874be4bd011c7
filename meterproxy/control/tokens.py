"""Tokens: what a signed-in user shows with each request, for a short while.

A JSON web token (HS256) that names its user and its log-in. It proves nothing by itself beyond that it was we who made
it: whether the log-in still stands is looked up with each request.
"""

import base64
import hmac
import secrets
from typing import Final, NamedTuple
from uuid import UUID

import jwt

from meterproxy.core.key import KEY_PREFIX

ALGORITHM: Final = "HS256"
ISSUER: Final = "meterproxy"
AUDIENCE: Final = "meterproxy"
PAGES: Final = "meterproxy pages"
"""The audience of a token that a browser keeps as a cookie: none for an `Authorization` header, nor the other way."""
ACCESS_SECONDS: Final = 900
REQUIRED: Final = ["exp", "iat", "iss", "aud", "sub", "sid"]


class Claim(NamedTuple):
    """What a token says."""

    user_id: UUID
    login_id: UUID


class Tokens:
    """Makes tokens and reads them."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def make(self, claim: Claim, now_seconds: int, audience: str = AUDIENCE, good_seconds: int = ACCESS_SECONDS) -> str:
        """A token that is good for so long."""
        content = {
            "iss": ISSUER,
            "aud": audience,
            "sub": str(claim.user_id),
            "sid": str(claim.login_id),
            "iat": now_seconds,
            "exp": now_seconds + good_seconds,
        }
        return jwt.encode(content, self._secret, ALGORITHM)

    def key_secret(self, key_id: UUID) -> str:
        """The secret of a key that nobody is told: it follows from the key's id and our own secret."""
        mac = hmac.digest(self._secret.encode(), b"chat key " + key_id.bytes, "sha256")
        return KEY_PREFIX + base64.urlsafe_b64encode(mac).rstrip(b"=").decode()

    def csrf(self, login_id: UUID) -> str:
        """What a page of ours knows and no other site's does: it goes with whatever a browser sends by its cookie."""
        return hmac.digest(self._secret.encode(), b"csrf " + login_id.bytes, "sha256").hex()

    def renewal(self, login_id: UUID) -> str:
        """A secret that renews a log-in, and that can be told for one that did when it comes again."""
        told = f"{secrets.token_urlsafe(32)}.{login_id.hex}"
        return f"{told}.{self._renewal_mac(told)}"

    def renewed(self, renewal: str) -> UUID | None:
        """The log-in that we have made this secret for, whether it still renews it or not; None of every other."""
        told, _, mac = renewal.rpartition(".")
        if not hmac.compare_digest(mac.encode(), self._renewal_mac(told).encode()):
            return None
        return UUID(told.rpartition(".")[2])

    def _renewal_mac(self, told: str) -> str:
        return hmac.digest(self._secret.encode(), b"renewal " + told.encode(), "sha256").hex()

    def read(self, token: str, audience: str = AUDIENCE) -> Claim | None:
        """What a token says that we have made, is for this and has not expired; None for every other."""
        try:
            content = jwt.decode(
                token, self._secret, algorithms=[ALGORITHM], audience=audience, issuer=ISSUER,
                options={"require": REQUIRED},
            )  # fmt: skip
            return Claim(UUID(content["sub"]), UUID(content["sid"]))
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
            return None
