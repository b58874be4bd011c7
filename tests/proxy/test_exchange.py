"""One exchange: what the client hears, what the provider gets, what is held."""

import asyncio
from ipaddress import ip_network
from uuid import UUID

import orjson
import pytest

from meterproxy.core.hold import Rate, Rates
from meterproxy.core.key import KeyPolicy
from meterproxy.core.limit import Limit, Measure, Scope
from meterproxy.core.money import format_usd
from meterproxy.core.window import WindowKind
from meterproxy.errors import ApiError, Case
from meterproxy.proxy.provider import REMEMBERED
from meterproxy.proxy.settings import ExchangeSettings
from tests.proxy.fakes import SECRET, FakeLedger, key_entry
from tests.proxy.house import House, built, chat, request, until

CHAT = "/v1/chat/completions"


class TestRefusals:
    @pytest.mark.parametrize(
        ("headers", "status", "code"),
        [
            ({"Authorization": ""}, 401, None),
            ({"Authorization": "Basic abc"}, 401, None),
            ({"Authorization": "Bearer mp-unknown"}, 401, "invalid_api_key"),
            ({"Authorization": "Bearer sk-other"}, 401, "invalid_api_key"),
            ({"Content_Encoding": "gzip"}, 415, None),
            ({"X_Meterproxy_Tags": "no"}, 400, None),
        ],
    )
    async def test_by_headers(self, headers: dict[str, str], status: int, code: str | None) -> None:
        """What the head of a request disqualifies is refused in OpenAI's shape, and no hold is left."""
        async with built() as house:
            answer = await house.ask(body=chat(), **headers)
            assert answer.status == status
            assert answer.error["code"] == code
            assert answer.headers["x-request-id"] == answer.headers["x-meterproxy-request-id"]
            assert not house.ledger.placed

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            (b"", None),
            (b"[]", None),
            (b"{", None),
            (b"{}", "model"),
            (b'{"model":""}', "model"),
            (b'{"model":5}', "model"),
            (b'{"model":"gpt-4o","model":"gpt-5"}', "model"),
            (b'{"model":"gpt-4o","MODEL":"gpt-5"}', "model"),
            (b'{"model":"gpt-4o","messages":[],"max_tokens":-1}', "max_tokens"),
            (b'{"model":"gpt-4o","messages":[],"max_tokens":1e3}', "max_tokens"),
            (b'{"model":"gpt-4o","messages":[],"max_tokens":99999999999}', "max_tokens"),
            (b'{"model":"gpt-4o","messages":[],"n":1.5}', "n"),
            (b'{"model":"gpt-4o","messages":[],"n":1000}', "n"),
            (b'{"model":"gpt-4o","messages":[],"stream":"yes"}', "stream"),
            (b'{"model":"gpt-4o","messages":[],"stream":true,"stream_options":5}', "stream_options"),
        ],
    )
    async def test_by_body(self, body: bytes, param: str | None) -> None:
        """What cannot be read, or in two ways, is a 400 that names the member; no hold is left."""
        async with built() as house:
            answer = await house.ask(body=body)
            assert answer.status == 400
            assert answer.error["param"] == param
            assert not house.ledger.open

    @pytest.mark.parametrize(
        ("method", "path", "status", "code"),
        [
            ("POST", "/v1/unknown", 404, "unknown_url"),
            ("POST", "/v1/chat/completions/", 404, "unknown_url"),
            ("POST", "/v1//chat/completions", 404, "unknown_url"),
            ("POST", "/v1/chat%2Fcompletions", 404, "unknown_url"),
            ("POST", "/v1/./chat/completions", 404, "unknown_url"),
            ("GET", "/v1/models/%2e%2e", 404, "unknown_url"),
            ("PUT", CHAT, 405, "method_not_supported"),
            ("DELETE", "/v1/models/x", 405, "method_not_supported"),
            ("GET", "/v1/models/nothing", 404, "model_not_found"),
        ],
    )
    async def test_by_path(self, method: str, path: str, status: int, code: str) -> None:
        """A path without a row is refused and never reaches the provider."""
        async with built() as house, house.client() as client:
            client.send(request(path, method=method))
            answer = await client.answer()
            assert answer.status == status
            assert answer.error["code"] == code
            assert not [call for call in await house.calls() if call["method"] != "GET"]

    async def test_models(self) -> None:
        """A model without a price, or that no provider serves, is told apart."""
        async with built() as house:
            assert (await house.ask(body=chat(model="sim-unpriced-1"))).error["code"] == "model_not_priced"
            house.provider.models = ("gpt-*",)
            answer = await house.ask(body=chat(model="claude-9"))
            assert answer.status == 404
            assert answer.error["code"] == "model_not_found"

    async def test_unpriced_models_may_be_free(self) -> None:
        """Where the operator says so, a model without a price costs nothing."""
        async with built(ExchangeSettings(unpriced="free")) as house:
            answer = await house.ask(body=chat(model="sim-unpriced-1"))
            assert answer.status == 200
            assert answer.headers["x-meterproxy-cost"] == "0.00"

    async def test_a_proxy_in_front_is_believed_where_it_is_trusted(self) -> None:
        """A key bound to networks is used from where the load balancer says the request came from."""
        policy = KeyPolicy(networks=(ip_network("9.9.9.0/24"),))
        for trusted, status in (((), 403), ((ip_network("127.0.0.0/8"),), 200)):
            async with built(ExchangeSettings(trusted_proxies=trusted), key=key_entry(policy=policy)) as house:
                assert (await house.ask(body=chat(), X_Forwarded_For="9.9.9.9")).status == status

    async def test_what_an_operator_has_stopped_is_refused(self) -> None:
        """What costs is refused before anything is held or sent; what is free goes on, and a drained host hangs up."""
        async with built() as house:
            [digest] = house.directory.keys
            key, brakes = house.directory.keys[digest], house.exchanges.house.ports.brakes
            key.account.change((), frozen=True)
            answer = await house.ask(body=chat())
            assert (answer.status, answer.error["code"]) == (403, "account_frozen")
            key.account.change((), frozen=False)
            brakes.read_only = True
            answer = await house.ask(body=chat())
            assert (answer.status, answer.error["code"], answer.headers["x-should-retry"]) == (
                503,
                "read_only",
                "false",
            )
            brakes.read_only, brakes.drained = False, True
            answer = await house.ask(body=chat())
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert answer.headers["connection"] == "close"
            async with house.client() as client:
                client.send(request("/v1/models", method="GET"))
                assert (await client.answer()).status == 200
            assert not house.ledger.placed
            brakes.drained = False
            assert (await house.ask(body=chat())).status == 200

    async def test_a_client_is_told_of_its_rate_limits(self) -> None:
        """On answers and on refusals, where there are such limits; never of the provider's own."""
        async with built() as house:
            [digest] = house.directory.keys
            house.ledger.rated = Rates(Rate(60, 59, 360_000_000), None)
            assert "x-ratelimit-limit-requests" not in (await house.ask(body=chat())).headers
            limit = Limit(UUID(int=1), Scope.ACCOUNT, UUID(int=2), Measure.REQUESTS, WindowKind.DAY, 60)
            house.directory.keys[digest].account.change((limit,), frozen=False)
            for balance_nanos, status in ((5_000_000_000, 200), (0, 429)):
                house.ledger.balance_nanos = balance_nanos
                answer = await house.ask(body=chat())
                assert answer.status == status
                told = {name: value for name, value in answer.headers.items() if name.startswith("x-ratelimit")}
                assert told == {
                    "x-ratelimit-limit-requests": "60",
                    "x-ratelimit-remaining-requests": "59",
                    "x-ratelimit-reset-requests": "6m0s",
                }

    async def test_policy(self) -> None:
        """A key's policy is checked on every request."""
        async with built() as house:
            [digest] = house.directory.keys

            async def code(policy: KeyPolicy, expires_us: int | None = None) -> object:
                house.directory.keys[digest] = key_entry(policy=policy, expires_us=expires_us)
                answer = await house.ask(body=chat())
                return None if answer.status == 200 else answer.error["code"]

            assert await code(KeyPolicy(operations=("embedding",))) == "permission_denied"
            assert await code(KeyPolicy(operations=("chat",))) is None
            assert await code(KeyPolicy(networks=(ip_network("10.0.0.0/8"),))) == "permission_denied"
            assert await code(KeyPolicy(networks=(ip_network("127.0.0.0/8"),))) is None
            assert await code(KeyPolicy(models=("gpt-5*",))) == "model_not_found"
            assert await code(KeyPolicy(models=("gpt-5*", "gpt-4o"))) is None
            assert await code(KeyPolicy(highest_request_nanos=1000)) == "permission_denied"
            assert await code(KeyPolicy(highest_request_nanos=1_000_000_000)) is None
            assert await code(KeyPolicy(), house.clock.now_us() - 1) == "invalid_api_key"
            assert await code(KeyPolicy(), house.clock.now_us() + 10_000_000) is None

    async def test_directory(self) -> None:
        """A key that memory does not have is looked up; where PostgreSQL is away that is a 503, never a 401."""
        async with built() as house:
            house.directory.cold = True
            assert (await house.ask(body=chat())).status == 200
            assert house.directory.lookups == 1
            house.directory.cold = house.directory.away = True
            answer = await house.ask(body=chat())
            assert (answer.status, answer.error["code"]) == (503, "service_unavailable")
            assert answer.headers["retry-after"] == "1"

    async def test_api_key_header(self) -> None:
        """`x-api-key` works as well as a bearer token, and neither reaches the provider."""
        async with built() as house:
            assert (await house.ask(body=chat(), Authorization="", x_api_key=SECRET)).status == 200
            [call] = await house.calls()
            assert SECRET not in repr(call["headers"])
            assert ["Authorization", "Bearer sk-upstream"] in call["headers"]

    async def test_several_credentials(self) -> None:
        """Another scheme does not hide an API key; two different headers leave open who asks, so nobody does."""
        async with built() as house, house.client() as client:
            assert (await house.ask(body=chat(), Authorization="Basic abc", x_api_key=SECRET)).status == 200
            for other, status in ((f"Bearer {SECRET}", 200), ("Bearer mp-other", 401), ("Basic abc", 401)):
                line = f"\r\nAuthorization: {other}\r\nContent-Type".encode()
                client.send(request(CHAT, chat()).replace(b"\r\nContent-Type", line))
                answer = await client.answer()
                assert answer.status == status
                assert status == 200 or answer.error["code"] == "invalid_api_key"

    async def test_credit_spent(self) -> None:
        """Without credit the answer is OpenAI's, not to be retried, with the status that the operator wants."""
        async with built(ledger=FakeLedger(balance_nanos=0)) as house:
            answer = await house.ask(body=chat())
            assert (answer.status, answer.error["code"]) == (429, "insufficient_quota")
            assert answer.headers["x-should-retry"] == "false"
            assert house.counter.asked == []
        async with built(ExchangeSettings(out_of_credit_status=402), ledger=FakeLedger(balance_nanos=0)) as house:
            assert (await house.ask(body=chat())).status == 402

    async def test_refused_with_its_body_unread(self) -> None:
        """A refused request may have a body of many megabytes: it is dropped, and the connection goes on."""
        async with built() as house, house.client() as client:
            client.send(request(CHAT, b"x" * 5_000_000, secret="mp-wrong") + request(CHAT, chat()))
            assert (await client.answer()).status == 401
            assert (await client.answer()).status == 200

    async def test_our_account_refused_rests_the_provider(self) -> None:
        """After the provider refused our key nothing is sent for a while."""
        async with built() as house:
            assert (await house.ask(body=chat("status=401"))).status == 503
            assert (await house.ask(body=chat())).error["code"] == "upstream_account"
            assert len(await house.calls()) == 1
            assert house.observer.failures == [("openai", "upstream_account")]
            house.clock.advance(60)
            assert (await house.ask(body=chat())).status == 200

    async def test_forbidden_rests_one_account_and_model(self) -> None:
        """A 403 may be one tenant's doing, so others, other models and other operations go on."""
        async with built() as house:
            assert (await house.ask(body=chat("status=403"))).status == 503
            assert (await house.ask(body=chat())).status == 503
            assert (await house.ask(body=chat(model="gpt-4o-mini"))).status == 200
            completion = {"model": "gpt-4o", "prompt": "hi", "max_tokens": 5}
            await house.ask("/v1/completions", completion)
            assert len(await house.calls()) == 3


class TestAnswers:
    async def test_headers(self) -> None:
        """A plain answer tells its cost and the balance; the provider's account and edge stay hidden."""
        async with built() as house:
            answer = await house.ask(body=chat("tokens=20,header=Set-Cookie:a=b"))
            assert answer.headers["x-meterproxy-cost"] == format_usd(house.ledger.rows[0].amount_nanos)
            assert answer.headers["x-meterproxy-balance"].startswith("4.999")
            assert answer.headers["x-meterproxy-request-id"] == str(house.ledger.rows[0].request_id)
            assert not {"server", "set-cookie", "openai-organization"} & set(answer.headers)
            assert not [name for name in answer.headers if name.startswith("x-ratelimit")]

    async def test_errors_of_the_provider_pass(self) -> None:
        """An error about the request keeps its status, words and headers."""
        async with built() as house:
            answer = await house.ask(body=chat("status=429,code=rate_limit_exceeded,retry_after=3"))
            assert answer.status == 429
            assert answer.headers["retry-after"] == "3"
            assert answer.error["code"] == "rate_limit_exceeded"

    async def test_bytes_pass(self) -> None:
        """The client's bytes reach the provider as they were, but for what had to change."""
        body = b'{ "model":"gpt-4o" , "messages":[{"role":"user","content":"\\ud800 hi"}],\n"max_tokens":5}'
        async with built() as house:
            await house.ask(body=body, Idempotency_Key="k")
            [call] = await house.calls()
            assert call["body"].encode() == body
            headers = {name.lower(): value for name, value in call["headers"]}
            assert headers["accept-encoding"] == "identity"
            assert len(headers["idempotency-key"]) == 64

    @pytest.mark.parametrize(("model", "field"), [("gpt-4o", "max_tokens"), ("gpt-5", "max_completion_tokens")])
    async def test_lowered_maximum(self, model: str, field: str) -> None:
        """A client that names no maximum is told, and so is the provider, what the rest pays for."""
        async with built(ledger=FakeLedger(balance_nanos=1_000_000_000)) as house:
            body = {"model": model, "messages": [{"role": "user", "content": "hi"}], field: None}
            answer = await house.ask(body=body)
            told = int(answer.headers["x-meterproxy-max-tokens"])
            [call] = await house.calls()
            assert orjson.loads(call["body"])[field] == told
            assert house.ledger.rows[0].hold_nanos <= 250_000_000
            assert house.ledger.rows[0].ending.outcome == "completed"

    @pytest.mark.parametrize("stream", [False, True])
    async def test_unknown_coding_passes(self, stream: bool) -> None:
        """An answer in a coding that nobody here can read passes as it is and is estimated."""
        async with built() as house:
            answer = await house.ask(body=chat("tokens=20,header=Content-Encoding:br", stream=stream))
            assert answer.headers["content-encoding"] == "br"
            assert b"choices" in answer.body
            [row] = house.ledger.rows
            assert (row.outcome, row.source) == ("completed", "estimated")
            assert 20 <= row.usage.output <= 50

    async def test_http_1_0_stream(self) -> None:
        """A client of HTTP/1.0 gets its stream without chunks, ended by the connection."""
        async with built() as house, house.client() as client:
            client.send(request(CHAT, chat(stream=True)).replace(b"HTTP/1.1", b"HTTP/1.0"))
            answer = await client.answer()
            assert answer.body.endswith(b"data: [DONE]\n\n")
            assert await client.ended()

    async def test_large_answer_passes_piece_by_piece(self) -> None:
        """An answer too large to be read whole is passed on, and its usage found in its tail."""
        async with built(ExchangeSettings(buffered_bytes=10_000)) as house:
            body = {"model": "text-embedding-3-large", "input": ["one", "two", "three"]}
            answer = await house.ask("/v1/embeddings", body)
            whole = orjson.loads(answer.body)
            assert len(whole["data"]) == 3
            assert "x-meterproxy-cost" not in answer.headers
            [row] = house.ledger.rows
            assert (row.source, row.usage.input) == ("provider", whole["usage"]["prompt_tokens"])

    async def test_large_answer_cut(self) -> None:
        """A large answer that breaks off does not look complete to the client, and is booked as broken."""
        async with built(ExchangeSettings(buffered_bytes=10_000)) as house, house.client() as client:
            body = {"model": "text-embedding-3-large", "input": ["one", "two", "three"]}
            client.send(request("/v1/embeddings", body, X_Simulate="cut=40000"))
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await client.answer()
            await house.ended()
            [row] = house.ledger.rows
            assert (row.how, row.outcome) == ("captured", "stream_broken")
            assert row.usage.input == 3

    async def test_metrics(self) -> None:
        """What ended is told once, with the route's template."""
        async with built() as house:
            await house.ask(body=chat())
            await house.ask(body=chat(), Authorization="")
            await house.ended()
            done, refused = house.observer.ended
            assert (done.route, done.model, done.provider, done.status) == (CHAT, "gpt-4o", "openai", 200)
            assert 0 < done.upstream_us <= done.total_us
            assert done.first_byte_us is not None
            assert (refused.status, refused.ending) == (401, None)
            assert house.observer.refusals == [("key_missing", CHAT)]


class TestStreams:
    async def test_stream_is_what_the_provider_sends_without_our_option(self) -> None:
        """The client of an edited stream gets byte for byte what the provider sends a client of its own."""

        def generic(body: bytes) -> list[bytes]:
            return [line for line in body.split(b"\n") if line.startswith(b"data")]

        async with built() as house:
            edited = await house.ask(body=chat("tokens=9", stream=True))
            house.provider.reject_usage_option("chat", "gpt-4o", house.clock.now_us())
            plain = await house.ask(body=chat("tokens=9", stream=True))
            assert len(generic(edited.body)) == len(generic(plain.body))
            assert b"usage" not in edited.body
            first, second = await house.calls()
            assert orjson.loads(first["body"])["stream_options"] == {"include_usage": True}
            assert "stream_options" not in orjson.loads(second["body"])

    @pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_obfuscation": False}])
    async def test_usage_is_asked_for_in_every_case(self, options: object) -> None:
        """Whatever the client's options are, the provider is asked for usage and the client does not see it."""
        async with built() as house:
            answer = await house.ask(body=chat("tokens=3", stream=True, stream_options=options))
            assert b"usage" not in answer.body
            assert house.ledger.rows[0].source == "provider"
            [call] = await house.calls()
            assert orjson.loads(call["body"])["stream_options"]["include_usage"] is True

    async def test_rejected_option_is_remembered(self) -> None:
        """A model that rejects the option is asked once more without, and for an hour without; others are not."""
        async with built() as house:
            for _ in range(2):
                assert (await house.ask(body=chat("reject_stream_options", stream=True))).status == 200
            assert len(await house.calls()) == 3
            await house.ask(body=chat(stream=True, model="gpt-4o-mini"))
            house.clock.advance(3601)
            await house.ask(body=chat(stream=True))
            last, later = (await house.calls())[3:]
            assert "stream_options" in orjson.loads(last["body"])
            assert "stream_options" in orjson.loads(later["body"])

    async def test_what_is_remembered_is_bounded(self) -> None:
        """However many models reject the option, the oldest is forgotten first."""
        async with built() as house:
            for number in range(REMEMBERED + 1):
                house.provider.reject_usage_option("chat", f"model-{number}", 0)
            assert house.provider.takes_usage_option("chat", "model-0", 1)
            assert not house.provider.takes_usage_option("chat", "model-1", 1)
            assert house.provider.takes_usage_option("completion", "model-1", 1)

    async def test_hidden_output_that_nobody_told(self) -> None:
        """A count of a model that thinks first is flagged: what it thought is not in it."""
        async with built() as house:
            thinking = {"model": "gpt-5", "max_tokens": None, "max_completion_tokens": 50}
            await house.ask(body=chat("reject_stream_options,no_usage", stream=True, **thinking))
            await house.ask(body=chat("no_usage", **thinking))
            await house.ask(body=chat("no_usage"))
            flags = [row.ending.flags for row in house.ledger.rows]
            assert flags == [("hidden_output_not_counted",), ("hidden_output_not_counted",), ()]

    async def test_ending_is_written_before_the_terminal_event(self) -> None:
        """When the client sees `[DONE]`, or the whole plain answer, the row is there."""
        async with built() as house, house.client() as client:
            client.send(request(CHAT, chat("tokens=5,slow=0.003", stream=True)))
            await client.head()
            heard = b""
            while b"[DONE]" not in heard:
                assert len(house.ledger.rows) <= heard.count(b'"finish_reason":"stop"')
                heard += await client.chunk()
            assert len(house.ledger.rows) == 1

    async def test_first_event_is_not_held_back(self) -> None:
        """Each event reaches the client when it comes."""
        async with built() as house, house.client() as client:
            client.send(request(CHAT, chat("slow=0.05,tokens=4", stream=True)))
            await client.head()
            assert b'"role"' in await client.chunk()
            assert house.ledger.open

    async def test_keepalive(self) -> None:
        """Where it is switched on, silence is filled with comments between events."""
        async with built(ExchangeSettings(keepalive_seconds=0.01)) as house:
            answer = await house.ask(body=chat("slow=0.03,tokens=3", stream=True))
            assert b"\n\n: keepalive\n\ndata: " in answer.body
            assert house.ledger.rows[0].outcome == "completed"

    async def test_progress(self) -> None:
        """What a stream has delivered is journaled from time to time, and only when there is news."""
        async with built() as house, house.client() as client:
            client.send(request(CHAT, chat("slow=0.2,tokens=9", stream=True)))
            await client.head()
            await client.chunk()
            await client.chunk()
            house.exchanges._look_after()
            assert house.ledger.told == []
            house.clock.advance(11)
            house.exchanges._look_after()
            house.clock.advance(11)
            house.exchanges._look_after()
            [told] = house.ledger.told
            assert told.output >= 2
            assert told.input > 0

    async def test_a_corrected_clock_is_no_time_passed(self) -> None:
        """PostgreSQL's clock leaps by hours: nothing is over its time, and nothing took hours."""
        async with built() as house, house.client() as client:
            client.send(request(CHAT, chat("slow=0.02,tokens=9", stream=True)))
            await client.head()
            await client.chunk()
            house.clock.correct(7200)
            house.exchanges._look_after()
            assert (await client.answer_body()).endswith(b"data: [DONE]\n\n")
            await house.ended()
            assert house.ledger.told == []
            [row] = house.ledger.rows
            assert row.outcome == "completed"
            assert 0 < row.ending.first_byte_us <= row.ending.latency_us < 3600 * 10**6
            assert house.observer.ended[0].total_us < 3600 * 10**6

    async def test_slow_reader(self) -> None:
        """A client that does not read holds the provider up instead of filling memory."""
        async with built() as house, house.client() as client:
            client.send(request(CHAT, chat("tokens=5,huge_line=30000000", stream=True)))
            await client.head()
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            sent, before = 1, 0
            while sent != before:
                before = sent
                await asyncio.sleep(0.05)
                sent = (await house.calls())[0]["sent_bytes"]
            assert (await house.calls())[0]["ended"] == "open"
            client.writer.transport.resume_reading()  # type: ignore[attr-defined]
            assert len(await client.answer_body()) > 30_000_000

    async def test_leavers_are_bounded(self) -> None:
        """Beyond their number, streams of clients that left are aborted and counted."""
        async with built(ExchangeSettings(leavers=0)) as house:
            async with house.client() as client:
                client.send(request(CHAT, chat("slow=0.01,tokens=40", stream=True)))
                await client.head()
                await client.chunk()
                client.writer.transport.abort()
            await house.ended()
            [row] = house.ledger.rows
            assert (row.outcome, row.source) == ("client_left", "counted")
            assert row.usage.output < 40

    async def test_leavers_are_read_on_for_a_bounded_time(self) -> None:
        """A stream that goes on for too long after its client left is aborted."""
        async with built(ExchangeSettings(leaver_seconds=0.02)) as house:
            async with house.client() as client:
                client.send(request(CHAT, chat("slow=0.02,tokens=200", stream=True)))
                await client.head()
                await client.chunk()
                client.writer.transport.abort()
            await house.ended()
            assert house.ledger.rows[0].outcome == "client_left"


class TestModels:
    async def test_list(self) -> None:
        """The list has what is priced and allowed, in the provider's words."""
        async with built() as house, house.client() as client:
            client.send(request("/v1/models", method="GET"))
            listed = orjson.loads((await client.answer()).body)
            ids = {model["id"] for model in listed["data"]}
            assert listed["object"] == "list"
            assert "gpt-4o" in ids
            assert "sim-unpriced-1" not in ids
            [digest] = house.directory.keys
            house.directory.keys[digest] = key_entry(policy=KeyPolicy(models=("gpt-4o*",), operations=("chat",)))
            client.send(request("/v1/models", method="GET"))
            listed = orjson.loads((await client.answer()).body)
            assert {model["id"] for model in listed["data"]} == {id_ for id_ in ids if id_.startswith("gpt-4o")}
            client.send(request("/v1/models/gpt-4o", method="GET"))
            assert orjson.loads((await client.answer()).body)["id"] == "gpt-4o"
            client.send(request("/v1/models/gpt-5", method="GET"))
            assert (await client.answer()).error["code"] == "model_not_found"
            assert len(await house.calls()) == 1

    async def test_old_list_stands_while_the_provider_is_away(self) -> None:
        """A list is kept for a minute, and longer while no newer one can be had."""
        async with built() as house:
            house.provider.upstream, upstream = _Away(), house.provider.upstream  # type: ignore[assignment]
            async with house.client() as client:
                client.send(request("/v1/models", method="GET"))
                assert (await client.answer()).error["code"] == "upstream_unreachable"
                house.provider.upstream = upstream
                house.clock.advance(6)
                client.send(request("/v1/models", method="GET"))
                assert (await client.answer()).status == 200
                house.provider.upstream = _Away()  # type: ignore[assignment]
                house.clock.advance(100)
                client.send(request("/v1/models", method="GET"))
                assert (await client.answer()).status == 200
                house.provider.upstream = upstream


class _Away:
    async def send(self, *_: object, **__: object) -> None:
        from meterproxy.proxy.upstream import UpstreamUnreachable

        raise UpstreamUnreachable("refused")


class TestShutdown:
    async def test_finish_waits_then_cuts(self) -> None:
        """Exchanges that end in time end by themselves; the others are captured as broken before `finish` returns."""
        async with built() as house, house.client() as quick, house.client() as endless:
            quick.send(request(CHAT, chat("slow=0.005,tokens=3", stream=True)))
            endless.send(request(CHAT, chat("slow=0.05,tokens=45", stream=True)))
            await quick.head()
            await endless.head()
            await house.exchanges.finish(0.2)
            assert not house.ledger.open
            assert sorted(row.outcome for row in house.ledger.rows) == ["completed", "stream_broken"]
            assert (await quick.answer_body()).endswith(b"data: [DONE]\n\n")
            assert b"shutting down" in await endless.answer_body()

    async def test_finish_without_exchanges(self, house: House) -> None:
        """With nothing open there is nothing to wait for."""
        await house.exchanges.finish(100)

    async def test_a_bug_is_answered_and_leaves_nothing(self, house: House) -> None:
        """An exception that nobody expected becomes a 500, and the hold is released."""

        def fail(*_: object) -> None:
            raise ZeroDivisionError

        house.ledger.confirm = fail  # type: ignore[method-assign, assignment]
        answer = await house.ask(body=chat())
        assert (answer.status, answer.error["code"]) == (500, "internal_error")
        assert not house.ledger.open
        assert house.ledger.rows[0].how == "released"

    async def test_cut_short_in_the_head(self) -> None:
        """An exchange whose body never comes can be ended too."""
        async with built() as house, house.client() as client:
            client.send(request(CHAT, chat())[:-5])
            await until(lambda: house.exchanges.open)
            house.exchanges.cut_all_short(ApiError(Case.UNAVAILABLE, "over"))
            answer = await client.answer()
            assert (answer.status, answer.headers["connection"]) == (503, "close")


@pytest.fixture
async def house():
    async with built() as house:
        yield house


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
async def test_a_client_that_leaves_a_silent_stream_is_noticed(reset: bool) -> None:
    """The provider sends nothing more; the hold ends and the connection to it comes back all the same."""
    settings = ExchangeSettings(on_disconnect="cancel")
    async with built(settings) as house:
        async with house.client() as client:
            client.send(request("/v1/chat/completions", {**chat("tokens=20,slow=30"), "stream": True}))
            await client.head()
            await client.chunk()
            if reset:
                client.writer.transport.abort()
        await house.ended()
        [row] = house.ledger.rows
        assert row.outcome == "client_left"
        assert house.provider.upstream.stats().open == 0
