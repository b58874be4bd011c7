"""Key sets: an issuer's public keys, fetched from where it publishes them.

Rules
-----
- One fetch at a time, bounded in time and bytes, without redirects. A failed one is not repeated for `RETRY_SECONDS`.
- Keys are kept for `KEPT_SECONDS`, while their issuer is away for `STALE_SECONDS`. Beyond that nobody is known: 503.
- Whoever comes with a known key while the set is fetched does not wait for that: a stranger may have it fetched.
- A key id that is not there has the set fetched anew, at most once in `UNKNOWN_SECONDS`: ids come from strangers.
- A key serves the algorithm that is its own: an RSA key RS256, one on P-256 ES256, and nothing else.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import aiohttp
import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from meterproxy.control.issuer import FETCH_SECONDS, address_in, discovered, fetched
from meterproxy.errors import ApiError, Case

KEPT_SECONDS: Final = 3600.0
STALE_SECONDS: Final = 86_400.0
UNKNOWN_SECONDS: Final = 60.0
RETRY_SECONDS: Final = 10.0
MOST_KEYS: Final = 100
SHORTEST_RSA_BITS: Final = 2048

PublicKey = RSAPublicKey | EllipticCurvePublicKey

_log: Final = logging.getLogger(__name__)
_NEVER: Final = float("-inf")


class KeySet:
    """The keys of one issuer, by id and algorithm.

    Args:
        url: where they are; None: as the issuer's discovery document says.
        clock: monotonic seconds.
    """

    def __init__(self, issuer: str, url: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._issuer = issuer
        self._url = url
        self._clock = clock
        self._keys: Mapping[tuple[str, str], PublicKey] = {}
        self._fetched = self._tried = self._sought = _NEVER
        self._turn = asyncio.Lock()

    async def find(self, key_id: str, algorithm: str) -> PublicKey | None:
        """The key that a token names; None where there is none. Raises ApiError UNAVAILABLE."""
        known = self._keys.get((key_id, algorithm))
        if known is not None and self._turn.locked() and self._clock() - self._fetched < STALE_SECONDS:
            return known
        async with self._turn:
            now = self._clock()
            if now - self._fetched >= KEPT_SECONDS:
                await self._fetch(now)
            elif (key_id, algorithm) not in self._keys and now - max(self._sought, self._fetched) >= UNKNOWN_SECONDS:
                self._sought = now
                await self._fetch(now)
            if now - self._fetched >= STALE_SECONDS:
                raise ApiError(Case.UNAVAILABLE, "The issuer of this token cannot be asked for its keys right now.")
            return self._keys.get((key_id, algorithm))

    async def _fetch(self, now: float) -> None:
        if now - self._tried < RETRY_SECONDS:
            return
        self._tried = now
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(FETCH_SECONDS)) as session:
                url = self._url or address_in(await discovered(session, self._issuer), "jwks_uri", self._issuer)
                self._keys = _keys_of(await fetched(session, url))
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
            _log.warning("the keys of an issuer cannot be fetched", extra={"issuer": self._issuer, "error": str(error)})
        else:
            self._fetched, self._tried = now, _NEVER


def _keys_of(document: dict[str, Any]) -> dict[tuple[str, str], PublicKey]:
    """The keys that sign by what we take; others, and what cannot be read, are left out."""
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise ValueError("there is no list of keys")  # noqa: TRY004  as all that is wrong with an answer
    keys: dict[tuple[str, str], PublicKey] = {}
    for entry in entries[:MOST_KEYS]:
        if isinstance(entry, dict) and (found := _key_of(entry)) is not None:
            algorithm, key = found
            keys.setdefault((str(entry.get("kid", "")), algorithm), key)
    return keys


def _key_of(entry: dict[str, Any]) -> tuple[str, PublicKey] | None:
    algorithm = {"RSA": "RS256", "EC": "ES256"}.get(str(entry.get("kty")))
    if algorithm is None or entry.get("alg", algorithm) != algorithm or entry.get("use", "sig") != "sig":
        return None
    try:
        key = jwt.PyJWK(entry, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if isinstance(key, RSAPublicKey):
        return (algorithm, key) if key.key_size >= SHORTEST_RSA_BITS else None
    return (algorithm, key) if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1) else None
