"""What the document says is what the API does: asked by schemathesis as everybody, over a socket, on real PostgreSQL."""

import asyncio
import random
import re
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import requests
import schemathesis
from aiohttp import web
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from meterproxy.control.openapi import document
from meterproxy.control.routes import ROUTES
from meterproxy.control.tokens import Claim
from meterproxy.core.logged import LoggedUsage
from meterproxy.core.role import Role
from meterproxy.errors import ApiError, Case
from meterproxy.proxy.client import Client
from meterproxy.proxy.server import Dispatch, HttpServer
from meterproxy.store.ids import new_id
from tests.control.asking import ADMIN_TOKEN, Asking, Person, machine_of
from tests.control.history import history
from tests.ledger.bank import pool_of

EXAMPLES = 2
"""Of each operation; each is asked as everybody, with ids of nobody's and with such as are there."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
DOCUMENT = document(ROUTES)


async def _nowhere(_request: web.BaseRequest, _secret: str, _body: bytes) -> None:
    raise ApiError(Case.MODEL_NOT_FOUND, "There are no models here.")


async def _unpriced(_usage: LoggedUsage) -> None:
    raise ApiError(Case.MODEL_NOT_PRICED, "There are no prices here.")


async def _no_data_plane(client: Client) -> None:
    client.refuse(ApiError(Case.PATH_UNKNOWN, "There is no data plane here."))


@dataclass
class Cast:
    """Who asks, by what token, and the ids of what is there, by the word before them in a path."""

    people: dict[str, Person]
    key: str
    ids: dict[str, list[str]]
    organization_id: UUID


class Served:
    """An API that listens, in a thread of its own."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def begin(self) -> None:
        self._thread.start()
        self.run(self._begin())

    def end(self) -> None:
        self.run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _begin(self) -> None:
        self._pool = pool_of(self._dsn)
        self.pool: asyncpg.Pool = await self._pool.__aenter__()
        machine = replace(machine_of(self.pool), exchange=_nowhere, log=_unpriced)
        self.asking = Asking(self.pool, machine=machine)
        self._server = HttpServer(Dispatch(_no_data_plane, self.asking.api.answer, self.asking.api.admit))
        self._listening = await self._loop.create_server(self._server, "127.0.0.1", 0)
        self.origin = "http://{}:{}".format(*self._listening.sockets[0].getsockname()[:2])
        self.cast = await _cast(self.asking)

    async def _end(self) -> None:
        self._listening.close()
        await self._server.shutdown(0.5)
        await self._pool.__aexit__(None, None, None)

    async def tokens(self) -> dict[str, str | None]:
        """What everybody shows; whoever has signed out meanwhile signs in again."""
        told: dict[str, str | None] = {"nobody": None, "admin token": ADMIN_TOKEN, "key": self.cast.key}
        for name, person in self.cast.people.items():
            if (await self.asking("GET", "/api/auth/me", token=person.token)).status != 200:
                person.token = await _signed_in(self.asking, person)
            told[name] = person.token
        return told


async def _signed_in(asking: Asking, person: Person) -> str:
    known = await asking.people.find(person.email)
    assert known is not None
    login_id = new_id()
    assert await asking.people.begin_login(login_id, known, login_id.bytes * 2, 3600)
    return asking.tokens.make(Claim(person.id, login_id), int(time.time()))


async def _cast(asking: Asking) -> Cast:
    owner = await asking.person("owner")
    people = {"owner": owner}
    for name, role in (("member", Role.MEMBER), ("viewer", Role.VIEWER), ("operator", Role.VIEWER)):
        people[name] = await asking.person(name)
        await asking.joins(people[name], owner.organization_id, role)
    await asking.pool.execute("UPDATE users SET is_operator = true WHERE id = $1", people["operator"].id)
    spare = await asking.person("spare")
    await asking.joins(spare, owner.organization_id, Role.MEMBER)
    made = [
        (await asking("POST", "/api/keys", {"name": name, "reads_usage": True}, token=owner.token)).body
        for name in ("asks", "one", "two", "three")
    ]
    budget = {"measure": "amount", "window": "month", "cap": "5.00", "scope": "account", "name": "b"}
    budgets = [(await asking("POST", "/api/budgets", budget, token=owner.token)).body["id"] for _ in range(2)]
    path = f"/api/organizations/{owner.organization_id}"
    invited = await asking(
        "POST", f"{path}/invitations", {"email": "x@example.com", "role": "member"}, token=owner.token
    )
    await asking("POST", f"{path}/teams", {"name": "team"}, token=owner.token)
    rows = await history(asking.pool, [UUID(key["id"]) for key in made], rows=60)
    ids = {
        "organizations": [str(owner.organization_id)],
        "members": [str(spare.id), str(people["viewer"].id)],
        "users": [str(spare.id)],
        "keys": [key["id"] for key in made[1:]],
        "budgets": budgets,
        "limits": budgets,
        "invitations": [invited.body["id"]],
        "accounts": [str(owner.account_id)],
        "requests": [str(record.subject.request_id) for record in rows[:3]],
    }
    return Cast(people, made[0]["key"], ids, owner.organization_id)


@contextmanager
def _serving(dsn: str) -> Iterator[Served]:
    served = Served(dsn)
    served.begin()
    try:
        yield served
    finally:
        served.end()


def _with_ids(cast: Cast, path: str, given_: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """The parameters of a path with ids of what is there, where its words say of what."""
    told = dict(given_)
    for word, name in re.findall(r"([a-z_-]+)/\{(\w+)\}", path):
        if known := cast.ids.get(word):
            told[name] = chance.choice(known)
    return told


def _requests(operation: Any) -> st.SearchStrategy[Any]:
    """What may be asked, and what may not, where there is anything to be wrong about."""
    right = operation.as_strategy()
    if not (operation.body or operation.query or operation.path_parameters):
        return right
    return st.one_of(right, right, operation.as_strategy(GenerationMode.NEGATIVE))


def _asks(served: Served, operation: Any, wrong: list[str]) -> Callable[[], None]:
    """Has one operation asked by a few generated requests, each as everybody."""
    chance, tokens = random.Random(operation.label), served.run(served.tokens())

    @seed(1)
    @settings(
        max_examples=EXAMPLES, database=None, phases=[Phase.generate], derandomize=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=_requests(operation))
    def ask(case: Any) -> None:
        for number, (who, token) in enumerate(tokens.items()):
            if number % 2 and case.path_parameters:
                case.path_parameters = _with_ids(served.cast, operation.path, case.path_parameters, chance)
            if "organization_id" in (case.query or {}) and number % 3:
                case.query = {**case.query, "organization_id": str(served.cast.organization_id)}
            case.headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            with requests.Session() as session:
                answer = case.call(base_url=served.origin, session=session, timeout=30)
            try:
                case.validate_response(answer, checks=CHECKS)
            except FailureGroup as group:
                about = f"{who}: {case.method} {answer.request.path_url} {answer.status_code} {answer.content[:300]!r}"
                wrong.extend(f"{about}: {error.title}: {str(error)[:300]}" for error in group.exceptions)

    return ask


@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
def test_everything_that_is_answered_is_in_the_document(database: str) -> None:
    """No fault of ours, no status that the document does not name, and every answer as its schema says."""
    wrong: list[str] = []
    with _serving(database) as served:
        schema = schemathesis.openapi.from_dict(DOCUMENT)
        for result in schema.get_all_operations():
            _asks(served, result.ok(), wrong)()
    assert wrong == [], "\n".join(wrong)
