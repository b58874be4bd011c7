"""Measures: what is done to a target, and the figures that come of it.

Every figure is a plain number in the unit of its name; a failed request anywhere makes a measure invalid, which the
table says instead of a number.
"""

import asyncio
import json
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Final

from bench.exchanges import STREAM_EVENTS
from bench.load import Plan, Result
from bench.processes import Process, Spent, busiest, spent, tree
from bench.targets import Target, database_url, first_line, process, python

_SETTLE_SECONDS: Final = 1.0
"""How long after a load its batches may still be written; their CPU belongs to it."""
_STALL_PROMPT_BYTES: Final = 400_000
_HUGE_PROMPT_BYTES: Final = 60 << 20
_HUGE_FILLERS: Final = ("lorem ipsum dolor sit amet", '\n\t"' * 8)
_STALL_RATE: Final = 200.0
_SETTLED_RATE: Final = 1000.0
"""Requests a second whose endings are settled while others are watched for stalls: a batch every 200 ms."""
_SCRAPE_SECONDS: Final = 0.1
_WARM_UP_REQUESTS_SECONDS: Final = 1.0
_SOAK_SECONDS: Final = 20.0

Row = dict[str, float | str]


@dataclass(frozen=True, slots=True)
class Settings:
    """How long each measure takes, where the load runs, and how many requests lie between two looks at memory."""

    seconds: float
    connections: int
    load_cpu: int | None
    soak_requests: int = 0


def plan(target: Target, settings: Settings) -> Plan:
    return Plan(target.port, target.key, settings.seconds, settings.connections, cpu=settings.load_cpu)


@contextmanager
def _loading(planned: Plan) -> Iterator["subprocess.Popen[bytes]"]:
    with process(python("bench.load", json.dumps(asdict(planned))), cpu=planned.cpu) as running:
        yield running


def run(planned: Plan) -> Result:
    """Run one load to its end."""
    with _loading(planned) as running:
        return Result(**json.loads(first_line(running)))


def throughput(target: Target, settings: Settings, *, stream: bool) -> Row:
    """As many requests as it takes: requests a second, CPU of proxy and PostgreSQL for each, times."""
    before = _spent(target)
    result = run(replace(plan(target, settings), stream=stream))
    time.sleep(_SETTLE_SECONDS)
    used = _spent(target).since(before)
    row: Row = {"req/s": result.per_second}
    if stream:
        row["events/s"] = result.per_second * STREAM_EVENTS
    if target.root is not None and result.total:
        row["proxy CPU µs/req"] = used.proxy_us / result.total
        if stream:
            row["proxy CPU µs/event"] = used.proxy_us / result.total / STREAM_EVENTS
        row["PostgreSQL CPU µs/req"] = used.postgres_us / result.total
    row |= {"p50 ms": result.p50_ms, "p99 ms": result.p99_ms}
    if stream:
        row |= {"first byte p50 ms": result.first_byte_p50_ms, "first byte p99 ms": result.first_byte_p99_ms}
    return _checked(row, result)


def paced_stream(target: Target, settings: Settings, rate: float) -> Row:
    """Streams at a steady rate: time to the first byte when nobody has to queue."""
    result = run(replace(plan(target, settings), stream=True, rate=rate))
    return _checked(
        {
            "streams/s": result.per_second,
            "first byte p50 ms": result.first_byte_p50_ms,
            "first byte p99 ms": result.first_byte_p99_ms,
            "p50 ms": result.p50_ms,
            "p99 ms": result.p99_ms,
        },
        result,
    )


def single(target: Target, settings: Settings) -> Row:
    """One connection, one request after the other: what the target adds."""
    result = run(replace(plan(target, settings), connections=1))
    return _checked({"p50 ms": result.p50_ms, "p99 ms": result.p99_ms, "highest ms": result.highest_ms}, result)


def stall(target: Target, settings: Settings) -> Row:
    """Small requests at a steady rate: alone, beside large prompts, and while all is settled and scraped."""
    small = replace(plan(target, settings), connections=4, rate=_STALL_RATE)
    alone = run(small)
    longer = replace(plan(target, settings), seconds=settings.seconds + 1)
    with _loading(replace(longer, connections=1, prompt_bytes=_STALL_PROMPT_BYTES)) as running:
        beside = run(small)
        large = Result(**json.loads(first_line(running)))
    huge = [_beside_huge(small, longer, filler) for filler in _HUGE_FILLERS]
    with _loading(replace(longer, connections=8, rate=_SETTLED_RATE)) as running, _scraping(target):
        settling = run(small)
        settled = Result(**json.loads(first_line(running)))
    row: Row = {
        "alone p99 ms": alone.p99_ms,
        "prompts: p50 ms": beside.p50_ms,
        "prompts: p99 ms": beside.p99_ms,
        "prompts: highest ms": beside.highest_ms,
        "large req/s": large.per_second,
        "60 MiB: highest ms": huge[0][0].highest_ms,
        "60 MiB of escapes: highest ms": huge[1][0].highest_ms,
        "settling: p99 ms": settling.p99_ms,
        "settling: highest ms": settling.highest_ms,
    }
    return _checked(row, alone, beside, large, settling, settled, *huge[0], *huge[1])


def _beside_huge(small: Plan, longer: Plan, filler: str) -> tuple[Result, Result]:
    """The small requests, and the bodies of 60 MiB that were sent beside them one after the other."""
    planned = replace(longer, connections=1, prompt_bytes=_HUGE_PROMPT_BYTES, filler=filler)
    with _loading(planned) as running:
        beside = run(small)
        return beside, Result(**json.loads(first_line(running)))


@contextmanager
def _scraping(target: Target) -> Iterator[None]:
    """Ask for the metrics ten times a second, where there are any."""
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(_SCRAPE_SECONDS):
            with urllib.request.urlopen(f"http://127.0.0.1:{target.port}/metrics", timeout=5) as answer:
                answer.read()

    scraper = threading.Thread(target=scrape)
    if target.data_dir is not None:
        scraper.start()
    try:
        yield
    finally:
        over.set()
        if target.data_dir is not None:
            scraper.join()


def memory(target: Target, settings: Settings, streams: tuple[int, ...]) -> Row:
    """Memory of the serving process: after some requests, after many more, and for each open stream."""
    if target.root is None:
        return {}
    idle = tree(target.root)
    warm = run(replace(plan(target, settings), seconds=_WARM_UP_REQUESTS_SECONDS))
    server = busiest(idle, tree(target.root)).pid
    first = _rss(target.root, server)
    more = run(plan(target, settings))
    between = more.total
    while between < settings.soak_requests and not more.errors:
        more = run(replace(plan(target, settings), seconds=_SOAK_SECONDS))
        between += more.total
    row: Row = {
        "RSS MiB": first / 2**20,
        "RSS MiB later": _rss(target.root, server) / 2**20,
        "requests between": between,
    }
    for count in streams:
        row[f"kB each of {count} open streams"] = _open_streams(target, settings, server, count)
    return _checked(row, warm, more)


def _open_streams(target: Target, settings: Settings, server: int, count: int) -> float | str:
    assert target.root is not None
    before = _rss(target.root, server)
    with _loading(replace(plan(target, settings), connections=count, hold_open=True)) as running:
        opened = json.loads(first_line(running))
        if opened["opened"] != count:
            return f"only {opened['opened']}: {opened['error']}"
        time.sleep(_SETTLE_SECONDS)
        return (_rss(target.root, server) - before) / 1000 / count


def statements(target: Target, settings: Settings) -> Row:
    """Transactions and statements of the database for each request, less what it does when idle."""
    url = database_url(target)
    if url is None:
        return {}
    run(replace(plan(target, settings), seconds=_WARM_UP_REQUESTS_SECONDS))
    time.sleep(_SETTLE_SECONDS)
    started, before = time.monotonic(), asyncio.run(_database_work(url))
    time.sleep(settings.seconds)
    idle_seconds, idle = time.monotonic() - started, asyncio.run(_database_work(url))
    result = run(plan(target, settings))
    time.sleep(_SETTLE_SECONDS)
    loaded_seconds, loaded = time.monotonic() - started - idle_seconds, asyncio.run(_database_work(url))
    row: Row = {"requests": result.total}
    for name, counted in loaded.items():
        idle_rate = (idle[name] - before[name]) / idle_seconds
        row[f"{name} idle/s"] = idle_rate
        row[f"{name}/req"] = max(counted - idle[name] - idle_rate * loaded_seconds, 0) / max(result.total, 1)
    return _checked(row, result)


async def _database_work(url: str) -> dict[str, int]:
    """Transactions so far, and statements where `pg_stat_statements` counts them."""
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        await asyncio.sleep(_SETTLE_SECONDS)  # backends report once a second
        transactions = await connection.fetchval(
            "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
        )
        work = {"transactions": int(transactions)}
        if await connection.fetchval("SELECT to_regclass('pg_stat_statements') IS NOT NULL"):
            work["statements"] = int(await connection.fetchval("SELECT sum(calls) FROM pg_stat_statements"))
        return work
    finally:
        await connection.close()


def _spent(target: Target) -> Spent:
    return Spent(0, 0) if target.root is None else spent(target.root)


def _rss(root: int, pid: int) -> int:
    found: list[Process] = [process for process in tree(root) if process.pid == pid]
    return found[0].rss_bytes if found else 0


def _checked(row: Row, *results: Result) -> Row:
    failed = next((result for result in results if result.errors), None)
    if failed is not None:
        return {"invalid": f"{failed.errors} failed: {failed.error}"}
    return row if all(result.total for result in results) else {"invalid": "nothing was answered"}


def medians(rows: list[Row]) -> Row:
    """The median of each figure over the rounds; what is not a number is taken from the last round."""
    merged: Row = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name] for row in rows if name in row]
        numbers = [value for value in values if not isinstance(value, str)]
        merged[name] = median(numbers) if len(numbers) == len(values) else values[-1]
    return merged
