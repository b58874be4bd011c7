"""Letters of a worker that ends: whoever was told that they are on their way finds them there."""

import asyncio
import signal
from pathlib import Path

import aiohttp

from meterproxy.control.mailer import SENDERS
from tests.control.postbox import postbox
from tests.service.running import service, until

GUESTS = [f"guest{number}@example.com" for number in range(3 * SENDERS)]
OWNER = {"email": "ann@example.com", "password": "correct horse battery"}


async def test_letters_arrive_though_the_service_is_stopped(reachable_dir: Path) -> None:
    """Those that are on their way, and those that wait behind them: the worker that listens no more waits, too."""
    async with postbox() as box:
        environment = {
            "METERPROXY_REGISTRATION": "open",
            "METERPROXY_PUBLIC_URL": "https://meter.example",
            "METERPROXY_MAIL__HOST": "127.0.0.1",
            "METERPROXY_MAIL__PORT": str(box.port),
            "METERPROXY_MAIL__TLS": "none",
            "METERPROXY_MAIL__FROM": "meter@example.com",
        }
        async with service(reachable_dir, environment=environment) as running:
            await until(lambda: "trusted_proxies is empty" in running.whole_log(), "a warning of what was left out")
            box.taking.clear()
            async with aiohttp.ClientSession(running.origin) as session:
                assert (await session.post("/api/auth/register", json={"username": "Ann", **OWNER})).status == 201
                signed = await (await session.post("/api/auth/login", json=OWNER)).json()
                session.headers["Authorization"] = f"Bearer {signed['access_token']}"
                me = await (await session.get("/api/auth/me")).json()
                path = f"/api/organizations/{me['organizations'][0]['organization_id']}/invitations"
                for guest in GUESTS:
                    made = await (await session.post(path, json={"email": guest})).json()
                    assert made["mailed"]
            await until(lambda: box.attempts == SENDERS, "the first letters' coming")
            idle, writer = await asyncio.open_connection("127.0.0.1", running.port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await idle.readline()).startswith(b"HTTP/1.1 200")
            assert running.process is not None
            running.process.send_signal(signal.SIGTERM)
            await idle.read()  # to its end, which is the beginning of the worker's
            box.taking.set()
            writer.close()
        assert sorted(box.recipients) == sorted(GUESTS)
