"""Accounts and teams: the operator's endpoints for whose credit is spent."""

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from meterproxy.control import answers, bodies
from meterproxy.control.answers import json_answer
from meterproxy.control.call import Call, Endpoint, Services


async def _create_account(on: Services, call: Call) -> web.Response:
    return json_answer(answers.account(await on.accounts.create(bodies.read(bodies.NewAccount, call.body).name)), 201)


async def _list_accounts(on: Services, call: Call) -> web.Response:
    rows = await on.accounts.list(call.id_in_query("cursor"), call.limit() + 1)
    return json_answer(answers.page([answers.account(row) for row in rows], call.limit(), "id"))


async def _read_account(on: Services, call: Call) -> web.Response:
    if call.query.get("fresh") == "1":
        await on.machine.settle_now()
    return json_answer(answers.account(await on.accounts.read(call.id())))


async def _change_account(on: Services, call: Call) -> web.Response:
    changed = bodies.read(bodies.ChangedAccount, call.body)
    row = await on.accounts.change(call.id(), frozen=changed.frozen, overdraft_nanos=changed.overdraft)
    return json_answer(answers.account(row))


async def _credit(on: Services, call: Call) -> web.Response:
    new = bodies.read(bodies.NewCredit, call.body)
    row = await on.accounts.credit(call.id(), new.amount, new.kind, new.description, new.idempotency_key)
    return json_answer(answers.entry(row), 201)


async def _transactions(on: Services, call: Call) -> web.Response:
    before = call.number("cursor", None, 2**62)
    rows = await on.accounts.entries(call.id(), before, call.limit() + 1)
    return json_answer(answers.page([answers.entry(row) for row in rows], call.limit(), "entry_no"))


async def _create_team(on: Services, call: Call) -> web.Response:
    new = bodies.read(bodies.NewTeam, call.body)
    return json_answer(answers.team(await on.teams.create(new.account_id, new.name)), 201)


async def _list_teams(on: Services, call: Call) -> web.Response:
    rows = await on.teams.list(call.id_in_query("account_id"), call.id_in_query("cursor"), call.limit() + 1)
    return json_answer(answers.page([answers.team(row) for row in rows], call.limit(), "id"))


ENDPOINTS: Final[tuple[tuple[str, Mapping[str, Endpoint]], ...]] = (
    ("/admin/accounts", {"GET": _list_accounts, "POST": _create_account}),
    ("/admin/accounts/{id}", {"GET": _read_account, "PATCH": _change_account}),
    ("/admin/accounts/{id}/credits", {"POST": _credit}),
    ("/admin/accounts/{id}/transactions", {"GET": _transactions}),
    ("/admin/teams", {"GET": _list_teams, "POST": _create_team}),
)
