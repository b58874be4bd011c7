"""The fleet: the operator's endpoints for what holds for all workers, and for hosts."""

from dataclasses import asdict
from datetime import datetime
from typing import Final

from meterproxy.control import answers, bodies
from meterproxy.control.access import Permission
from meterproxy.control.answers import Answer, Nanos
from meterproxy.control.call import Call, Services
from meterproxy.control.route import Route


class Fleet(Answer):
    """What holds for all workers."""

    lending: bool
    read_only: bool
    shadow: bool
    paused_until: datetime | None


class Host(Answer):
    """A host of the fleet, and what is lent to its workers."""

    host: str
    drained_at: datetime | None
    workers: int
    trusted_until: datetime | None
    leased_nanos: Nanos


class Drained(Answer):
    """Whether a host serves."""

    host: str
    drained: bool


async def _read(on: Services, _call: Call) -> Fleet:
    return Fleet(**asdict(await on.fleet.read()))


async def _change(on: Services, call: Call) -> Fleet:
    changes = call.body_as(bodies.ChangedFleet).model_dump(exclude_none=True)
    return Fleet(**asdict(await on.fleet.change(changes)))


async def _list_hosts(on: Services, _call: Call) -> answers.Page[Host]:
    return answers.Page[Host](data=[Host(**asdict(host)) for host in await on.fleet.hosts()], next_cursor=None)


async def _change_host(on: Services, call: Call) -> Drained:
    host, drained = call.ids[0], call.body_as(bodies.ChangedHost).drained
    await (on.fleet.drain(host) if drained else on.fleet.undrain(host))
    return Drained(host=host, drained=drained)


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="GET",
        path="/admin/fleet",
        permission=Permission.ADMIN_TOKEN,
        endpoint=_read,
        summary="What holds for all workers",
        answer=Fleet,
    ),
    Route(
        method="PATCH",
        path="/admin/fleet",
        permission=Permission.ADMIN_TOKEN,
        endpoint=_change,
        summary="Stop or resume lending; read-only and shadow mode",
        body=bodies.ChangedFleet,
        answer=Fleet,
    ),
    Route(
        method="GET",
        path="/admin/hosts",
        permission=Permission.ADMIN_TOKEN,
        endpoint=_list_hosts,
        summary="Hosts that serve or are drained, by name",
        answer=answers.Page[Host],
    ),
    Route(
        method="PATCH",
        path="/admin/hosts/{id}",
        permission=Permission.ADMIN_TOKEN,
        endpoint=_change_host,
        summary="Drain a host, or let it serve again",
        body=bodies.ChangedHost,
        answer=Drained,
    ),
)
