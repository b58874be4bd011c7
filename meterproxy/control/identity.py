"""Identity: from what a request carries to the principal that asks."""

import hmac

from aiohttp import web

from meterproxy.control.principal import ANONYMOUS, OPERATOR, Principal
from meterproxy.errors import ApiError, Case


class Identity:
    """Knows who asks. The admin token is compared in constant time."""

    def __init__(self, admin_token: str) -> None:
        self._admin_token = admin_token.encode()

    async def of(self, request: web.BaseRequest) -> Principal:
        """Who asks; whoever carries nothing is anonymous. Raises ApiError for what is carried and not valid."""
        if "Authorization" not in request.headers:
            return ANONYMOUS
        self.check_admin_token(request)
        return OPERATOR

    def check_admin_token(self, request: web.BaseRequest) -> None:
        """Raises ApiError ADMIN_TOKEN_INVALID."""
        if not hmac.compare_digest(bearer(request), self._admin_token):
            raise ApiError(
                Case.ADMIN_TOKEN_INVALID, "This needs the admin token.", headers={"WWW-Authenticate": "Bearer"}
            )


def bearer(request: web.BaseRequest) -> bytes:
    """The bearer token of a request, empty where it has none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip().encode("utf-8", "surrogateescape") if scheme.lower() == "bearer" else b""
