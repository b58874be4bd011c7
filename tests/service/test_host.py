"""One host from start to end: by hand, by signal, by force, and when something is in the way."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from meterproxy.core.money import NANOS_PER_USD
from tests.service.load import Customer, Whole, ask, check_books, customer
from tests.service.mortal import DEATHS
from tests.service.running import MORTAL, Service, alive, free_port, hosted, service, until

DEMO_DEATHS = ["demo_account_made", "demo_credited", "demo_key_made"]


async def test_what_a_start_prints_works_when_pasted_and_a_second_start_finds_everything(
    reachable_dir: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    """Without a provider's key the answers are simulated; Ctrl-C in between leaves no process; money and key stay."""
    async with hosted(reachable_dir) as host:
        balances = []
        for number, start in enumerate(("first", "second"), 1):
            began = time.monotonic()
            await host.start()
            record_testsuite_property(f"{start}_start_seconds", round(time.monotonic() - began, 2))
            await until(lambda wanted=number: _greetings(host) == wanted, "the start was announced")
            answer = await asyncio.to_thread(_pasted, host)
            assert answer["choices"][0]["message"]["content"]
            (demo,) = (await host.admin("GET", "/admin/accounts", status=200))["data"]
            balances.append(await host.balance_nanos(demo["id"]))
            await _interrupted(host)
        first, second = (5 * NANOS_PER_USD - balance for balance in balances)
        assert second == 2 * first > 0
        assert host.log_text().count("is ready") == 2
        assert host.log_text().count("simulated: no OPENAI_API_KEY is set") == 2


def _greetings(host: Service) -> int:
    return host.log_text().count("serves on")


def _pasted(host: Service) -> dict:
    """Run exactly the last printed curl lines in a shell."""
    printed = host.log_text()
    lines = printed[printed.rindex("  curl ") :].split("\n\n")[0]
    done = subprocess.run(["bash", "-c", lines], capture_output=True, text=True, check=True, timeout=30)
    return json.loads(done.stdout)


async def _interrupted(host: Service) -> None:
    """Press Ctrl-C: the terminal signals its whole foreground process group."""
    process, pids = host.process, host.processes()
    assert process is not None
    assert len(pids) > 6, "supervisor, tokenizer, simulator, worker, PostgreSQL and its own"
    os.killpg(process.pid, signal.SIGINT)
    assert await asyncio.to_thread(process.wait, 60) == 0
    assert [pid for pid in pids if alive(pid)] == []
    host.process = None


async def test_a_first_start_that_was_killed_half_way_is_made_up_for(reachable_dir: Path) -> None:
    """Five dollars once, one key in the file that works, and no process but PostgreSQL survives its supervisor."""
    deaths = reachable_dir / "deaths"
    deaths.mkdir()
    async with hosted(reachable_dir) as host:
        host.program = MORTAL
        host.environment = {**host.environment, DEATHS: str(deaths)}
        for point in DEMO_DEATHS:
            (deaths / point).touch()
            await host.start(wait=False)
            assert host.process is not None
            assert await asyncio.to_thread(host.process.wait, 60) == -signal.SIGKILL
            assert not (host.data_dir / "demo.key").exists()
        await host.start()
        (demo,) = (await host.admin("GET", "/admin/accounts", status=200))["data"]
        assert await host.balance_nanos(demo["id"]) == 5 * NANOS_PER_USD
        await asyncio.to_thread(_pasted, host)
        assert (host.data_dir / "demo.key").stat().st_mode & 0o777 == 0o600
        await host.invariants()
        helpers = host.processes()
        postgres = set(host.children()["postgres"])
        await host.kill()
        await until(lambda: not any(alive(pid) for pid in helpers if pid not in postgres), "the end of the orphans")


async def streaming(session: aiohttp.ClientSession, host: Service, who: Customer, simulate: str) -> asyncio.Task:
    """A stream whose first bytes have come."""
    before = await host.provider_calls()
    task = asyncio.create_task(ask(session, host, who, stream=True, simulate=simulate, tokens=2000))
    while await host.provider_calls() == before:
        await asyncio.sleep(0.02)
    return task


async def test_a_stop_waits_for_a_running_stream_and_breaks_one_that_takes_too_long(reachable_dir: Path) -> None:
    """Within `drain_seconds` a stream comes to its end; beyond, its client hears so and what came is charged."""
    async with service(reachable_dir) as host, aiohttp.ClientSession() as session:
        who = await customer(host)
        quick = await streaming(session, host, who, "slow=0.02,tokens=50")
        assert await host.stop() == 0
        answer = await quick
        assert isinstance(answer, Whole)
        host.environment = {**host.environment, "METERPROXY_DRAIN_SECONDS": "0.2"}
        await host.start()
        endless = await streaming(session, host, who, "slow=0.05,tokens=2000")
        assert await host.stop() == 0
        with pytest.raises(aiohttp.ClientPayloadError, match="an error event"):
            await endless
        await host.start()
        endings = await check_books(host, [who], [answer])
        assert endings == {"captured": 2}
        rows = await host.rows("SELECT outcome, output_tokens, amount_nanos FROM usage_events ORDER BY occurred_at")
        assert [row["outcome"] for row in rows] == ["completed", "stream_broken"]
        assert 0 < rows[1]["output_tokens"] < 2000


async def test_the_start_after_a_killed_supervisor_cleans_up_and_goes_on(reachable_dir: Path) -> None:
    """A stream of the orphaned worker is ended and charged, its journal taken over, its PostgreSQL ended."""
    async with service(reachable_dir) as host, aiohttp.ClientSession() as session:
        who = await customer(host)
        endless = await streaming(session, host, who, "slow=0.05,tokens=2000")
        left = host.processes()
        await host.kill()
        await host.start()
        assert [pid for pid in left if alive(pid)] == []
        with pytest.raises(aiohttp.ClientPayloadError):
            await endless
        after = await ask(session, host, who, stream=False)
        assert isinstance(after, Whole)
        endings = await check_books(host, [who], [after])
        assert endings.total() == 2
        (row,) = await host.rows("SELECT outcome, amount_nanos FROM usage_events ORDER BY occurred_at LIMIT 1")
        assert (row["outcome"], row["amount_nanos"] > 0) == ("stream_broken", True)


async def test_what_is_in_the_way_is_told_in_one_line(reachable_dir: Path) -> None:
    """A port or a data directory in use, and a worker that cannot write its journal."""
    async with hosted(reachable_dir) as host:
        with socket.create_server(("127.0.0.1", host.port)):
            assert re.fullmatch(
                rf"meterproxy: port {host.port} on 127.0.0.1 is in use: stop what .*\n", await _refused(host)
            )
        host.data_dir.mkdir(exist_ok=True)
        (host.data_dir / "journals").write_text("no directory")
        told = (await _refused(host)).splitlines()
        assert re.fullmatch(r"meterproxy: a worker cannot run: .*/journals.*", told[-1])
        assert [line for line in told if "Traceback" in line] == []
        (host.data_dir / "journals").unlink()
        await host.start()
        running = host.environment
        host.environment = {**running, "METERPROXY_LISTEN": f"127.0.0.1:{free_port()}"}
        assert re.fullmatch(
            r"meterproxy: data_dir .*/data is in use by process \d+: stop it, or .*\n", await _refused(host)
        )
        host.environment = running


async def _refused(host: Service) -> str:
    done = await asyncio.to_thread(host.command, "serve")
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr
