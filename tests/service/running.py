"""A whole meterproxy as an operator runs it: `meterproxy serve` in processes of its own, with a simulated provider.

Rules
-----
- Nothing sleeps for a guess: readiness is asked for, ends are waited for.
- Whatever happens to a test, no process of it is left.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from meterproxy.simulator.app import running as simulator
from meterproxy.simulator.settings import SimulatorSettings
from tests.environment import scrubbed

ADMIN_TOKEN = "test-admin-token"
DEADLINE_SECONDS = 60


@dataclass
class Service:
    """A `meterproxy serve` and what a test needs to talk to it."""

    data_dir: Path
    port: int
    environment: Mapping[str, str]
    provider: str = ""
    process: subprocess.Popen[bytes] | None = None
    output: list[str] = field(default_factory=list)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1"

    async def start(self, *, wait: bool = True) -> None:
        """Run `serve`, and wait until it is ready."""
        self.log = (self.data_dir.parent / "serve.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "meterproxy", "serve"],
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        if wait:
            await self.ready()

    async def ready(self) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS), aiohttp.ClientSession() as session:
            while True:
                assert self.process is not None
                assert self.process.poll() is None, self.log_text()
                try:
                    async with session.get(f"{self.origin}/readyz") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """End it in order (or with another signal) and answer its exit code."""
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return await asyncio.to_thread(process.wait, DEADLINE_SECONDS)
        finally:
            process.kill()
            self.log.close()

    def log_text(self) -> str:
        return (self.data_dir.parent / "serve.log").read_text(errors="replace")[-6000:]

    def children(self) -> dict[str, list[int]]:
        """The processes of this service by what they are, workers first among them."""
        assert self.process is not None
        return {
            kind: pids
            for kind in ("_worker", "postgres", "tokenizer_process")
            if (pids := _below(self.process.pid, kind))
        }

    def worker(self) -> int:
        return self.children()["_worker"][0]

    async def admin(self, method: str, path: str, body: Any = None, *, status: int | None = None) -> Any:
        """Ask the operator's API; the JSON of its answer."""
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            async with session.request(method, f"{self.origin}{path}", json=body) as answer:
                content = await answer.json(content_type=None)
                if status is not None:
                    assert answer.status == status, content
                return content

    async def customer(self, credit: str = "5.00", **policy: Any) -> tuple[str, str]:
        """An account with credit and a key; answers (account id, secret)."""
        account = await self.admin("POST", "/admin/accounts", {"name": "Acme"}, status=201)
        if credit != "0":
            body = {"amount": credit, "kind": "grant", "description": "test"}
            await self.admin("POST", f"/admin/accounts/{account['id']}/credits", body, status=201)
        key = await self.admin(
            "POST", "/admin/keys", {"account_id": account["id"], "name": "test", **policy}, status=201
        )
        return account["id"], key["key"]

    async def balance_nanos(self, account_id: str) -> int:
        account = await self.admin("GET", f"/admin/accounts/{account_id}?fresh=1", status=200)
        return int(account["balance_nanos"])

    async def audit(self) -> None:
        """Fail where an invariant does."""
        done = await asyncio.to_thread(self.command, "audit")
        assert done.returncode == 0, done.stdout + done.stderr

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the command line against this service."""
        return subprocess.run(
            [sys.executable, "-m", "meterproxy", *words],
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )


@asynccontextmanager
async def service(
    directory: Path, settings: SimulatorSettings | None = None, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Service]:
    """A service with a simulated provider of its own, started; ended in order afterwards."""
    async with simulator(settings or SimulatorSettings()) as provider:
        variables = {
            **scrubbed(os.environ),
            "METERPROXY_DATA_DIR": str(directory / "data"),
            "METERPROXY_ADMIN_TOKEN": ADMIN_TOKEN,
            "OPENAI_API_KEY": "sk-provider",
            "OPENAI_BASE_URL": provider,
            **(environment or {}),
        }
        port = free_port()
        variables["METERPROXY_LISTEN"] = f"127.0.0.1:{port}"
        made = Service(directory / "data", port, variables, provider)
        try:
            await made.start()
            yield made
        finally:
            await made.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def alive(pid: int) -> bool:
    """Whether a process still runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _below(ancestor: int, words: str) -> list[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    below = {ancestor}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return sorted(pid for pid in below if pid != ancestor and words in _command_line(pid))


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
