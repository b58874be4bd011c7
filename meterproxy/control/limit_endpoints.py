"""Limits: the operator's endpoints for budgets and rate limits."""

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from meterproxy.control import answers, bodies, limit_answers, limit_bodies
from meterproxy.control.answers import json_answer
from meterproxy.control.call import Call, Endpoint, Services


async def _create(on: Services, call: Call) -> web.Response:
    new = bodies.read(limit_bodies.NewLimit, call.body)
    return json_answer(limit_answers.limit(await on.limits.create(*new.whose, new.terms(), seed=new.seed)), 201)


async def _list(on: Services, call: Call) -> web.Response:
    rows = await on.limits.list(
        call.id_in_query("account_id"),
        call.id_in_query("scope_id"),
        call.id_in_query("cursor"),
        call.limit() + 1,
        retired=call.query.get("retired") == "1",
    )
    return json_answer(answers.page([limit_answers.limit(row) for row in rows], call.limit(), "id"))


async def _read(on: Services, call: Call) -> web.Response:
    return json_answer(limit_answers.limit(await on.limits.read(call.id())))


async def _change(on: Services, call: Call) -> web.Response:
    limit_bodies.check_changeable(call.body)
    changed = bodies.read(limit_bodies.ChangedLimit, call.body)
    row = await on.limits.read(call.id())
    return json_answer(limit_answers.limit(await on.limits.change(row.id, changed.changes(row.limit.measure))))


async def _retire(on: Services, call: Call) -> web.Response:
    return json_answer(limit_answers.limit(await on.limits.retire(call.id())))


async def _status(on: Services, call: Call) -> web.Response:
    if call.query.get("fresh") == "1":
        await on.machine.settle_now()
    return json_answer(limit_answers.status(await on.limits.status(call.id())))


ENDPOINTS: Final[tuple[tuple[str, Mapping[str, Endpoint]], ...]] = (
    ("/admin/limits", {"GET": _list, "POST": _create}),
    ("/admin/limits/{id}", {"GET": _read, "PATCH": _change, "DELETE": _retire}),
    ("/admin/limits/{id}/status", {"GET": _status}),
)
