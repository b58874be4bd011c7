"""Targets: what can be measured, each started as a process tree of its own and ended with the block.

A target that cannot run here is `Absent` with the reason, and its rows say so.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from bench.certificates import Certificates
from bench.processes import pin, pin_tree

_READY_SECONDS: Final = 90.0
_END_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.1
_ADMIN_TOKEN: Final = "bench-admin-token"
_CREDIT: Final = "1000000.00"
TWO_WORKERS: Final = "meterproxy-2-workers"
_REPOSITORY: Final = Path(__file__).parents[1]


class Absent(Exception):
    """A target that cannot run on this machine; the message says why."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What targets share: cores, the mock provider's ports, and a directory for their files."""

    proxy_cpu: int | None
    load_cpu: int | None
    provider_port: int
    tls_provider_port: int | None
    certificates: Certificates | None
    directory: Path
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Target:
    """Something that answers chat requests on a port; `root` is the top of its process tree, None for none."""

    name: str
    port: int
    key: str = "bench"
    root: int | None = None
    data_dir: Path | None = None


@contextmanager
def process(
    arguments: list[str], *, cpu: int | None = None, environ: Mapping[str, str] | None = None, log: Path | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command for the duration of a block; its output is piped, or goes to the log."""
    with contextlib.ExitStack() as stack:
        output = subprocess.PIPE if log is None else stack.enter_context(log.open("wb"))
        running = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if log is None else subprocess.STDOUT,
            cwd=_REPOSITORY,
            env=None if environ is None else dict(environ),
            preexec_fn=lambda: pin(cpu),  # noqa: PLW1509 - nothing else runs in this process
            start_new_session=True,
        )
        try:
            yield running
        finally:
            _end(running)


def _end(running: "subprocess.Popen[bytes]") -> None:
    running.send_signal(signal.SIGTERM)
    try:
        running.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    if running.stdout is not None:
        running.stdout.close()


def python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def first_line(running: "subprocess.Popen[bytes]") -> str:
    """What a process says when it is ready."""
    assert running.stdout is not None
    line = running.stdout.readline()
    if not line:
        raise Absent(f"{running.args!r} ended before it was ready")
    return line.decode().strip()


@contextmanager
def provider(cpu: int | None, certificates: Certificates | None = None) -> Iterator[int]:
    """The mock provider; yields its port."""
    shown: list[str] = []
    if certificates is not None:
        shown = ["--certificate", str(certificates.server), "--certificate-key", str(certificates.server_key)]
    with process(python("bench.provider", *shown), cpu=cpu) as running:
        yield int(first_line(running))


@contextmanager
def direct(bench: Bench) -> Iterator[Target]:
    """Nothing in between: what the load and the provider can do."""
    yield Target("direct", bench.provider_port)


@contextmanager
def passthrough(bench: Bench) -> Iterator[Target]:
    """The yardstick."""
    arguments = python("bench.passthrough", "--provider-port", str(bench.provider_port))
    with process(arguments, cpu=bench.proxy_cpu) as running:
        yield Target("passthrough", int(first_line(running)), root=running.pid)


_NGINX: Final = """
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
daemon off;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  keepalive_requests 100000000;
  upstream provider {{ server 127.0.0.1:{provider_port}; keepalive 256; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port};
    client_max_body_size 64m;
    location / {{
      proxy_pass http://provider;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


@contextmanager
def nginx(bench: Bench) -> Iterator[Target]:
    """The physical limit: nginx with `proxy_pass`, where it is installed."""
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if binary is None:
        raise Absent("nginx is not installed")
    directory, port = bench.directory / "nginx", _free_port()
    directory.mkdir()
    written = directory / "nginx.conf"
    written.write_text(_NGINX.format(directory=directory, provider_port=bench.provider_port, port=port))
    with process([binary, "-c", str(written), "-p", str(directory)], cpu=bench.proxy_cpu) as running:
        _until(lambda: _connects(port), running, "nginx")
        yield Target("nginx", port, root=running.pid)


@contextmanager
def meterproxy(bench: Bench) -> Iterator[Target]:
    """The whole proxy with its own PostgreSQL inside."""
    openai = {"OPENAI_API_KEY": "x", "OPENAI_BASE_URL": f"http://127.0.0.1:{bench.provider_port}/v1"}
    with _meterproxy("meterproxy", bench, openai, []) as target:
        yield target


@contextmanager
def two_workers(bench: Bench) -> Iterator[Target]:
    """The same with two workers, for which a request should not cost more."""
    openai = {"OPENAI_API_KEY": "x", "OPENAI_BASE_URL": f"http://127.0.0.1:{bench.provider_port}/v1"}
    with _meterproxy(TWO_WORKERS, replace(bench, workers=2), openai, []) as target:
        yield target


@contextmanager
def limited(bench: Bench) -> Iterator[Target]:
    """The same for a key that draws from twelve limits: requests, tokens and money of key, user, team and account."""
    openai = {"OPENAI_API_KEY": "x", "OPENAI_BASE_URL": f"http://127.0.0.1:{bench.provider_port}/v1"}
    with _meterproxy("meterproxy-limits", bench, openai, [], make_key=_make_limited_key) as target:
        yield target


@contextmanager
def meterproxy_tls(bench: Bench) -> Iterator[Target]:
    """The same to a provider behind TLS."""
    if bench.certificates is None or bench.tls_provider_port is None:
        raise Absent("neither the cryptography package nor the openssl command is here to make a certificate")
    openai = {
        "dialect": "openai",
        "base_url": f"https://localhost:{bench.tls_provider_port}/v1",
        "api_key": "x",
        "tls_ca_file": str(bench.certificates.authority),
    }
    written = bench.directory / "tls.yaml"
    written.write_text(json.dumps({"providers": {"openai": openai}}))  # JSON is YAML
    with _meterproxy("meterproxy-tls", bench, {}, ["--config", str(written)]) as target:
        yield target


@contextmanager
def _meterproxy(
    name: str,
    bench: Bench,
    more: Mapping[str, str],
    arguments: list[str],
    *,
    make_key: "Callable[[int], str] | None" = None,
) -> Iterator[Target]:
    port, data_dir, log = _free_port(), bench.directory / name, bench.directory / f"{name}.log"
    environ = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("METERPROXY_", "OPENAI_"))},
        "METERPROXY_LISTEN": f"127.0.0.1:{port}",
        "METERPROXY_DATA_DIR": str(data_dir),
        "METERPROXY_ADMIN_TOKEN": _ADMIN_TOKEN,
        "METERPROXY_WORKERS": str(bench.workers),
        **more,
    }
    command = python("meterproxy", "serve", *arguments)
    with process(command, cpu=bench.proxy_cpu, environ=environ, log=log) as running:
        try:
            _until(lambda: _status(port, "/readyz") == 200, running, name)
        except Absent as reason:
            raise Absent(f"{reason}; its last words: {_last_words(log)}") from None
        pin_tree(running.pid, bench.proxy_cpu, bench.load_cpu)
        yield Target(name, port, (make_key or _make_key)(port), running.pid, data_dir)


def _make_key(port: int) -> str:
    """An account with credit and a key of it, by the operator's endpoints."""
    return str(_post(port, "/admin/keys", {"account_id": _make_account(port), "name": "bench"})["key"])


def _make_limited_key(port: int) -> str:
    """The same under limits of every scope and measure, with caps that are never reached."""
    account_id = _make_account(port)
    team = _post(port, "/admin/teams", {"account_id": account_id, "name": "bench"})
    key = _post(port, "/admin/keys", {"account_id": account_id, "name": "bench", "team_id": team["id"]})
    scopes = {"key": key["id"], "user": key["user_id"], "team": team["id"], "account": account_id}
    for scope, scope_id in scopes.items():
        for measure, window, cap in (
            ("requests", "minute", 10**9),
            ("tokens", "minute", 10**12),
            ("amount", "day", _CREDIT),
        ):
            _post(
                port,
                "/admin/limits",
                {"scope": scope, "scope_id": scope_id, "measure": measure, "window": window, "cap": cap},
            )
    return str(key["key"])


def _make_account(port: int) -> str:
    account = _post(port, "/admin/accounts", {"name": "bench"})
    credit = {"amount": _CREDIT, "kind": "grant", "description": "benchmark"}
    _post(port, f"/admin/accounts/{account['id']}/credits", credit)
    return str(account["id"])


def _post(port: int, path: str, document: Mapping[str, Any]) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        json.dumps(document).encode(),
        {"Authorization": f"Bearer {_ADMIN_TOKEN}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=_END_SECONDS) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise Absent(f"POST {path} answered {error.code}: {error.read()[:300]!r}") from None


def _status(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def _connects(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _until(ready: Callable[[], bool], running: "subprocess.Popen[bytes]", name: str) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not ready():
        if running.poll() is not None:
            raise Absent(f"{name} ended with {running.returncode} before it was ready")
        if time.monotonic() > deadline:
            raise Absent(f"{name} was not ready after {_READY_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "(none)"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def database_url(target: Target) -> str | None:
    """How to ask the PostgreSQL inside a target, if it has one."""
    if target.data_dir is None:
        return None
    from meterproxy.runtime.embedded import attach

    return asyncio.run(attach(target.data_dir))


TARGETS: Final[Mapping[str, Callable[[Bench], AbstractContextManager[Target]]]] = {
    "direct": direct,
    "nginx": nginx,
    "passthrough": passthrough,
    "meterproxy": meterproxy,
    "meterproxy-limits": limited,
    "meterproxy-tls": meterproxy_tls,
    TWO_WORKERS: two_workers,
}
