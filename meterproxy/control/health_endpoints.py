"""Health: whether the worker lives and can serve, its metrics, and one exchange explained."""

from typing import Any, Final

from aiohttp import web
from pydantic import ConfigDict

from meterproxy.control.access import Permission
from meterproxy.control.answers import Answer, json_answer
from meterproxy.control.call import Call, Services
from meterproxy.control.route import Route
from meterproxy.errors import Case


class Health(Answer):
    """Whether this worker lives."""

    status: str


class Readiness(Answer):
    """Whether this worker can serve; where it cannot, why."""

    status: str
    reason: str | None = None


class Explanation(Answer):
    """One exchange: bound, limits drawn from, arithmetic of its price, journal position, ledger entries."""

    model_config = ConfigDict(extra="allow")


async def _healthz(_on: Services, _call: Call) -> Health:
    return Health(status="ok")


async def _readyz(on: Services, _call: Call) -> web.Response:
    reason = on.machine.unready()
    if reason is None:
        return json_answer({"status": "ready"})
    return json_answer({"status": "unready", "reason": reason}, 503)


async def _metrics(on: Services, _call: Call) -> web.Response:
    body, content_type = await on.machine.metrics()
    return web.Response(body=body, headers={"Content-Type": content_type})


async def _explain(on: Services, call: Call) -> web.Response:
    told: dict[str, Any] = await on.machine.explain(call.id())
    return json_answer(told)


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="GET",
        path="/healthz",
        permission=Permission.OPEN,
        endpoint=_healthz,
        summary="Whether this worker lives",
        answer=Health,
    ),
    Route(
        method="GET",
        path="/readyz",
        permission=Permission.OPEN,
        endpoint=_readyz,
        summary="Whether this worker can serve",
        answer=Readiness,
        refusals=(Case.UNAVAILABLE,),
    ),
    Route(
        method="GET",
        path="/metrics",
        permission=Permission.ADMIN_TOKEN,
        endpoint=_metrics,
        summary="Figures for Prometheus; on loopback without the token",
        media=("text/plain",),
    ),
    Route(
        method="GET",
        path="/admin/usage/{id}",
        permission=Permission.ADMIN_TOKEN,
        endpoint=_explain,
        summary="One exchange explained",
        answer=Explanation,
    ),
)
