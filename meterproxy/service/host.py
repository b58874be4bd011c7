"""The host: one supervisor per machine that owns what is one per machine, and runs the workers.

Order of start: lock the data directory, bind the port, PostgreSQL (where no database is configured), the helpers, the
schema, the workers. The end is the reverse.
"""

import asyncio
import logging
import shlex
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from meterproxy import __version__
from meterproxy.config import Config, Provider, secret_path
from meterproxy.runtime import logs
from meterproxy.runtime.data_dir import DataDirLock, RunDirectory
from meterproxy.runtime.embedded import EmbeddedPostgres
from meterproxy.runtime.listening import close_all, listen
from meterproxy.runtime.part import ChildSpec, Part
from meterproxy.runtime.supervisor import Supervisor
from meterproxy.runtime.tokenizer import tokenizer_spec
from meterproxy.service.demo import key_path
from meterproxy.service.handover import WORKER_FD, Handover, hand_over
from meterproxy.service.schema import Schema

_log: Final = logging.getLogger(__name__)

SIMULATED: Final = "simulated"
WORKER: Final = (sys.executable, "-m", "meterproxy", "_worker")
SPARE_STOP_SECONDS: Final = 15.0
"""What a worker has beyond `drain_seconds` to settle and give back its leases."""
PATIENCE_SECONDS: Final = 10.0
"""How long a start waits for the port and the journals of children of a supervisor that was killed."""
WORKER_READY_SECONDS: Final = 86_400.0
"""A worker answers at once, but is ready only when the database is; an operator ends the wait, not a timer."""


def serve(config: Config) -> int:
    """Run until told to stop; answers the exit code. Raises StartFailed."""
    logs.set_up(config.log.level, config.log.format)
    with DataDirLock(config.data_dir) as lock, RunDirectory(config.data_dir) as run_dir:
        asyncio.run(_Host(config, run_dir).run(PATIENCE_SECONDS if lock.was_left else 0.0))
    return 0


class _Host:
    def __init__(self, config: Config, run_dir: Path) -> None:
        self._simulated = not config.providers
        self._simulator_port = _free_port() if self._simulated else 0
        self._config = _with_simulator(config, self._simulator_port) if self._simulated else config
        self._run_dir = run_dir
        self._postgres = EmbeddedPostgres(config.data_dir) if config.database_url is None else None
        self._sockets: list[socket.socket] = []

    async def run(self, patience_seconds: float) -> None:
        address = self._config.listen
        self._sockets = await listen(
            address.host, address.port, self._config.workers, patience_seconds=patience_seconds
        )
        supervisor = Supervisor(
            [[self._postgres] if self._postgres else [], self._helpers(), [self._schema()], self._workers],
            on_ready=self._say_hello,
            on_stopping=lambda: close_all(self._sockets),
        )
        await supervisor.run()

    def _helpers(self) -> Sequence[Part | ChildSpec]:
        parts: list[Part | ChildSpec] = [tokenizer_spec(self._run_dir / "tokenizer")]
        if self._simulated:
            parts.append(_simulator(self._simulator_port))
        return parts

    def _schema(self) -> Schema:
        return Schema(self._direct_dsn, self._config.data_dir if self._postgres else None)

    def _workers(self) -> Sequence[ChildSpec]:
        return [self._worker(slot, listening) for slot, listening in enumerate(self._sockets)]

    def _worker(self, slot: int, listening: socket.socket) -> ChildSpec:
        handover = Handover(
            slot=slot,
            config=self._config,
            dsn=self._dsn(),
            pooled=self._config.database_direct_url is not None,
            listening_fd=listening.fileno(),
            run_dir=self._run_dir,
        )
        descriptor = hand_over(handover)
        return ChildSpec(
            name=f"worker {slot}",
            command=WORKER,
            environment={WORKER_FD: str(descriptor)},
            pass_fds=(listening.fileno(), descriptor),
            ready_seconds=WORKER_READY_SECONDS,
            stop_seconds=self._config.drain_seconds + SPARE_STOP_SECONDS,
        )

    def _dsn(self) -> str:
        if self._postgres:
            return self._postgres.dsn
        assert self._config.database_url is not None
        return self._config.database_url.get_secret_value()

    def _direct_dsn(self) -> str:
        direct = self._config.database_direct_url
        return direct.get_secret_value() if direct else self._dsn()

    def _say_hello(self) -> None:
        host, port = self._sockets[0].getsockname()[:2]
        base_url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
        print("\n".join(_hello(self._config, base_url, simulated=self._simulated)), flush=True)  # noqa: T201
        _log.info("meterproxy %s serves on %s", __version__, base_url)


def _hello(config: Config, base_url: str, *, simulated: bool) -> list[str]:
    """What a person who starts it wants to know."""
    token = secret_path(config, "admin_token")
    lines = [f"meterproxy {__version__} is ready", f"  base URL     {base_url}"]
    lines.append(f"  admin token  {token if token.exists() else 'as configured'}")
    if simulated:
        lines.append("  provider     simulated: no OPENAI_API_KEY is set, so answers are made up and cost play money")
    demo = key_path(config.data_dir)
    if demo.exists():
        key = demo.read_text().strip()
        lines += [f"  demo key     {key}   (kept in {demo})", "", "Try it:", "", *_curl(base_url, key)]
    return ["", *lines, ""]


def _curl(base_url: str, key: str) -> list[str]:
    body = '{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say hello."}]}'
    return [
        f"  curl {base_url}/chat/completions \\",
        f"    -H 'Authorization: Bearer {key}' \\",
        "    -H 'Content-Type: application/json' \\",
        f"    -d {shlex.quote(body)}",
    ]


def _with_simulator(config: Config, port: int) -> Config:
    provider = Provider.model_validate({"base_url": f"http://127.0.0.1:{port}/v1", "api_key": "sk-simulated"})
    return config.model_copy(update={"providers": {SIMULATED: provider}})


def _simulator(port: int) -> ChildSpec:
    command = (sys.executable, "-m", "meterproxy", "simulate-provider", "--listen", f"127.0.0.1:{port}")
    return ChildSpec("simulated provider", (*command, "--ttft-ms", "150", "--token-ms", "15"), stop_seconds=5.0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
