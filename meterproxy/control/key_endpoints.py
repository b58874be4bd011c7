"""Keys: the operator's endpoints for the secrets that clients present."""

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from meterproxy.control import answers, bodies
from meterproxy.control.answers import json_answer
from meterproxy.control.call import Call, Endpoint, Services


async def _create_key(on: Services, call: Call) -> web.Response:
    new = bodies.read(bodies.NewKeyBody, call.body)
    key = await on.keys.create(
        new.account_id,
        new.name,
        user_id=new.user_id,
        team_id=new.team_id,
        description=new.description,
        policy=new.policy,
        expires_at=new.expiry,
    )
    return json_answer(answers.new_key(key), 201)


async def _list_keys(on: Services, call: Call) -> web.Response:
    rows = await on.keys.list(call.id_in_query("account_id"), call.id_in_query("cursor"), call.limit() + 1)
    return json_answer(answers.page([answers.key(row) for row in rows], call.limit(), "id"))


async def _revoke_key(on: Services, call: Call) -> web.Response:
    return json_answer(answers.key(await on.keys.revoke(call.id())))


async def _change_key(on: Services, call: Call) -> web.Response:
    changes = bodies.read(bodies.ChangedKey, call.body).changes()
    return json_answer(answers.key(await on.keys.change(call.id(), changes)))


ENDPOINTS: Final[tuple[tuple[str, Mapping[str, Endpoint]], ...]] = (
    ("/admin/keys", {"GET": _list_keys, "POST": _create_key}),
    ("/admin/keys/{id}", {"PATCH": _change_key, "DELETE": _revoke_key}),
)
