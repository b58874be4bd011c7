"""Three hosts, one cut off and one gone for good: `python -m bench.hosts` (as root: hosts are network namespaces).

Each host has a link to its clients and provider and another to PostgreSQL. Under load the second host's link to
PostgreSQL goes down for some time, and every process of the third is killed. Both are found lost, with what they were
lent; the second comes back and goes on, the third is given up, and its journal turns up only later. At the end each
whole answer must have its row and deduction, nobody may have been lent more than there was, and audit must be clean.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.clusters import Node, nodes
from bench.reckoning import during, reckon, settled, show
from meterproxy.core.money import NANOS_PER_USD, format_usd
from meterproxy.simulator.app import running as simulator
from tests.environment import scrubbed
from tests.postgres import reachable_directory
from tests.service.load import Load, customer
from tests.service.running import ADMIN_TOKEN, Service, until_asked

HOSTS: Final = 3
PORT: Final = 8080
RICH: Final = 4
POOR: Final = 2
POOR_NANOS: Final = NANOS_PER_USD // 250
BEFORE_SECONDS: Final = 5.0
AFTER_SECONDS: Final = 8.0


@dataclass
class Host(Service):
    """A service in a network namespace of its own."""

    number: int = 0

    @property
    def namespace(self) -> str:
        return f"mp-host-{self.number}"

    @property
    def origin(self) -> str:
        return f"http://10.77.{self.number}.2:{self.port}"

    async def start(self, *, wait: bool = True) -> None:
        with (self.data_dir.parent / "serve.log").open("ab") as log:
            command = ["ip", "netns", "exec", self.namespace, sys.executable, "-m", self.program, "serve"]
            self.process = subprocess.Popen(
                command, env=dict(self.environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        if wait:
            await self.ready()

    def dsn(self) -> str:
        return self.environment["BENCH_DSN"]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def cut(number: int, *, off: bool) -> None:
    """Take a host's link to PostgreSQL down, or up again."""
    ip("link", "set", f"mpdb{number}", "down" if off else "up")


@contextmanager
def networks(count: int) -> Iterator[None]:
    """A namespace for each host, with two links. Raises CalledProcessError where that is not allowed."""
    with ExitStack() as stack:
        for number in range(count):
            ip("netns", "add", f"mp-host-{number}")
            stack.callback(subprocess.run, ["ip", "netns", "del", f"mp-host-{number}"], capture_output=True)
            ip("-n", f"mp-host-{number}", "link", "set", "lo", "up")
            for kind, network in (("mplan", 77), ("mpdb", 78)):
                _link(f"{kind}{number}", f"mp-host-{number}", f"10.{network}.{number}")
                stack.callback(subprocess.run, ["ip", "link", "del", f"{kind}{number}"], capture_output=True)
        yield


def _link(name: str, namespace: str, network: str) -> None:
    ip("link", "add", name, "type", "veth", "peer", "name", "peer0", "netns", namespace)
    ip("-n", namespace, "link", "set", "peer0", "name", name)
    ip("addr", "add", f"{network}.1/24", "dev", name)
    ip("link", "set", name, "up")
    ip("-n", namespace, "addr", "add", f"{network}.2/24", "dev", name)
    ip("-n", namespace, "link", "set", name, "up")


@asynccontextmanager
async def hosts(directory: Path, database: Node, ttl_seconds: float) -> AsyncIterator[list[Host]]:
    """The hosts, started; whatever happens, no process of them is left."""
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(simulator(host="0.0.0.0"))
        provider_port = provider.rpartition(":")[2]
        made = []
        for number in range(HOSTS):
            place = directory / f"host-{number}"
            place.mkdir(mode=0o711)
            environment = {
                **scrubbed(os.environ),
                "BENCH_DSN": database.dsn(),
                "METERPROXY_DATA_DIR": str(place / "data"),
                "METERPROXY_ADMIN_TOKEN": ADMIN_TOKEN,
                "METERPROXY_LISTEN": f"10.77.{number}.2:{PORT}",
                "METERPROXY_DATABASE_URL": f"postgresql://meterproxy@10.78.{number}.1:{database.port}/meterproxy",
                "METERPROXY_LEASE__TTL_SECONDS": str(ttl_seconds),
                "METERPROXY_JOURNAL__SEGMENT_BYTES": "4MiB",
                "OPENAI_API_KEY": "sk-provider",
                "OPENAI_BASE_URL": f"http://10.77.{number}.1:{provider_port}",
            }
            host = Host(place / "data", PORT, environment, number=number)
            stack.push_async_callback(host.stop)
            await host.start()
            made.append(host)
        yield made


async def campaign(options: argparse.Namespace, directory: Path) -> bool:
    with nodes(directory, "database") as (database,):
        database.make("10.78.0.0/16")
        await database.start(listen_addresses="*")
        await database.ask("CREATE DATABASE meterproxy", database="postgres")
        async with hosts(directory, database, options.ttl) as made:
            return await _under_load(options, made, database)


async def _under_load(options: argparse.Namespace, made: Sequence[Host], database: Node) -> bool:
    steady, cut_off, gone = made
    customers = [await customer(steady) for _ in range(RICH)]
    customers += [await customer(steady, POOR_NANOS) for _ in range(POOR)]
    loads = [Load(host, customers, number) for number, host in enumerate(made)]
    async with AsyncExitStack() as stack:
        for load in loads:
            await stack.enter_async_context(load.running(options.clients))
        await during(loads, BEFORE_SECONDS)
        facts = await _lose(cut_off, gone, loads, database)
        facts |= await _find_again(cut_off, gone, loads, database)
        await during(loads[:2], AFTER_SECONDS)
    await settled((steady, cut_off), customers)
    told = await reckon(steady, customers, loads)
    title = f"{HOSTS} hosts, one cut off, one gone; {options.clients} clients each, ttl {options.ttl:g} s"
    return show(title, facts, told)


async def _lose(cut_off: Host, gone: Host, loads: Sequence[Load], database: Node) -> dict[str, Any]:
    """One link goes down, one host dies; wait until both are known to be lost."""
    began = time.monotonic()
    cut(cut_off.number, off=True)
    await gone.kill_everything()
    inside, _ = await during(loads[1:2], 2.0)

    async def both_lost() -> bool:
        return len(await _lost(database)) == 2

    await until_asked(both_lost, "the loss of two hosts")
    refused = len(loads[1].refused)
    lost = await _lost(database)
    return {
        "answers of the host cut off, within its leases": inside,
        "its refusals later": refused,
        "both known to be lost after": f"{time.monotonic() - began:.1f} s",
        "credit that they keep out of the pot": f"{format_usd(sum(row['nanos'] for row in lost))} USD",
    }


async def _find_again(cut_off: Host, gone: Host, loads: Sequence[Load], database: Node) -> dict[str, Any]:
    """The link is there again, the dead host is given up, and then its journal turns up."""
    began, lost = time.monotonic(), await _lost(database)
    cut(cut_off.number, off=False)

    more = loads[1].more(20)

    async def serves() -> bool:
        return len(await _lost(database)) == 1 and more()

    await until_asked(serves, "the host that was cut off")
    back = time.monotonic() - began
    (dead,) = await _lost(database)
    (same,) = await database.ask(
        "SELECT count(*) AS live FROM worker_sessions WHERE state = 'live' AND id = ANY "
        f"('{{{','.join(str(row['id']) for row in lost)}}}')"
    )
    abandoned = await _command(gone, "journal", "abandon", str(dead["id"]))
    await during(loads[:2], 3.0)
    brought = await _command(gone, "journal", "import", str(gone.data_dir / "journals"))
    return {
        "the one cut off serves again after": f"{back:.1f} s",
        "its session is the same": "yes" if same["live"] else "no",
        "`journal abandon`": abandoned,
        "`journal import` later": brought,
    }


async def _command(host: Host, *words: str) -> str:
    """Run a command where PostgreSQL can be reached; what it says of the one thing that it was about."""
    environment = {**host.environment, "METERPROXY_DATABASE_URL": host.dsn()}
    command = [sys.executable, "-m", "meterproxy", *words, "--json"]
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr)
    (said,) = json.loads(done.stdout)
    return ", ".join(f"{name} {value}" for name, value in said.items() if isinstance(value, int))


async def _lost(database: Node) -> list[Any]:
    return await database.ask(
        "SELECT s.id, COALESCE(sum(l.granted - l.consumed - l.returned), 0)::bigint AS nanos "
        "FROM worker_sessions s LEFT JOIN leases l ON l.session_id = s.id WHERE s.state = 'lost' GROUP BY s.id"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.hosts", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ttl", type=float, default=4.0, help="lease.ttl_seconds (default 4)")
    parser.add_argument("--clients", type=int, default=4, help="clients of each host (default 4)")
    options = parser.parse_args()
    try:
        with reachable_directory() as directory, networks(HOSTS):
            return 0 if asyncio.run(campaign(options, directory)) else 1
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        said = error.stderr if isinstance(error, subprocess.CalledProcessError) else error
        print(f"network namespaces cannot be made here, so this campaign was not run: {said}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
