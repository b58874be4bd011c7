"""The operator's API without a service: what depends on how it was built, and what a store that is away looks like."""

from typing import Any
from uuid import UUID

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from meterproxy.control.api import Api
from meterproxy.control.call import Machine
from meterproxy.control.identity import Identity
from meterproxy.control.routes import ROUTES
from meterproxy.errors import ApiError, Case, StoreUnavailable
from tests.control.asking import services_of

TOKEN = "hush"
ID = "0199e0a0-0000-7000-8000-000000000000"
LIMIT = b'{"scope": "account", "scope_id": "%s", "measure": "amount", "window": "day", "cap": "5.00"}' % ID.encode()


class Away:
    """A store that is away, whatever is asked of it."""

    def __getattr__(self, _name: str) -> Any:
        async def away(*_arguments: Any, **_options: Any) -> Any:
            raise StoreUnavailable("gone")

        return away


async def _explain(request_id: UUID) -> dict[str, Any]:
    raise StoreUnavailable("gone")


def api(*, unready: str | None = None, open_metrics: bool = True) -> Api:
    """An API whose store is away."""
    away: Any = Away()
    machine = Machine(lambda: unready, _metrics, away.settle, _explain, away, away, away)
    return Api(
        services_of(away, machine=machine),
        Identity(TOKEN, away, away, away),
        ROUTES,
        open_metrics=open_metrics,
    )


async def _metrics() -> tuple[bytes, str]:
    return b"x 1\n", "text/plain"


async def ask(asked: Api, method: str, path: str, *, token: str | None = None, body: bytes = b"") -> web.StreamResponse:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    request = make_mocked_request(method, path, headers=headers)
    request._read_bytes = body
    return await asked.answer(request)


async def test_metrics_beyond_loopback_want_the_token() -> None:
    """Where strangers could ask, metrics are the operator's; health and readiness stay open."""
    closed = api(open_metrics=False)
    with pytest.raises(ApiError) as refused:
        await ask(closed, "GET", "/metrics")
    assert refused.value.case is Case.ADMIN_TOKEN_INVALID
    assert (await ask(closed, "GET", "/metrics", token=TOKEN)).status == 200
    assert (await ask(closed, "GET", "/healthz")).status == 200
    assert (await ask(closed, "GET", "/readyz")).status == 200
    assert (await ask(api(), "GET", "/metrics")).status == 200


async def test_readiness_says_why_not() -> None:
    """503 and the reason; health is another matter."""
    unready = api(unready="the volume is full")
    answer = await ask(unready, "GET", "/readyz")
    assert isinstance(answer, web.Response)
    assert (answer.status, answer.body) == (503, b'{"status":"unready","reason":"the volume is full"}')
    assert (await ask(unready, "GET", "/healthz")).status == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/admin/accounts", b'{"name": "Acme"}'),
        ("GET", "/admin/accounts", b""),
        ("GET", f"/admin/accounts/{ID}", b""),
        ("POST", f"/admin/accounts/{ID}/credits", b'{"amount": "1", "kind": "grant"}'),
        ("GET", f"/admin/accounts/{ID}/transactions", b""),
        ("POST", "/admin/keys", b'{"account_id": "%s", "name": "k"}' % ID.encode()),
        ("GET", "/admin/keys", b""),
        ("DELETE", f"/admin/keys/{ID}", b""),
        ("PATCH", f"/admin/keys/{ID}", b'{"name": "k"}'),
        ("POST", "/admin/teams", b'{"account_id": "%s", "name": "t"}' % ID.encode()),
        ("GET", "/admin/teams", b""),
        ("POST", "/admin/limits", LIMIT),
        ("GET", "/admin/limits", b""),
        ("GET", f"/admin/limits/{ID}", b""),
        ("PATCH", f"/admin/limits/{ID}", b'{"cap": "1"}'),
        ("DELETE", f"/admin/limits/{ID}", b""),
        ("GET", f"/admin/limits/{ID}/status", b""),
        ("PATCH", f"/admin/accounts/{ID}", b'{"frozen": true}'),
        ("GET", "/admin/fleet", b""),
        ("PATCH", "/admin/fleet", b'{"lending": false}'),
        ("GET", "/admin/hosts", b""),
        ("PATCH", "/admin/hosts/a", b'{"drained": true}'),
        ("GET", f"/admin/usage/{ID}", b""),
    ],
)
async def test_a_store_that_is_away_is_a_503(method: str, path: str, body: bytes) -> None:
    """Never a 404, a 401 or a 500, for no endpoint."""
    with pytest.raises(ApiError) as refused:
        await ask(api(), method, path, token=TOKEN, body=body)
    assert refused.value.case is Case.UNAVAILABLE
    assert "gone" not in refused.value.message


@pytest.mark.parametrize(
    "authorization", [f"bearer {TOKEN}", f"Bearer  {TOKEN}", f"Basic {TOKEN}", TOKEN, "Bearer", "Bearer hush\xff"]
)
async def test_how_a_token_may_be_presented(authorization: str) -> None:
    """As a bearer's, in any case; odd bytes are a wrong token and no failure."""
    request = make_mocked_request("GET", "/metrics", headers={"Authorization": authorization})
    closed = api(open_metrics=False)
    if authorization.lower().split() == ["bearer", TOKEN]:
        assert (await closed.answer(request)).status == 200
        return
    with pytest.raises(ApiError) as refused:
        await closed.answer(request)
    assert refused.value.case is Case.ADMIN_TOKEN_INVALID
