"""Ownership: what a request mentions must be its account's, or it does not exist."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import orjson
import pytest

from meterproxy.core.resource import CHAT_COMPLETION, CONVERSATION, ITEM, RESPONSE, Resource
from meterproxy.proxy import exchange
from meterproxy.proxy.endpoints import ENDPOINTS, WITHIN, Endpoint, Way
from meterproxy.proxy.paths import Match
from tests.proxy.fakes import ACCOUNT
from tests.proxy.house import House, built, chat, request
from tests.proxy.raw import Answer

RESPONSES = "/v1/responses"
PROBES = 10_000
AT_ONCE = 50


def response(**members: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "input": "Hi", "max_output_tokens": 50, **members}


def in_input(item: Any) -> dict[str, Any]:
    return response(input=[{"role": "user", "content": "Hi"}, item])


def in_part(part: Any) -> dict[str, Any]:
    return in_input({"role": "user", "content": [{"type": "input_text", "text": "Hi"}, part]})


def with_tool(tool: Any) -> dict[str, Any]:
    return response(tools=[tool])


def bodies(id_: str) -> Iterator[tuple[str, str, Any]]:
    """Every place of a body where an id can be mentioned, with this one in it: path, kind, body."""
    mentioned: list[tuple[str, dict[str, Any]]] = [
        (RESPONSE, response(previous_response_id=id_)),
        (RESPONSE, response(prompt_cache_options={"mode": "implicit", "comparison_response_id": id_})),
        (CONVERSATION, response(conversation=id_)),
        (CONVERSATION, response(conversation={"id": id_})),
        ("prompt", response(prompt={"id": id_, "version": "1"})),
        ("file", response(prompt={"id": "pmpt_mine", "variables": {"a": {"type": "input_file", "file_id": id_}}})),
        (ITEM, in_input({"type": "item_reference", "id": id_})),
        (ITEM, in_input({"id": id_})),
        (ITEM, in_input({"type": "reasoning", "id": id_, "summary": []})),
        (ITEM, in_input({"type": "message", "role": "assistant", "id": id_, "content": []})),
        (ITEM, in_input({"type": "mcp_approval_response", "approval_request_id": id_, "approve": True})),
        ("file", in_part({"type": "input_file", "file_id": id_})),
        ("file", in_part({"type": "input_image", "detail": "low", "file_id": id_})),
        (
            "file",
            in_input(
                {
                    "type": "computer_call_output",
                    "call_id": "c",
                    "output": {"type": "computer_screenshot", "file_id": id_},
                }
            ),
        ),
        (
            "file",
            in_input(
                {
                    "type": "function_call_output",
                    "call_id": "c",
                    "output": [{"type": "input_file", "file_id": id_}],
                }
            ),
        ),
        ("container", in_input({"type": "code_interpreter_call", "code": "1", "container_id": id_})),
        (
            "container",
            in_input({"type": "shell_call", "environment": {"type": "container_reference", "container_id": id_}}),
        ),
        ("vector_store", with_tool({"type": "file_search", "vector_store_ids": ["vs_mine", id_]})),
        ("container", with_tool({"type": "code_interpreter", "container": id_})),
        ("file", with_tool({"type": "code_interpreter", "container": {"type": "auto", "file_ids": [id_]}})),
        (
            "container",
            with_tool({"type": "shell", "environment": {"type": "container_reference", "container_id": id_}}),
        ),
        ("skill", with_tool({"type": "shell", "environment": {"type": "local", "skills": [{"skill_id": id_}]}})),
        ("file", with_tool({"type": "image_generation", "input_image_mask": {"file_id": id_}})),
        ("tunnel", with_tool({"type": "mcp", "server_label": "a", "tunnel_id": id_})),
        (
            "vector_store",
            in_input({"type": "additional_tools", "tools": [{"type": "file_search", "vector_store_ids": [id_]}]}),
        ),
    ]
    for kind, body in mentioned:
        yield RESPONSES, kind, body
    for kind, body in mentioned[:1] + mentioned[6:16]:
        yield f"{RESPONSES}/compact", kind, body
        yield f"{RESPONSES}/input_tokens", kind, body
    for kind, body in mentioned[6:16]:
        yield "/v1/conversations", kind, {"items": body["input"]}
        yield "/v1/conversations/conv_mine/items", kind, {"items": body["input"]}
    yield (
        "/v1/chat/completions",
        "file",
        chat(messages=[{"role": "user", "content": [{"type": "file", "file": {"file_id": id_}}]}]),
    )
    yield "/v1/chat/completions", "voice", chat(audio={"voice": {"id": id_}, "format": "mp3"})
    yield "/v1/chat/completions", "audio", chat(messages=[{"role": "assistant", "audio": {"id": id_}}])


def paths(id_: str) -> Iterator[tuple[str, str]]:
    """Every path with an id in it, with this one."""
    for endpoint in ENDPOINTS:
        if endpoint.way is Way.FREE and endpoint.ids:
            path = endpoint.template
            for name in ("{response_id}", "{completion_id}", "{conversation_id}", "{item_id}"):
                path = path.replace(name, id_)
            yield endpoint.method, path
    yield "GET", f"/v1/chat/completions?after={id_}"
    yield "HEAD", f"/v1/responses/{id_}"


def own(house: House) -> None:
    """What this account has, so that only the one foreign id of a probe is."""
    house.owners.give("vector_store", "vs_mine")
    house.owners.give("prompt", "pmpt_mine")
    house.owners.give(CONVERSATION, "conv_mine")


def probes() -> Iterator[bytes]:
    """Requests that each mention one thing which is not theirs; no id is asked for twice."""
    for number in itertools.count():
        id_ = f"foreign_{number:08d}"
        for method, path in paths(id_):
            body = {"metadata": {}, "items": []} if method == "POST" else None
            yield request(path, body, method=method)
        for path, _, body in bodies(id_):
            yield request(path, body)


async def answers_of(house: House, requests: list[bytes]) -> list[Answer]:
    async with house.client() as client:
        answers = []
        for data in requests:
            client.send(data)
            answers.append(await client.answer(bodiless=data.startswith(b"HEAD")))
        return answers


async def test_ten_thousand_probes() -> None:
    """Ten thousand foreign ids in paths, queries and bodies are all 404, and leave no hold, no row, no call."""
    async with built() as house:
        own(house)
        house.owners.stored |= {
            (other, kind, f"foreign_{number:08d}"): Resource(other, kind, f"foreign_{number:08d}", "openai")
            for other in (UUID(int=77),)
            for kind in (RESPONSE, CONVERSATION, ITEM, CHAT_COMPLETION, "file")
            for number in range(500)
        }
        requests = list(itertools.islice(probes(), PROBES))
        for at in range(0, PROBES, AT_ONCE * 20):
            batch = requests[at : at + AT_ONCE * 20]
            for answer in await answers_of(house, batch):
                assert answer.status == 404
        assert not house.ledger.placed
        assert not house.ledger.rows
        assert not await house.calls()
        assert len(house.observer.refusals) == PROBES
        assert {reason for reason, _ in house.observer.refusals} == {"resource_not_found"}
        assert not house.owners.claimed


@pytest.mark.parametrize(
    ("path", "kind", "body"), list(bodies("x_1")), ids=lambda value: value if isinstance(value, str) else ""
)
async def test_what_is_owned_passes(path: str, kind: str, body: Any) -> None:
    """With the same id owned, nothing is a 404 of ours any more: each probe fails for that one id alone."""
    async with built() as house:
        own(house)
        house.owners.give(kind, "x_1")
        answer = await house.ask(path, body)
        assert ("resource_not_found", path) not in house.observer.refusals
        assert answer.status != 404 or await house.calls()


async def test_paths_of_what_is_metered(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id in the path is looked at also where the request costs something and its body names nothing."""
    row = replace(ENDPOINTS[0], ids=(RESPONSE,))
    monkeypatch.setattr(exchange, "find_endpoint", lambda _method, _target: Match(row, ("resp_1",)))
    async with built() as house:
        assert (await house.ask(body=chat())).status == 404
        assert not house.ledger.placed


async def test_words_tell_nothing() -> None:
    """Another's and nobody's are told in the same words."""
    async with built() as house:
        house.owners.give(RESPONSE, "resp_1", account_id=UUID(int=77))
        others = await house.ask(RESPONSES, response(previous_response_id="resp_1"))
        nobodys = await house.ask(RESPONSES, response(previous_response_id="resp_2"))
        assert others.error == {
            "message": "Previous response with id 'resp_1' not found.",
            "type": "invalid_request_error",
            "param": "previous_response_id",
            "code": None,
        }
        assert nobodys.body == others.body.replace(b"resp_1", b"resp_2")


@pytest.mark.parametrize(
    "id_", ["", "x" * 257, "résumé", "resp\\u0000", "\\ud800", "resp_1 ", "RESP_1", "resp_1%00"], ids=repr
)
async def test_odd_ids_are_nobodys(id_: str) -> None:
    """What no id can be is 404 without a look-up; another spelling is another id."""
    async with built() as house:
        house.owners.give(RESPONSE, "resp_1")
        body = b'{"model":"gpt-4o","input":"Hi","previous_response_id":"%b"}' % id_.encode()
        answer = await house.ask(RESPONSES, body)
        assert answer.status == 404
        assert house.owners.lookups <= 1
        assert not await house.calls()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"model":"gpt-4o","input":[{"type":"item_reference","id":"mine","id":"x"}]}', 400),
        (b'{"model":"gpt-4o","input":[{"type":"item_reference","id":"mine","i\\u0064":"x"}]}', 400),
        (b'{"model":"gpt-4o","input":[{"type":"item_reference","\\u0069d":"x"}]}', 404),
        (b'{"model":"gpt-4o","input":"a","conversation":{"\\u0069d":"x"}}', 404),
        (b'{"model":"gpt-4o","input":"a","pr\\u0065vious_response_id":"x"}', 404),
        (b'{"model":"gpt-4o","input":"a","Previous_response_id":"x"}', 400),
        (b'{"model":"gpt-4o","input":"a","conversation":"x","conversation":"mine"}', 400),
        (b'{"model":"gpt-4o","input":[{"role":"user","content":[{"type":"input_file","\\u0066ile_id":"x"}]}]}', 404),
        (
            b'{"model":"gpt-4o","messages":[{"role":"user","content":[{"type":"file","file":{"f\\u0069le_id":"x"}}]}]}',
            404,
        ),
    ],
)
async def test_hidden_mentions_are_found(body: bytes, status: int) -> None:
    """Escapes hide no name, and what could be read in two ways is refused."""
    async with built() as house:
        house.owners.give(ITEM, "mine")
        house.owners.give(CONVERSATION, "mine")
        answer = await house.ask("/v1/chat/completions" if b"messages" in body else RESPONSES, body)
        assert answer.status == status
        assert not await house.calls()
        assert not house.ledger.placed


@pytest.mark.parametrize(
    "body",
    [
        response(metadata={"file_id": "x", "container": "x", "id": "x"}),
        with_tool({"type": "function", "name": "f", "parameters": {"default": {"file_id": "x", "container": "x"}}}),
        response(text={"format": {"type": "json_schema", "name": "a", "schema": {"const": {"file_id": "x"}}}}),
        in_input({"role": "user", "content": 'A text about "file_id": "x" and "container": "x".'}),
        in_input({"type": "function_call", "call_id": "x", "name": "f", "arguments": '{"file_id": "x"}'}),
        response(prompt={"id": "pmpt_mine", "variables": {"file_id": "x", "container": "x"}}),
        chat(metadata={"file_id": "x"}),
        chat(messages=[{"role": "user", "content": 'What is "file_id"?'}]),
        chat(messages=[{"role": "tool", "tool_call_id": "x", "content": "y"}]),
        chat(modalities=["text"], audio={"voice": "alloy", "format": "wav"}),
    ],
    ids=lambda body: str(list(body)),
)
async def test_names_of_the_clients_own(body: dict[str, Any]) -> None:
    """Where a client chooses names itself, and in texts, nothing is mentioned."""
    async with built() as house:
        own(house)
        await house.ask("/v1/chat/completions" if "messages" in body else RESPONSES, body)
        assert "resource_not_found" not in {reason for reason, _ in house.observer.refusals}


async def test_database_away() -> None:
    """While PostgreSQL cannot be asked, what only it knows is a 503; what memory knows passes."""
    async with built() as house:
        house.owners.give(RESPONSE, "resp_1")
        house.owners.away = True
        answer = await house.ask(RESPONSES, response(previous_response_id="resp_1"))
        assert (answer.status, answer.error["code"]) == (503, "service_unavailable")
        async with house.client() as client:
            client.send(request("/v1/responses/resp_1", method="GET"))
            assert (await client.answer()).status == 503
        house.owners.away = False
        made = orjson.loads((await house.ask(RESPONSES, response())).body)
        house.owners.away = True
        assert (await house.ask(RESPONSES, response(previous_response_id=made["id"]))).status == 200


async def test_other_provider() -> None:
    """What is at one provider is unknown at another, to which the model would go."""
    async with built() as house:
        house.owners.give(RESPONSE, "resp_1", provider="elsewhere")
        house.owners.give(CONVERSATION, "conv_1")
        answer = await house.ask(RESPONSES, response(previous_response_id="resp_1"))
        assert (answer.status, answer.error["param"]) == (404, "previous_response_id")
        mixed = await house.ask(RESPONSES, response(previous_response_id="resp_1", conversation="conv_1"))
        assert mixed.status == 404
        async with house.client() as client:
            client.send(request("/v1/responses/resp_1", method="GET"))
            assert (await client.answer()).status == 404
        assert not await house.calls()


@pytest.mark.parametrize("stream", [False, True])
async def test_id_that_cannot_be_written_down(stream: bool) -> None:
    """An id that could not be journaled does not go out; what was used is charged."""
    async with built() as house:
        house.owners.journal_works = False
        answer = await house.ask(RESPONSES, response(stream=stream))
        assert b"resp_" not in answer.body
        assert b"could not be recorded" in answer.body
        await house.ended()
        assert not house.ledger.open
        [row] = house.ledger.rows
        assert (row.how, row.usage.input > 0) == ("captured", True)
        assert row.status == (200 if stream else 500)


async def test_stored_id_that_cannot_be_written_down() -> None:
    """The same for a chat completion that is stored, whose stream shows its id from the first event."""
    async with built() as house:
        house.owners.journal_works = False
        answer = await house.ask(body=chat(stream=True, store=True))
        assert b"chatcmpl-" not in answer.body
        assert b"could not be recorded" in answer.body


async def test_hold_that_cannot_be_deferred() -> None:
    """A background response whose hold cannot be made durable does not go out either."""
    async with built() as house:
        house.durable.journal_works = False
        answer = await house.ask(RESPONSES, response(background=True))
        assert answer.status == 500
        assert not house.ledger.open


async def test_deletion_that_cannot_be_written_down() -> None:
    """A deletion that could not be journaled is not told."""
    async with built() as house:
        made = orjson.loads((await house.ask(RESPONSES, response())).body)
        house.owners.journal_works = False
        async with house.client() as client:
            client.send(request(f"{RESPONSES}/{made['id']}", method="DELETE"))
            assert (await client.answer()).status == 500


@pytest.mark.parametrize("name", ["store", "background", "stream"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", RESPONSES])
async def test_what_decides_is_a_boolean(path: str, name: str) -> None:
    """What says whether an answer is kept is read before anything is sent."""
    if (path, name) == ("/v1/chat/completions", "background"):
        return
    async with built() as house:
        body = chat() if "chat" in path else response()
        answer = await house.ask(path, {**body, name: "yes"})
        assert (answer.status, answer.error["param"]) == (400, name)
        assert not await house.calls()
        assert not house.ledger.placed


async def test_long_histories() -> None:
    """A history of which memory knows nothing is looked up ever more at a time; a foreign id ends it."""
    async with built() as house:
        ids = [f"msg_{number}" for number in range(300)]
        for id_ in ids:
            house.owners.give(ITEM, id_)
        history = [{"type": "message", "role": "assistant", "id": id_, "content": "a"} for id_ in ids]
        assert (await house.ask(RESPONSES, response(input=history))).status != 404
        assert house.owners.lookups == 300
        await house.ask(RESPONSES, response(input=history))
        assert house.owners.lookups == 300
        foreign = [{"type": "item_reference", "id": f"foreign_{number}"} for number in range(300)]
        assert (await house.ask(RESPONSES, response(input=foreign))).status == 404
        assert house.owners.lookups == 301


async def test_too_many_mentions() -> None:
    """A request may name so many ids and no more."""
    async with built() as house:
        house.owners.give("vector_store", "vs_0")
        ids = [f"vs_{number}" for number in range(5000)]
        answer = await house.ask(RESPONSES, with_tool({"type": "file_search", "vector_store_ids": ids}))
        assert answer.status == 400
        assert house.owners.lookups == 0


@pytest.mark.parametrize("endpoint", [row for row in ENDPOINTS if row.way is Way.FREE], ids=lambda row: row.template)
async def test_every_free_row_is_walked(endpoint: Endpoint) -> None:
    """The probes reach each row that has an id in its path or members that may mention one."""
    walked = {f"{method} {path.partition('?')[0]}" for method, path in paths("x_1")}
    walked |= {f"POST {path}" for path, _, _ in bodies("x_1")}
    path = endpoint.template
    for kind, name in zip(endpoint.ids, ("{response_id}", "{item_id}"), strict=False):
        assert kind != WITHIN or name == "{item_id}"
    for name in ("{response_id}", "{completion_id}", "{conversation_id}", "{item_id}"):
        path = path.replace(name, "x_1")
    mine = path.replace("x_1/items", "conv_mine/items")
    assert f"{endpoint.method} {path}" in walked or f"{endpoint.method} {mine}" in walked


async def test_account_in_use() -> None:
    """The fake's own account is the one that probes come from."""
    async with built() as house:
        await house.ask(RESPONSES, response())
        assert {resource.account_id for resource in house.owners.claimed} == {ACCOUNT}
