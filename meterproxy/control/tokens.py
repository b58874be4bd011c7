"""Tokens: what a signed-in user shows with each request, for a short while.

A JSON web token (HS256) that names its user and its log-in. It proves nothing by itself beyond that it was we who made
it: whether the log-in still stands is looked up with each request.
"""

import base64
import hmac
from typing import Final, NamedTuple
from uuid import UUID

import jwt

from meterproxy.core.key import KEY_PREFIX

ALGORITHM: Final = "HS256"
ISSUER: Final = "meterproxy"
AUDIENCE: Final = "meterproxy"
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

    def make(self, claim: Claim, now_seconds: int) -> str:
        """A token that is good for `ACCESS_SECONDS`."""
        content = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": str(claim.user_id),
            "sid": str(claim.login_id),
            "iat": now_seconds,
            "exp": now_seconds + ACCESS_SECONDS,
        }
        return jwt.encode(content, self._secret, ALGORITHM)

    def key_secret(self, key_id: UUID) -> str:
        """The secret of a key that nobody is told: it follows from the key's id and our own secret."""
        mac = hmac.digest(self._secret.encode(), b"chat key " + key_id.bytes, "sha256")
        return KEY_PREFIX + base64.urlsafe_b64encode(mac).rstrip(b"=").decode()

    def read(self, token: str) -> Claim | None:
        """What a token says that we have made, is for us and has not expired; None for every other."""
        try:
            content = jwt.decode(
                token, self._secret, algorithms=[ALGORITHM], audience=AUDIENCE, issuer=ISSUER,
                options={"require": REQUIRED},
            )  # fmt: skip
            return Claim(UUID(content["sub"]), UUID(content["sid"]))
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
            return None
