"""The fleet: the operator's endpoints for what holds for all workers, and for hosts."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Final

from aiohttp import web

from meterproxy.control import bodies
from meterproxy.control.answers import json_answer
from meterproxy.control.call import Call, Endpoint, Services


async def _read_fleet(on: Services, _call: Call) -> web.Response:
    return json_answer(asdict(await on.fleet.read()))


async def _change_fleet(on: Services, call: Call) -> web.Response:
    changes = bodies.read(bodies.ChangedFleet, call.body).model_dump(exclude_none=True)
    return json_answer(asdict(await on.fleet.change(changes)))


async def _list_hosts(on: Services, _call: Call) -> web.Response:
    return json_answer({"data": [asdict(host) for host in await on.fleet.hosts()], "next_cursor": None})


async def _change_host(on: Services, call: Call) -> web.Response:
    host, drained = call.ids[0], bodies.read(bodies.ChangedHost, call.body).drained
    await (on.fleet.drain(host) if drained else on.fleet.undrain(host))
    return json_answer({"host": host, "drained": drained})


ENDPOINTS: Final[tuple[tuple[str, Mapping[str, Endpoint]], ...]] = (
    ("/admin/fleet", {"GET": _read_fleet, "PATCH": _change_fleet}),
    ("/admin/hosts", {"GET": _list_hosts}),
    ("/admin/hosts/{id}", {"PATCH": _change_host}),
)
