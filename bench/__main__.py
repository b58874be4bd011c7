"""Run the benchmark: `python -m bench`, or `make bench`.

Every target is started once; then all of them are measured in turn, round by round, and medians are printed. With two
cores or more the proxy has the first one for itself, and mock provider, load and PostgreSQL share the second.
"""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from bench import measures
from bench.certificates import make_certificates
from bench.measures import Row, Settings
from bench.processes import pin, raise_file_limit
from bench.tables import differences, fill, has_marks, ratios, table
from bench.targets import TARGETS, TWO_WORKERS, Absent, Bench, Target, provider

_YARDSTICK: Final = "passthrough"
_PROXY: Final = "meterproxy"
_HALF_LOAD: Final = 0.5
_OPEN_STREAMS: Final = (1_000, 5_000)

Measure = Callable[[Target], Row]
Rows = dict[str, Row]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measure (default 5)")
    parser.add_argument("--rounds", type=int, default=3, help="how often every measure is taken (default 3)")
    parser.add_argument("--connections", type=int, default=32, help="connections of the load (default 32)")
    parser.add_argument("--workers", type=int, default=1, help="workers of meterproxy (default 1)")
    parser.add_argument("--soak", type=int, default=0, help="requests between two looks at memory (default: --seconds)")
    parser.add_argument("--targets", default=",".join(TARGETS), help=f"some of {', '.join(TARGETS)}")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="one round of one second")
    parser.add_argument("--markdown", action="store_true", help="print tables as Markdown")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="also put them between the marks of this README")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep logs and data in this new directory")
    options = parser.parse_args()
    if options.readme is not None and not has_marks(options.readme):
        parser.error(f"--readme: {options.readme} has no marks to put figures between")
    if options.quick:
        options.seconds, options.rounds = 1.0, 1
    for name, known in (("targets", TARGETS), ("parts", PARTS)):
        chosen = [part.strip() for part in getattr(options, name).split(",") if part.strip()]
        unknown = [part for part in chosen if part not in known]
        if unknown:
            parser.error(f"--{name}: {', '.join(unknown)} is none of {', '.join(known)}")
        setattr(options, name, chosen)
    return options


class Run:
    """One run: the targets that are up, how long and how often, and how to print."""

    def __init__(self, options: argparse.Namespace, targets: list[Target], load_cpu: int | None) -> None:
        self.targets = [target for target in targets if target.name != TWO_WORKERS]
        self.compared = [target for target in targets if target.name in {_PROXY, TWO_WORKERS}]
        self.settings = Settings(options.seconds, options.connections, load_cpu, options.soak)
        self.rounds = int(options.rounds)
        self._markdown = bool(options.markdown)
        self.shown: list[str] = []

    def medians(self, measure: Measure, targets: Sequence[Target] | None = None) -> Rows:
        """Measure all targets, or some, in turn, as many rounds as asked for."""
        chosen = self.targets if targets is None else targets
        rounds: dict[str, list[Row]] = {target.name: [] for target in chosen}
        for at in range(self.rounds):
            for target in chosen:
                print(f"  round {at + 1}: {target.name} ...", file=sys.stderr, flush=True)
                rounds[target.name].append(measure(target))
        return {name: measures.medians(rows) for name, rows in rounds.items()}

    def once(self, measure: Measure) -> Rows:
        """Measure each target that has something to say, once."""
        rows = {target.name: measure(target) for target in self.targets}
        return {name: row for name, row in rows.items() if row}

    def show(self, title: str, rows: Rows) -> None:
        if rows:
            print(table(title, rows, markdown=self._markdown), flush=True)
            self.shown.append(table(title, rows, markdown=True).replace(f"### {title}", f"**{title}**\n"))


def _plain(run: Run) -> None:
    rows = run.medians(lambda target: measures.throughput(target, run.settings, stream=False))
    run.show("Plain answers of 64 tokens", ratios(rows, _YARDSTICK, ("req/s", "proxy CPU µs/req")))


def _stream(run: Run) -> None:
    rows = run.medians(lambda target: measures.throughput(target, run.settings, stream=True))
    run.show("Streams of 64 events", ratios(rows, _YARDSTICK, ("req/s", "proxy CPU µs/event")))
    rate = rows.get(_YARDSTICK, {}).get("req/s")
    if isinstance(rate, float):
        paced = run.medians(lambda target: measures.paced_stream(target, run.settings, rate * _HALF_LOAD))
        title = f"Streams at half of the yardstick's load ({rate * _HALF_LOAD:.0f}/s)"
        run.show(title, differences(paced, _YARDSTICK, ("first byte p50 ms", "first byte p99 ms")))


def _workers(run: Run) -> None:
    if len(run.compared) > 1:
        for title, stream in (("plain answers", False), ("streams", True)):
            rows = run.medians(partial(measures.throughput, settings=run.settings, stream=stream), run.compared)
            run.show(f"Two workers on one core beside one: {title}", ratios(rows, _PROXY, ("proxy CPU µs/req",)))


def _latency(run: Run) -> None:
    rows = run.medians(lambda target: measures.single(target, run.settings))
    run.show("One connection", differences(rows, "direct", ("p50 ms", "p99 ms")))


def _stall(run: Run) -> None:
    rows = run.medians(lambda target: measures.stall(target, run.settings))
    run.show(
        "200 small requests a second: alone, beside prompts of 400 kB and 60 MiB, while settling and scraping", rows
    )


def _memory(run: Run) -> None:
    run.show("Memory of the serving process", run.once(lambda t: measures.memory(t, run.settings, _OPEN_STREAMS)))


def _statements(run: Run) -> None:
    run.show("Database work", run.once(lambda target: measures.statements(target, run.settings)))


PARTS: Final[Mapping[str, Callable[[Run], None]]] = {
    "plain": _plain,
    "stream": _stream,
    "workers": _workers,
    "latency": _latency,
    "stall": _stall,
    "memory": _memory,
    "statements": _statements,
}


def _cores() -> tuple[int | None, int | None]:
    """The proxy's core and everybody else's; nobody is pinned on a machine with one."""
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)


def main() -> int:
    options = _options()
    raise_file_limit()
    proxy_cpu, load_cpu = _cores()
    pin(load_cpu)
    with ExitStack() as stack:
        directory = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meterproxy-bench-")))
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o711)  # as root PostgreSQL runs as somebody else, who must get through to its own directory
        certificates = make_certificates(directory)
        plain_port = stack.enter_context(provider(load_cpu))
        tls_port = stack.enter_context(provider(load_cpu, certificates)) if certificates else None
        bench = Bench(proxy_cpu, load_cpu, plain_port, tls_port, certificates, directory, options.workers)
        targets: list[Target] = []
        for name in options.targets:
            try:
                targets.append(stack.enter_context(TARGETS[name](bench)))
            except Absent as reason:
                print(f"without {name}: {reason}", flush=True)
        print(_where(proxy_cpu, load_cpu, options), flush=True)
        run = Run(options, targets, load_cpu)
        for part in options.parts:
            PARTS[part](run)
        if options.readme is not None:
            fill(options.readme, [_where(proxy_cpu, load_cpu, options) + ".", *run.shown])
    return 0


def _where(proxy_cpu: int | None, load_cpu: int | None, options: argparse.Namespace) -> str:
    pinned = (
        "one core for everything"
        if proxy_cpu is None
        else f"proxy on core {proxy_cpu}; provider, load and PostgreSQL on core {load_cpu}"
    )
    return (
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, {os.cpu_count()} cores; "
        f"{pinned}; "
        f"{options.connections} connections, median of {options.rounds} × {options.seconds:g} s"
    )


if __name__ == "__main__":
    sys.exit(main())
