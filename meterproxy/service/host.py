"""The host: one supervisor per machine that owns what is one per machine, and runs the workers.

Order of start: lock the data directory, bind the port, PostgreSQL (where no database is configured), the helpers, the
schema, the workers. The end is the reverse.

SIGHUP has the configuration read again and the workers replaced by others that follow it. One that cannot be used is
told and changes nothing. What belongs to the host and not to its workers keeps its value until the next start.
"""

import asyncio
import logging
import shlex
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from meterproxy import __version__
from meterproxy.config import Config, Provider, secret_path
from meterproxy.errors import ConfigError, MeterproxyError
from meterproxy.runtime import logs
from meterproxy.runtime.data_dir import DataDirLock, RunDirectory
from meterproxy.runtime.embedded import EmbeddedPostgres
from meterproxy.runtime.fork_server import ForkServer
from meterproxy.runtime.listening import close_all, listen, listen_on, take_kept
from meterproxy.runtime.part import ChildSpec, Part
from meterproxy.runtime.supervisor import Supervisor
from meterproxy.runtime.terminal import Terminal
from meterproxy.runtime.tokenizer import tokenizer_spec
from meterproxy.service.crew import Crew, Premises
from meterproxy.service.demo import key_path
from meterproxy.service.figures import Figures
from meterproxy.service.first_operator import FirstOperator
from meterproxy.service.schema import Schema
from meterproxy.service.siblings import SUCCESSOR

_log: Final = logging.getLogger(__name__)

SIMULATED: Final = "simulated"
WORKERS = (sys.executable, "-m", "meterproxy", "_workers")
"""The command of the fork server that workers are children of."""
PATIENCE_SECONDS: Final = 10.0
"""How long a start waits for the port and the journals of children of a supervisor that was killed."""
FIXED: Final = ("listen", "control", "data_dir", "database_url", "database_direct_url")
"""Settings that only a start reads."""
_CONNECTIONS_BESIDES: Final = 40
_CONNECTIONS_EACH: Final = 20
"""Of PostgreSQL: a worker's own, and those of one that it replaces."""


def serve(load: Callable[[], Config]) -> int:
    """Run until told to stop; answers the exit code.

    Args:
        load: reads the configuration, at the start and again for each SIGHUP.

    Raises:
        StartFailed, ConfigError: it cannot run.
    """
    config = load()
    logs.set_up(config.log.level, config.log.format)
    with DataDirLock(config.data_dir) as lock, RunDirectory(config.data_dir) as run_dir:
        asyncio.run(_Host(config, load, run_dir).run(PATIENCE_SECONDS if lock.was_left else 0.0))
    return 0


class _Host:
    def __init__(self, config: Config, load: Callable[[], Config], run_dir: Path) -> None:
        self._load = load
        self._simulated = not config.providers
        self._simulator_port = _free_port() if self._simulated else 0
        self._config = self._completed(config)
        self._run_dir = run_dir
        self._terminal = Terminal()
        self._postgres = _postgres(config) if config.database_url is None else None
        self._schema = Schema(self._direct_dsn, config.data_dir, demo=self._postgres is not None)
        self._sockets: list[socket.socket] = []
        self._crew: Crew | None = None
        self._read_again = False

    async def run(self, patience_seconds: float) -> None:
        self._sockets = await self._listening(patience_seconds)
        self._supervisor = Supervisor(
            [[self._postgres] if self._postgres else [], self._helpers, [self._schema], self._workers],
            on_ready=self._ready,
            on_stopping=lambda: close_all(self._sockets),
            on_hangup=self._hung_up,
        )
        await self._supervisor.run()

    async def _listening(self, patience_seconds: float) -> list[socket.socket]:
        """One socket per worker: on what a service manager keeps for us, else on a port of our own."""
        address, workers = self._config.listen, self._config.workers
        kept = take_kept()
        if kept is not None:
            return listen_on(kept, workers)
        return await listen(address.host, address.port, workers, patience_seconds=patience_seconds)

    def _helpers(self) -> Sequence[Part | ChildSpec]:
        self._fork_server = ForkServer(WORKERS, self._supervisor.parent_fd)
        parts: list[Part | ChildSpec] = [
            self._figures(),
            self._fork_server,
            tokenizer_spec(self._run_dir / "tokenizer"),
        ]
        if self._simulated:
            parts.append(_simulator(self._simulator_port))
        return parts

    def _figures(self) -> Figures:
        return Figures(self._run_dir, {SUCCESSOR: self._asked_for_successor})

    async def _asked_for_successor(self, slot: bytes) -> bytes:
        return await self._crew.succeed(slot) if self._crew is not None else b"no"

    def _workers(self) -> Sequence[Part]:
        pooled = self._config.database_direct_url is not None
        premises = Premises(
            self._dsn(), self._direct_dsn(), pooled, self._run_dir, self._supervisor.parent_fd, self._fork_server
        )
        self._crew = Crew(premises, self._config, self._sockets)
        return [self._crew]

    def _dsn(self) -> str:
        if self._postgres:
            return self._postgres.dsn
        assert self._config.database_url is not None
        return self._config.database_url.get_secret_value()

    def _direct_dsn(self) -> str:
        direct = self._config.database_direct_url
        return direct.get_secret_value() if direct else self._dsn()

    def _completed(self, config: Config) -> Config:
        return config if config.providers else _with_simulator(config, self._simulator_port)

    def _ready(self) -> None:
        self._say_hello()
        if self._read_again:
            self._hung_up()

    # ── another configuration ───────────────────────────────────────────────────────────────────────────────────────

    def _hung_up(self) -> None:
        """SIGHUP: the terminal was closed, or somebody wants the configuration to be read again."""
        if self._terminal.is_gone:
            self._supervisor.stop()
        elif self._crew is None or not self._crew.complete:
            self._read_again = True
        else:
            self._follow_another(self._crew)

    def _follow_another(self, crew: Crew) -> None:
        try:
            config = self._another()
        except (MeterproxyError, OSError) as error:
            _log.error("the configuration is refused, the old one stays in force: %s", _on_one_line(str(error)))
            return
        self._config = config
        logs.set_up(config.log.level, config.log.format)
        _log.info("the configuration was read again; workers are replaced one after the other")
        crew.follow(config)

    def _another(self) -> Config:
        """The configuration as it is now. Raises ConfigError."""
        config = self._load()
        if not config.providers and not self._simulated:
            raise ConfigError("providers: none is set, and the simulated one is there from the start or not at all")
        kept = [name for name in FIXED if getattr(config, name) != getattr(self._config, name)]
        if kept:
            _log.warning("only a restart changes %s: the old value stays in force", ", ".join(kept))
        return self._completed(config.model_copy(update={name: getattr(self._config, name) for name in kept}))

    def _say_hello(self) -> None:
        host, port = self._sockets[0].getsockname()[:2]
        base_url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
        print("\n".join(_hello(self._config, base_url, self._first_operator(), simulated=self._simulated)), flush=True)  # noqa: T201
        _log.info("meterproxy %s serves on %s", __version__, base_url)
        for doubt in self._config.doubts:
            _log.warning("%s", doubt)

    def _first_operator(self) -> FirstOperator | None:
        """Told once: when he has just been made."""
        made, self._schema.first_operator = self._schema.first_operator, None
        return made


def _on_one_line(problems: str) -> str:
    """A report of problems, one a line below its headline, as one line."""
    first, *rest = [line.strip() for line in problems.splitlines() if line.strip()]
    return f"{first}: {'; '.join(rest)}" if rest else first


def _postgres(config: Config) -> EmbeddedPostgres:
    connections = max(100, _CONNECTIONS_BESIDES + _CONNECTIONS_EACH * config.workers)
    return EmbeddedPostgres(config.data_dir, settings={"max_connections": str(connections)})


def _hello(config: Config, base_url: str, operator: FirstOperator | None, *, simulated: bool) -> list[str]:
    """What a person who starts it wants to know."""
    token = secret_path(config, "admin_token")
    lines = [f"meterproxy {__version__} is ready", f"  base URL     {base_url}"]
    lines.append(f"  dashboard    {base_url.removesuffix('v1')}")
    lines.append(f"  admin token  {token if token.exists() else 'as configured'}")
    if operator is not None:
        lines.append(f"  operator     {operator.email}, password {operator.password}   (this once; {operator.kept_in})")
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
