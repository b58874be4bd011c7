"""Authenticate: from the secret that a client presents to the key it acts with.

Rules
-----
- A secret is hashed before anything looks it up, and neither logged nor echoed.
- Trouble with our own database is never a 401.
- What a key may do is checked on every request: its expiry against the clock, its policy against what is asked.
"""

from fnmatch import fnmatchcase
from typing import Final

from multidict import MultiMapping

from meterproxy.core.key import KEY_PREFIX, KeyEntry, digest_of
from meterproxy.errors import ApiError, Case, StoreUnavailable
from meterproxy.proxy.client import Client
from meterproxy.proxy.endpoints import Endpoint, Way
from meterproxy.proxy.origin import Networks, is_within, origin
from meterproxy.proxy.ports import Clock, Directory
from meterproxy.proxy.request_head import RequestHead

SECRET_LENGTH: Final = 256

_MISSING: Final = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY)."
)
_INVALID: Final = "Incorrect API key provided."


def known_key(head: RequestHead, directory: Directory, clock: Clock) -> KeyEntry | None:
    """The live key that a request presents, as far as memory knows; None where `find_key` must be asked.

    Raises:
        ApiError: KEY_MISSING, KEY_INVALID (unknown, revoked, expired).
    """
    key = directory.known(_digest(head))
    return None if key is True else live_key(key, clock)


async def find_key(head: RequestHead, directory: Directory, clock: Clock) -> KeyEntry:
    """The live key that a request presents, looked up in PostgreSQL.

    Raises:
        ApiError: KEY_INVALID, UNAVAILABLE where PostgreSQL cannot be asked.
    """
    try:
        return live_key(await directory.find(_digest(head)), clock)
    except StoreUnavailable:
        raise ApiError(Case.UNAVAILABLE, "The API key cannot be checked right now. Please try again.") from None


def live_key(key: KeyEntry | bool | None, clock: Clock) -> KeyEntry:
    """What was found, if it is a key that has not expired. Raises ApiError KEY_INVALID."""
    if not isinstance(key, KeyEntry) or (key.expires_us is not None and clock.now_us() >= key.expires_us):
        raise ApiError(Case.KEY_INVALID, _INVALID)
    return key


def _digest(head: RequestHead) -> bytes:
    """The digest of the presented secret, kept with the head it came in."""
    if head.digest is None:
        secret = _presented(head.headers)
        if not secret:
            raise ApiError(Case.KEY_MISSING, _MISSING)
        if not secret.startswith(KEY_PREFIX) or len(secret) > SECRET_LENGTH or not secret.isascii():
            raise ApiError(Case.KEY_INVALID, _INVALID)
        head.digest = digest_of(secret.encode())
    return head.digest


def _presented(headers: MultiMapping[str]) -> str:
    """The secret of the one bearer token, or else of `x-api-key`: something on the way may have a use for the rest."""
    scheme, _, secret = _only(headers, "Authorization").partition(" ")
    if scheme.lower() != "bearer":
        return _only(headers, "x-api-key").strip()
    return secret.strip()


def _only(headers: MultiMapping[str], name: str) -> str:
    """A header that may be repeated but not say two things."""
    values = headers.getall(name, ())
    if len(values) > 1 and len(set(values)) > 1:
        raise ApiError(Case.KEY_INVALID, _INVALID)
    return values[0] if values else ""


def permit(key: KeyEntry, endpoint: Endpoint, client: Client, trusted: Networks = ()) -> None:
    """Check what a key may do before its request is read; what we answer ourselves is no operation.

    `trusted` are networks of proxies whose word is taken for where a request comes from.

    Raises:
        ApiError: PERMISSION_DENIED for an operation or an address outside of the key's policy.
    """
    policy = key.policy
    if policy.operations is not None and endpoint.way is not Way.OURS and endpoint.operation not in policy.operations:
        raise ApiError(Case.PERMISSION_DENIED, f"This API key may not be used for '{endpoint.operation}'.")
    if policy.networks is not None and not is_within(origin(client.peer, client.headers, trusted), policy.networks):
        raise ApiError(Case.PERMISSION_DENIED, "This API key may not be used from this address.")


def may_use_model(key: KeyEntry, model: str) -> bool:
    """Whether the key's policy names this model."""
    globs = key.policy.models
    return globs is None or any(fnmatchcase(model, glob) for glob in globs)
