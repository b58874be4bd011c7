"""Free requests: forwarded, never held or booked, and as sturdy as what is paid for."""

from typing import Any

import orjson
import pytest

from meterproxy.core.key import KeyPolicy
from meterproxy.core.resource import RESPONSE
from meterproxy.errors import ApiError, Case
from meterproxy.proxy import listing, plain
from meterproxy.proxy.settings import ExchangeSettings
from tests.proxy.fakes import key_entry
from tests.proxy.house import House, built, chat, request, until
from tests.proxy.raw import Answer

RESPONSES = "/v1/responses"


def response(**members: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "input": "Hi", "max_output_tokens": 50, **members}


async def get(house: House, path: str, method: str = "GET", body: Any = None, **headers: str) -> Answer:
    async with house.client() as client:
        client.send(request(path, body, method=method, **headers))
        return await client.answer(bodiless=method == "HEAD")


async def made(house: House, **members: Any) -> str:
    """The path of a response that was made."""
    answer = await house.ask(RESPONSES, response(**members))
    return f"{RESPONSES}/{orjson.loads(answer.body)['id']}"


FAULTS = """
# the provider           | status | code                 | reason it failed for
status=404               | 404    | model_not_found      |
status=409               | 409    | None                 |
status=429               | 429    | rate_limit_exceeded  |
status=500               | 500    | None                 |
status=401               | 503    | upstream_account     | upstream_account
status=403               | 503    | upstream_account     | upstream_account
drop                     | 502    | upstream_unreachable | upstream_unreachable
cut=30                   | 502    | upstream_unreachable | upstream_unreachable
truncate                 | 502    | upstream_unreachable | upstream_unreachable
"""


@pytest.mark.parametrize("row", [line for line in FAULTS.strip().splitlines() if not line.startswith("#")])
async def test_provider_trouble(row: str) -> None:
    """An error about the request passes, one about us does not, a broken answer is a 502; nothing is booked."""
    fault, status, code, reason = (cell.strip() for cell in row.split("|"))
    async with built() as house:
        path = await made(house)
        answer = await get(house, path, X_Simulate=fault)
        assert (answer.status, str(answer.error["code"])) == (int(status), code)
        assert [found for _, found in house.observer.failures] == ([reason] if reason else [])
        assert len(house.ledger.rows) == 1
        assert not house.ledger.open


async def test_head() -> None:
    """HEAD is answered as GET, without its body, also of a stream."""
    async with built() as house:
        path = await made(house)
        for asked in (path, f"{path}?stream=true"):
            answer = await get(house, asked, "HEAD")
            assert (answer.status, answer.body) == (200, b"")
        assert (await get(house, path)).status == 200


async def test_compressed_answers() -> None:
    """A compressed answer is read and passes as it came; a compressed stream could not be held and is refused."""
    async with built() as house:
        path = await made(house)
        answer = await get(house, path, X_Simulate="compress=gzip")
        assert (answer.status, answer.headers["content-encoding"]) == (200, "gzip")
        assert (await get(house, f"{path}?stream=true", X_Simulate="compress=gzip")).status == 502
        streamed = await house.ask(RESPONSES, response(stream=True), X_Simulate="compress=gzip")
        assert streamed.status == 502
        assert (await house.ask(RESPONSES, response(), X_Simulate="compress=gzip")).status == 200
        assert [row.how for row in house.ledger.rows] == ["captured", "released", "captured"]


async def test_only_known_parameters_pass() -> None:
    """Parameters pass by name; the path is built from its row."""
    async with built() as house:
        path = await made(house)
        await get(house, f"{path}?include[]=reasoning.encrypted_content&evil=1&stream=false&api_key=x")
        *_, call = await house.calls()
        assert call["path"] == path
        [line] = [call for call in await house.calls() if call["method"] == "GET"]
        assert line["headers"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", RESPONSES, response()),
        ("GET", f"{RESPONSES}/resp_1", None),
        ("DELETE", f"{RESPONSES}/resp_1", None),
        ("POST", "/v1/conversations", {}),
        ("POST", "/v1/moderations", {"input": "a"}),
    ],
)
async def test_policy_names_operations(method: str, path: str, body: Any) -> None:
    """A key for chats only may neither make nor look at anything else; what it may is what it says."""
    async with built(key=key_entry(policy=KeyPolicy(operations=("chat",)))) as house:
        answer = await get(house, path, method, body)
        assert (answer.status, answer.error["code"]) == (403, "permission_denied")
        assert (await house.ask(body=chat())).status == 200
        assert (await get(house, "/v1/chat/completions")).status == 200


async def test_policy_names_models() -> None:
    """A model that a key may not use is unknown for counting too."""
    async with built(key=key_entry(policy=KeyPolicy(models=("gpt-4o",)))) as house:
        path = f"{RESPONSES}/input_tokens"
        assert (await house.ask(path, {"model": "gpt-4o", "input": "Hi"})).status == 200
        refused = await house.ask(path, {"model": "gpt-4.1", "input": "Hi"})
        assert (refused.status, refused.error["code"]) == (404, "model_not_found")
        assert (await get(house, "/v1/chat/completions?model=gpt-4o")).status == 200
        assert (await get(house, "/v1/chat/completions?model=gpt-4.1")).status == 404


async def test_bodies_are_read_where_they_matter() -> None:
    """A body that is no JSON object is a 400; one that is not needed is not forwarded."""
    async with built() as house:
        path = await made(house, background=True)
        assert (await house.ask("/v1/conversations", b"[]")).status == 400
        assert (await house.ask("/v1/conversations", b"")).status == 200
        assert (await house.ask(f"{path}/cancel", {"model": "anything"})).status == 200
        *_, call = await house.calls()
        assert call["body_bytes"] == 0


class TestReplays:
    """The stream of a response that was made before."""

    async def test_bytes_are_the_providers(self) -> None:
        """A replay is byte for byte what the first stream was."""
        async with built() as house:
            first = await house.ask(RESPONSES, response(stream=True))
            id_ = orjson.loads(first.body.split(b"\n")[1][6:])["response"]["id"]
            again = await get(house, f"{RESPONSES}/{id_}?stream=true")
            assert again.body == first.body
            assert again.headers["content-type"].startswith("text/event-stream")
            assert house.observer.streams == 0

    async def test_break(self) -> None:
        """A replay that breaks off ends in an error."""
        async with built() as house:
            answer = await get(house, f"{await made(house)}?stream=true", X_Simulate="cut=3")
            assert b"broke off" in answer.body
            assert house.observer.streams == 0

    async def test_client_leaves(self) -> None:
        """A client that leaves ends it; nothing is left behind."""
        async with built() as house:
            path = await made(house)
            async with house.client() as client:
                client.send(request(f"{path}?stream=true", method="GET", X_Simulate="slow=0.01"))
                await client.head()
                await client.chunk()
            await house.ended()
            assert house.observer.streams == 0
            assert house.exchanges.house.pool.taken_bytes == 0

    @pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
    async def test_client_leaves_in_silence(self, reset: bool) -> None:
        """A client that leaves while the provider is silent is noticed, and the provider's connection comes back."""
        async with built() as house:
            path = await made(house)
            async with house.client() as client:
                client.send(request(f"{path}?stream=true", method="GET", X_Simulate="slow=30"))
                await client.head()
                await client.chunk()
                if reset:
                    client.writer.transport.abort()
            await house.ended()
            assert house.provider.upstream.stats().open == 0

    async def test_silence(self) -> None:
        """A replay that is silent is kept alive, between its events."""
        async with built(ExchangeSettings(keepalive_seconds=0.01)) as house:
            path = await made(house)
            answer = await get(house, f"{path}?stream=true", X_Simulate="slow=0.05")
            assert answer.body.count(b": keepalive\n\n") > 3
            events = [event for event in answer.body.split(b"\n\n") if event and event != b": keepalive"]
            assert all(event.startswith(b"event: ") for event in events)

    async def test_shutdown(self) -> None:
        """A shutdown tells the client and ends it."""
        async with built() as house:
            path = await made(house)
            async with house.client() as client:
                client.send(request(f"{path}?stream=true", method="GET", X_Simulate="slow=0.05"))
                await client.head()
                await client.chunk()
                house.exchanges.cut_all_short(ApiError(Case.UNAVAILABLE, "The service is shutting down."))
                assert b"shutting down" in await client.answer_body()
            await house.ended()

    async def test_hold_cannot_be_looked_up(self) -> None:
        """While PostgreSQL is away the end is not shown, because it could not be booked."""
        async with built() as house:
            path = await made(house, background=True)
            house.durable.away = True
            answer = await get(house, f"{path}?stream=true")
            assert b"response.output_text.delta" in answer.body
            assert b"response.completed" not in answer.body
            assert b"service_unavailable" in answer.body
            assert (await get(house, path)).status == 503
            house.durable.away = False
            assert (await get(house, path)).status == 200
            assert len(house.ledger.rows) == 1


class TestLists:
    """Lists of all tenants' things, shown to one."""

    @pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "limit=-1", "limit="])
    async def test_senseless_limit(self, query: str) -> None:
        """A page is of 1 to 100 entries."""
        async with built() as house:
            answer = await get(house, f"/v1/chat/completions?{query}")
            assert answer.status in {400, 200}
            assert answer.status == 400 or query == "limit="

    async def test_too_much_to_look_through(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who owns nothing among very much is told so, not that there is nothing."""
        monkeypatch.setattr(listing, "PAGES_MAXIMUM", 2)
        monkeypatch.setattr(listing, "PAGE", 3)
        async with built() as house:
            for _ in range(10):
                await house.ask(body=chat(store=True, max_tokens=1))
            for resource in list(house.owners.claimed):
                house.owners.forget(resource, 1)
            answer = await get(house, "/v1/chat/completions?limit=2")
            assert (answer.status, answer.error["code"]) == (503, "service_unavailable")
            await house.ask(body=chat(store=True, max_tokens=1))
            answer = await get(house, "/v1/chat/completions?limit=2&order=desc")
            assert len(orjson.loads(answer.body)["data"]) == 1

    async def test_providers_error_passes(self) -> None:
        """The provider's own refusal of a list passes."""
        async with built() as house:
            answer = await get(house, "/v1/chat/completions?limit=2", X_Simulate="status=429")
            assert (answer.status, answer.error["code"]) == (429, "rate_limit_exceeded")

    async def test_owners_away(self) -> None:
        """A list is a 503 while nobody can tell whose its entries are."""
        async with built() as house:
            await house.ask(body=chat(store=True, max_tokens=1))
            house.owners.known_ones.clear()
            house.owners.away = True
            assert (await get(house, "/v1/chat/completions")).status == 503


STREAMS = """
# the provider, the client               | how      | outcome        | source    | output
tokens=20                                | captured | completed      | provider  | 20
tokens=20,newline=crlf                   | captured | completed      | provider  | 20
tokens=20,newline=cr,piece=1             | captured | completed      | provider  | 20
tokens=20,garbage,comment                | captured | completed      | provider  | 20
tokens=20,huge_line=3000000              | captured | completed      | provider  | 20
tokens=20,json_for_stream                | captured | completed      | provider  | 20
tokens=20,usage_negative                 | captured | completed      | counted   | 20
tokens=20,usage_huge                     | captured | completed      | counted   | 20
tokens=20,no_usage                       | captured | completed      | counted   | 20
tokens=20,no_done                        | captured | stream_broken  | counted   | 20
tokens=20,error_event                    | captured | provider_error | counted   | -
tokens=20,cut=10                         | captured | stream_broken  | counted   | 6
tokens=20,cut_rst=10                     | captured | stream_broken  | counted   | -
tokens=20,close_delimited                | captured | completed      | provider  | 20
tokens=20,failed                         | captured | provider_error | counted   | 0
status=500                               | released | provider_error | provider  | 0
drop                                     | released | unreachable    | estimated | 0
"""


@pytest.mark.parametrize("row", [line for line in STREAMS.strip().splitlines() if not line.startswith("#")])
async def test_streams_of_responses_end_once(row: str) -> None:
    """However the stream of a response ends, its hold ends once, by what is known of it."""
    fault, how, outcome, source, output = (cell.strip() for cell in row.split("|"))
    async with built() as house:
        answer = await house.ask(RESPONSES, response(stream=True), X_Simulate=fault)
        await house.ended()
        [booked] = house.ledger.rows
        assert (booked.how, booked.outcome, booked.source) == (how, outcome, source), answer.body
        assert output == "-" or booked.usage.output == int(output)
        assert not house.ledger.open
        assert house.observer.streams == 0
        assert house.exchanges.house.pool.taken_bytes == 0


async def test_client_leaves_the_stream_of_a_response() -> None:
    """It is read on and booked by the provider's word."""
    async with built() as house:
        async with house.client() as client:
            client.send(request(RESPONSES, response(stream=True), X_Simulate="tokens=30,slow=0.002"))
            await client.head()
            await client.chunk()
        await house.ended()
        [row] = house.ledger.rows
        assert (row.outcome, row.source, row.usage.output) == ("client_left", "provider", 30)


async def test_shutdown_in_the_stream_of_a_response() -> None:
    """What was delivered is booked, and the client is told."""
    async with built() as house, house.client() as client:
        client.send(request(RESPONSES, response(stream=True), X_Simulate="tokens=40,slow=0.02"))
        await client.head()
        await client.chunk()
        await until(lambda: next(iter(house.exchanges.open)).relay is not None)
        house.exchanges.cut_all_short(ApiError(Case.UNAVAILABLE, "The service is shutting down."))
        assert b"shutting down" in await client.answer_body()
        await house.ended()
        [row] = house.ledger.rows
        assert (row.outcome, row.source) == ("stream_broken", "counted")


@pytest.mark.parametrize("background", [False, True])
async def test_silent_streams_are_kept_alive(background: bool) -> None:
    """Comments stand between events only, also where the hold is not this exchange's any more."""
    async with built(ExchangeSettings(keepalive_seconds=0.01)) as house:
        body = response(stream=True, background=background)
        answer = await house.ask(RESPONSES, body, X_Simulate="tokens=3,slow=0.05")
        assert answer.body.count(b": keepalive\n\n") > 3
        events = [event for event in answer.body.split(b"\n\n") if event and event != b": keepalive"]
        assert all(event.startswith(b"event: ") for event in events)
        assert [row.outcome for row in house.ledger.rows] == ["completed"]


async def test_answer_too_long_to_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer with ids that cannot be read whole does not go out."""
    monkeypatch.setattr(plain, "ANSWER_BYTES", 100)
    async with built() as house:
        answer = await house.ask(RESPONSES, response())
        assert (answer.status, b"resp_" in answer.body) == (502, False)
        assert [row.how for row in house.ledger.rows] == ["released"]


async def test_what_costs_nothing_needs_no_trust() -> None:
    """A worker that may not spend still shows what was made."""
    async with built() as house:
        path = await made(house)
        house.ledger.trusted = False
        assert (await get(house, path)).status == 200
        assert (await house.ask(RESPONSES, response())).status == 503
        assert house.owners.claimed[0].kind == RESPONSE
