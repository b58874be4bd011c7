"""OpenID: tokens of another issuer, which introduce people to us.

Rules
-----
- RS256 and ES256 only: a token chooses among what we take, never the key's kind. `none` and secrets are refused.
- Issuer, audience, expiry and subject must be there and right. An e-mail address counts only where the issuer says that
  it has verified it.
"""

from typing import Any, Final

import jwt

from meterproxy.config.openid import OpenIdTerms
from meterproxy.control.key_set import KeySet
from meterproxy.core.record import bookable_text
from meterproxy.store.identities import Identities, Introduced
from meterproxy.store.people import PersonRow

ALGORITHMS: Final = frozenset({"RS256", "ES256"})
REQUIRED: Final = ["exp", "iss", "aud", "sub"]
LONGEST: Final = 200
LEEWAY_SECONDS: Final = 30
"""By how much the issuer's clock may differ from ours."""


class OpenId:
    """Knows people by tokens of one other issuer."""

    def __init__(self, terms: OpenIdTerms, keys: KeySet, identities: Identities) -> None:
        self._terms = terms
        self._keys = keys
        self._identities = identities

    @classmethod
    def of(cls, terms: OpenIdTerms, identities: Identities) -> "OpenId | None":
        """What the configuration says; None where it names no issuer."""
        return None if terms.issuer is None else cls(terms, KeySet(terms.issuer, terms.jwks_url), identities)

    async def person(self, token: str, audience: str | None = None, nonce: str | None = None) -> PersonRow | None:
        """Who has this token; None for one that proves nothing, or that is not for this audience and nonce.

        Raises:
            ApiError: PERMISSION_DENIED where he may not become a user, UNAVAILABLE where its issuer cannot be asked.
        """
        content = await self._verified(token, audience or self._terms.audience)
        if content is not None and audience is not None and not _is_for(content, audience, nonce):
            return None
        who = None if content is None else self._introduced(content)
        return None if who is None else await self._identities.person(who)

    async def _verified(self, token: str, audience: str | None) -> dict[str, Any] | None:
        try:
            header = jwt.get_unverified_header(token)
            algorithm, key_id = header.get("alg"), header.get("kid", "")
            if algorithm not in ALGORITHMS or not isinstance(key_id, str) or not self._is_of_issuer(token):
                return None
            key = await self._keys.find(key_id, algorithm)
            if key is None:
                return None
            return jwt.decode(
                token, key, algorithms=[algorithm], audience=audience, issuer=self._terms.issuer,
                leeway=LEEWAY_SECONDS, options={"require": REQUIRED},
            )  # fmt: skip
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
            return None

    def _is_of_issuer(self, token: str) -> bool:
        """Whether it says so; nobody else's token has keys fetched."""
        content = jwt.decode(token, options={"verify_signature": False})
        return content.get("iss") == self._terms.issuer

    def _introduced(self, content: dict[str, Any]) -> Introduced | None:
        subject, email = content["sub"], content.get(self._terms.email_claim)
        if not isinstance(subject, str) or not subject or bookable_text(subject) != subject:
            return None
        proved = content.get("email_verified") is True and isinstance(email, str) and "@" in email
        address = str(email) if proved and len(str(email)) <= 254 and bookable_text(str(email)) == email else None
        name = content.get(self._terms.name_claim)
        told = name if isinstance(name, str) and name.strip() else address or subject
        assert self._terms.issuer is not None, "there is an issuer where tokens are read"
        return Introduced(self._terms.issuer, subject, bookable_text(told, LONGEST), address)


def _is_for(content: dict[str, Any], client_id: str, nonce: str | None) -> bool:
    """Whether a token is for this client alone, or authorizes it, and answers what it asked."""
    several = isinstance(content["aud"], list) and len(content["aud"]) > 1
    return content.get("nonce") == nonce and content.get("azp", None if several else client_id) == client_id
