"""A whole meterproxy as an operator runs it: `meterproxy serve` in processes of its own, with a simulated provider.

Rules
-----
- Nothing sleeps for a guess: readiness is asked for, ends are waited for.
- Whatever happens to a test, no process of it is left.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from meterproxy.runtime import postmaster
from meterproxy.runtime.cluster import home_of
from meterproxy.runtime.embedded import _dsn
from meterproxy.simulator.app import running as simulator
from meterproxy.simulator.settings import SimulatorSettings
from meterproxy.store.audit import audit
from meterproxy.store.pool import open_pool
from tests import clusters
from tests.environment import scrubbed

ADMIN_TOKEN = "test-admin-token"
DEADLINE_SECONDS = 60
POLL_SECONDS = 0.02
JOURNAL_SEGMENT_BYTES = 8 << 20
"""A start of a worker allocates two; an eighth of the default, so that all of a run's do not fill a disk."""
MORTAL = "tests.service.mortal"


_AS_A_SERVICE_MANAGER = """
import os, sys
_, kept, program, *words = sys.argv
os.dup2(int(kept), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.executable, [sys.executable, "-m", program, *words])
"""


@dataclass
class Service:
    """A `meterproxy serve` and what a test needs to talk to it."""

    data_dir: Path
    port: int
    environment: Mapping[str, str]
    provider: str = ""
    program: str = "meterproxy"
    process: subprocess.Popen[bytes] | None = None
    output: list[str] = field(default_factory=list)
    kept_socket: socket.socket | None = None
    _database: asyncpg.Connection | None = None

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1"

    async def start(self, *, wait: bool = True) -> None:
        """Run `serve`, and wait until it is ready."""
        with (self.data_dir.parent / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self._program(), "serve"],
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=() if self.kept_socket is None else (self.kept_socket.fileno(),),
            )
        if wait:
            await self.ready()

    def _program(self) -> tuple[str, ...]:
        if self.kept_socket is None:
            return "-m", self.program
        return "-c", _AS_A_SERVICE_MANAGER, str(self.kept_socket.fileno()), self.program

    async def ready(self) -> None:
        said = "nothing listens"
        deadline = asyncio.get_running_loop().time() + DEADLINE_SECONDS
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while True:
                assert self.process is not None
                assert self.process.poll() is None, self.log_text()
                try:
                    async with session.get(f"{self.origin}/readyz") as answer:
                        if answer.status == 200:
                            return
                        said = await answer.text()
                except (aiohttp.ClientError, TimeoutError) as error:
                    said = repr(error)
                assert asyncio.get_running_loop().time() < deadline, f"never ready: {said}\n{self.log_text()}"
                await asyncio.sleep(POLL_SECONDS)

    async def kill(self) -> None:
        """End the supervisor by force; what it leaves behind is left."""
        process, self.process = self.process, None
        assert process is not None
        process.kill()
        await asyncio.to_thread(process.wait, DEADLINE_SECONDS)

    async def kill_everything(self) -> None:
        """What a power cut does to the processes, though not to the disk."""
        for pid in self.processes():
            kill(pid)
        await self.kill()

    async def replaced(self, pid: int) -> None:
        """Wait until this worker is dead and a successor serves."""
        await until(lambda: not alive(pid), "the worker's death")
        await self.ready()

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """End it in order (or with another signal) and answer its exit code."""
        if self._database is not None:
            self._database.terminate()
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return await asyncio.to_thread(process.wait, DEADLINE_SECONDS)
        finally:
            process.kill()

    def log_text(self) -> str:
        return self.whole_log()[-6000:]

    def whole_log(self) -> str:
        return (self.data_dir.parent / "serve.log").read_text(errors="replace")

    def children(self) -> dict[str, list[int]]:
        """The processes of this service by what they are, workers first among them."""
        assert self.process is not None
        return {
            kind: pids
            for kind in ("mp worker", "mp fork server", "postgres", "tokenizer_process")
            if (pids := _below(self.process.pid, kind))
        }

    def processes(self) -> list[int]:
        """Every process of this service."""
        assert self.process is not None
        return [self.process.pid, *_below(self.process.pid, "")]

    def worker(self) -> int:
        return self.children()["mp worker"][0]

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

    def dsn(self) -> str:
        """The URL of its database."""
        configured = self.environment.get("METERPROXY_DATABASE_DIRECT_URL")
        configured = configured or self.environment.get("METERPROXY_DATABASE_URL")
        if configured is not None:
            return configured
        home = home_of(self.data_dir)
        server = postmaster.running((home / "data").resolve())
        assert server is not None, "its PostgreSQL does not run"
        return _dsn(home, server.socket_dir)

    async def rows(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        """Ask its database."""
        if self._database is None or self._database.is_closed():
            self._database = await asyncpg.connect(self.dsn())
        return await self._database.fetch(query, *arguments)

    async def provider_calls(self) -> int:
        """How many requests for an answer the provider has got."""
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{self.provider.removesuffix('/v1')}/_simulator/calls") as answer:
                counts = (await answer.json())["count"]
        return sum(count for path, count in counts.items() if "/models" not in path)

    async def invariants(self) -> None:
        """As `audit`, in this process."""
        pool = await open_pool(self.dsn(), size=1)
        try:
            wrong = [result for result in await audit(pool) if not result.ok]
        finally:
            await pool.close()
        assert not wrong, wrong

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
    directory: Path,
    settings: SimulatorSettings | None = None,
    environment: Mapping[str, str] | None = None,
    program: str = "meterproxy",
    *,
    kept_socket: bool = False,
    port: int | None = None,
) -> AsyncIterator[Service]:
    """A service with a simulated provider of its own, started; ended in order afterwards.

    With `kept_socket` its listening socket is ours, as a service manager would have it.
    """
    async with simulator(settings or SimulatorSettings()) as provider, hosted(directory, port) as made:
        made.provider = provider
        made.program = program
        made.environment = {
            **made.environment,
            "OPENAI_API_KEY": "sk-provider",
            "OPENAI_BASE_URL": provider,
            **(environment or {}),
        }
        with contextlib.ExitStack() as stack:
            if "METERPROXY_DATABASE_URL" not in made.environment:
                await clusters.lay(made.data_dir, migrated=True)
            if kept_socket:
                made.kept_socket = stack.enter_context(socket.create_server(("127.0.0.1", made.port), backlog=1024))
            await made.start()
            yield made


@asynccontextmanager
async def hosted(directory: Path, port: int | None = None) -> AsyncIterator[Service]:
    """A service without a provider, not started yet; nothing of it is left afterwards."""
    port = port or free_port()
    variables = {
        **scrubbed(os.environ),
        "METERPROXY_DATA_DIR": str(directory / "data"),
        "METERPROXY_ADMIN_TOKEN": ADMIN_TOKEN,
        "METERPROXY_LISTEN": f"127.0.0.1:{port}",
        "METERPROXY_JOURNAL__SEGMENT_BYTES": str(JOURNAL_SEGMENT_BYTES),
    }
    made = Service(directory / "data", port, variables)
    try:
        yield made
    finally:
        await made.stop()
        left = postmaster.running((home_of(made.data_dir) / "data").resolve())
        if left is not None:
            kill(left.pid)


async def until(true: Callable[[], bool], what: str) -> None:
    """Wait for a condition."""
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not true():
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise AssertionError(f"{what} did not come about: {true}") from None


async def until_asked(true: Callable[[], Awaitable[bool]], what: str) -> None:
    """Ask again and again until something is so."""
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not await true():
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise AssertionError(f"{what} did not come about") from None


def kill(pid: int) -> None:
    """End a process by force, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


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
    """What the process calls itself, and the words that it was started with."""
    try:
        name, words = Path(f"/proc/{pid}/comm"), Path(f"/proc/{pid}/cmdline")
        return (name.read_bytes() + words.read_bytes().replace(b"\0", b" ")).decode(errors="replace")
    except OSError:
        return ""
