"""Metrics of a running service: what Prometheus reads is well-formed, complete and true."""

import asyncio
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.service.running import Service
from tests.tools import required

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT = "/v1/chat/completions"
ROOT = Path(__file__).parents[2]
REACHED_SECONDS = 20

Samples = dict[str, float]


async def exposition(service: Service) -> str:
    """What Prometheus would read now."""
    async with aiohttp.ClientSession() as session, session.get(f"{service.origin}/metrics") as answer:
        assert answer.status == 200
        return await answer.text()


async def scrape(service: Service) -> Samples:
    """Every sample by its name and labels, without our prefix: `requests_total{status=2xx,…}`, labels sorted."""
    samples = {}
    for family in text_string_to_metric_families(await exposition(service)):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            name = sample.name.removeprefix("meterproxy_")
            samples[f"{name}{{{labels}}}" if labels else name] = sample.value
    return samples


async def settled(service: Service, account: str) -> Samples:
    """The samples once all that was answered is in PostgreSQL."""
    await service.admin("GET", f"/admin/accounts/{account}?fresh=1", status=200)
    return await scrape(service)


async def reached(service: Service, is_so: Callable[[Samples], bool]) -> Samples:
    """The first samples of which something is so."""
    async with asyncio.timeout(REACHED_SECONDS):
        while not is_so(samples := await scrape(service)):
            await asyncio.sleep(0.02)
    return samples


def told(before: Samples, after: Samples, name: str) -> dict[str, float]:
    """What was added to a metric's samples, by labels; what did not move is left out."""
    moved = {
        key: value - before.get(key, 0) for key, value in after.items() if re.fullmatch(rf"{name}(\{{.*\}})?", key)
    }
    return {key.removeprefix(name).strip("{}"): round(value, 12) for key, value in moved.items() if value}


class Traffic:
    """Requests of one customer."""

    def __init__(self, service: Service, session: aiohttp.ClientSession, key: str) -> None:
        self.service = service
        self.session = session
        self.headers = {"Authorization": f"Bearer {key}"}

    async def ask(self, text: str, path: str = CHAT, **changes: Any) -> int:
        """The status of one answer, read to its end."""
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}], "max_tokens": 50, **changes}
        async with self.session.post(self.service.origin + path, json=body, headers=self.headers) as answer:
            await answer.read()
            return answer.status


async def test_promtool_has_nothing_to_say(shared: Service) -> None:
    """`promtool check metrics` passes on an exposition after traffic."""
    promtool = required("promtool")
    account, key = await shared.customer()
    async with aiohttp.ClientSession() as session:
        traffic = Traffic(shared, session, key)
        await traffic.ask("hello")
        await traffic.ask("hello", stream=True)
        await traffic.ask("[[simulate: status=400]]")
        await traffic.ask("hello", model="sim-unpriced-1")
    await settled(shared, account)
    text = await exposition(shared)
    done = await asyncio.to_thread(
        subprocess.run, [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


async def test_alert_rules_are_rules(shared: Service) -> None:
    """`promtool check rules` passes on the alert rules as shipped."""
    promtool = required("promtool")
    done = await asyncio.to_thread(
        subprocess.run,
        [promtool, "check", "rules", str(ROOT / "deploy" / "alerts.yml")],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


async def test_every_documented_metric_is_there(shared: Service) -> None:
    """Each name of docs/metrics.md is exposed with a help text and a type, and nothing of ours beyond."""
    rows = [
        line.split("|") for line in (ROOT / "docs" / "metrics.md").read_text().splitlines() if line.startswith("| `")
    ]
    documented = {row[1].strip(" `"): row[2].strip() for row in rows}
    text = await exposition(shared)
    assert dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)) == documented
    assert set(re.findall(r"^# HELP (\S+) \S", text, re.MULTILINE)) == set(documented)


async def test_requests_and_refusals_are_counted_by_what_they_were(shared: Service) -> None:
    """Route, model, provider and status class of each answer; every refusal of ours under its reason."""
    account, key = await shared.customer()
    _, poor = await shared.customer("0")
    async with aiohttp.ClientSession() as session:
        rich, broke, nobody = (Traffic(shared, session, secret) for secret in (key, poor, "mp-nobody"))
        before = await settled(shared, account)
        statuses = [
            await rich.ask("hello"),
            await rich.ask("hello", stream=True),
            await rich.ask("hello", "/v1/embeddings", model="text-embedding-3-small", input="a", messages=None),
            await rich.ask("[[simulate: status=404]]"),
            await rich.ask("[[simulate: status=500]]"),
            await rich.ask("[[simulate: drop]]"),
            await rich.ask("[[simulate: cut=3]]", stream=True),
            await rich.ask("hello", max_tokens=-1),
            await rich.ask("hello", model="sim-unpriced-1"),
            await broke.ask("hello"),
            await nobody.ask("hello"),
            await rich.ask("hello", "/v1/nothing"),
            await rich.ask("[[simulate: status=403]]"),
        ]
        async with session.get(f"{shared.base_url}/models/gpt-4o", headers=rich.headers) as answer:
            statuses.append(answer.status)
        after = await settled(shared, account)
    assert statuses == [200, 200, 400, 404, 500, 502, 200, 400, 404, 429, 401, 404, 503, 200]
    model = f"model=gpt-4o-mini,provider=openai,route={CHAT}"
    assert told(before, after, "requests_total") == {
        f"{model},status=2xx": 3,
        f"{model},status=4xx": 3,
        f"{model},status=5xx": 3,
        "model=text-embedding-3-small,provider=openai,route=/v1/embeddings,status=4xx": 1,
        f"model=,provider=,route={CHAT},status=4xx": 2,
        "model=,provider=,route=other,status=4xx": 1,
        "model=,provider=,route=/v1/models/{model},status=2xx": 1,
    }
    assert told(before, after, "refusals_total") == {
        "reason=upstream_unreachable": 1,
        "reason=upstream_account": 1,
        "reason=malformed": 1,
        "reason=model_not_priced": 1,
        "reason=credit_spent": 1,
        "reason=key_invalid": 1,
        "reason=path_unknown": 1,
    }
    assert told(before, after, "upstream_errors_total") == {
        "provider=openai,reason=server_error": 1,
        "provider=openai,reason=stream_broken": 1,
        "provider=openai,reason=upstream_unreachable": 1,
        "provider=openai,reason=upstream_account": 1,
    }
    assert sum(told(before, after, "request_seconds_count").values()) == len(statuses)
    assert sum(told(before, after, "overhead_seconds_count").values()) == len(statuses)


async def test_usage_and_amounts_agree_with_the_books(shared: Service) -> None:
    """Tokens by kind, dollars and sources are those of the rows, to the nanodollar."""
    account, key = await shared.customer()
    usage = (
        '{"prompt_tokens":100,"completion_tokens":40,"prompt_tokens_details":{"cached_tokens":60},'
        '"completion_tokens_details":{"reasoning_tokens":15}}'
    )
    async with aiohttp.ClientSession() as session:
        traffic = Traffic(shared, session, key)
        before = await settled(shared, account)
        assert await traffic.ask(f"[[simulate: usage={usage}]]") == 200
        assert await traffic.ask(f"[[simulate: usage={usage}]]", stream=True) == 200
        assert await traffic.ask("[[simulate: no_usage, tokens=9]]") == 200
        assert await traffic.ask("[[simulate: status=500]]") == 500
        after = await settled(shared, account)
    tokens = told(before, after, "tokens_total")
    assert (tokens["kind=cache_read"], tokens["kind=reasoning"], tokens["kind=output"]) == (120, 30, 2 * 25 + 9)
    assert told(before, after, "usage_source_total") == {"source=provider": 2, "source=counted": 1}
    spent = 5 * 10**9 - await shared.balance_nanos(account)
    assert told(before, after, "amount_usd_total") == {"": spent / 1e9}
    assert told(before, after, "overrun_usd_total") == {}
    assert sum(told(before, after, "settle_records_sum").values()) == 4


async def test_an_overrun_is_counted(shared: Service) -> None:
    """What a provider bills above the hold is booked, charged, and told apart."""
    account, key = await shared.customer()
    async with aiohttp.ClientSession() as session:
        before = await settled(shared, account)
        usage = '{"prompt_tokens":100000,"completion_tokens":1}'
        assert await Traffic(shared, session, key).ask(f"[[simulate: usage={usage}]]") == 200
        after = await settled(shared, account)
    spent = 5 * 10**9 - await shared.balance_nanos(account)
    assert spent == 100_000 * 150 + 600
    overrun = told(before, after, "overrun_usd_total")[""]
    entries = (await shared.admin("GET", f"/admin/accounts/{account}/transactions"))["data"]
    booked = -sum(entry["amount_nanos"] for entry in entries if entry["kind"] == "overrun")
    assert 0 < booked < spent
    assert overrun == booked / 1e9


async def test_what_is_open_is_told_and_goes_back_to_nothing(shared: Service) -> None:
    """A running stream shows as a stream and a hold with an age; afterwards none is left."""
    account, key = await shared.customer()
    async with aiohttp.ClientSession() as session:
        await reached(shared, lambda now: now["streams_open"] == now["holds_open"] == 0)
        asking = asyncio.create_task(
            Traffic(shared, session, key).ask("[[simulate: slow=0.05, tokens=10]]", stream=True)
        )
        running = await reached(shared, lambda now: now["streams_open"] == 1)
        assert running["holds_open"] == 1
        assert 0 < running["hold_oldest_seconds"] < REACHED_SECONDS
        assert await asking == 200
    after = await settled(shared, account)
    assert after["streams_open"] == after["holds_open"] == after["hold_oldest_seconds"] == 0
    assert after["journal_unsettled_records"] == after["journal_oldest_seconds"] == 0


async def test_borrowing_and_settling_are_counted(shared: Service) -> None:
    """A new account's first request borrows, an empty one is refused; each batch is timed."""
    account, key = await shared.customer()
    _, poor = await shared.customer("0")
    async with aiohttp.ClientSession() as session:
        before = await settled(shared, account)
        assert await Traffic(shared, session, key).ask("hello") == 200
        assert await Traffic(shared, session, poor).ask("hello") == 429
        after = await settled(shared, account)
    borrowed = told(before, after, "lease_requests_total")
    assert borrowed["result=granted"] >= 1
    assert borrowed["result=refused"] >= 1
    assert "result=failed" not in borrowed
    assert told(before, after, "settle_seconds_count") == told(before, after, "settle_records_count")


async def test_a_healthy_service_says_so(shared: Service) -> None:
    """Nothing dropped, rejected, lost or broken, and the database up."""
    now = await scrape(shared)
    for name in ("rows_dropped_total", "settle_rejected_total", "lost_lease_nanos"):
        assert now[name] == 0
    broken = {name: value for name, value in now.items() if name.startswith("invariant_failed")}
    assert set(broken.values()) == {0}
    assert now["database_up"] == 1
    assert abs(now["clock_skew_seconds"]) < 5
    assert [value for name, value in now.items() if name.startswith("build_info{version=")] == [1]


async def test_labels_do_not_grow_with_what_clients_send(shared: Service) -> None:
    """Sixty paths, models and keys that nobody knows add one sample, not sixty."""
    _, key = await shared.customer()
    async with aiohttp.ClientSession() as session:
        before = await scrape(shared)
        for number in range(20):
            await Traffic(shared, session, key).ask("hello", f"/v1/nothing-{number}")
            await Traffic(shared, session, key).ask("hello", model=f"nothing-{number}")
            await Traffic(shared, session, f"mp-nobody-{number}").ask("hello")
        after = await scrape(shared)
    assert sum(told(before, after, "requests_total").values()) == 60
    assert len(told(before, after, "requests_total")) == 2
    assert "nothing-" not in "".join(after)
    assert "nobody-" not in "".join(after)
