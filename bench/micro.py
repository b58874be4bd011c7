"""Micro: what a request costs inside one process; differences of a percent show where `make bench` shows five.

By default CPU time a request, the least of several rounds. `--count calls` or `opcodes` counts instead, which is the
same in every run. For instructions run it twice under `valgrind --tool=callgrind` with one round each, one longer than
the other, and divide the difference of their totals by that of their requests.

Run by `python -m bench.micro`.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

import uvloop

from bench.inside import Inside, built
from bench.processes import pin

_WARM: Final = 200


async def _timed(inside: Inside, options: argparse.Namespace) -> str:
    best = float("inf")
    for _ in range(options.rounds):
        begun = time.process_time()
        await inside.answer(options.requests, stream=options.stream, connections=options.connections)
        best = min(best, time.process_time() - begun)
    return f"{best / options.requests * 1e6:.1f} µs CPU a request"


async def _calls(inside: Inside, options: argparse.Namespace) -> str:
    seen: Counter[str] = Counter()

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            seen[f"{frame.f_code.co_qualname}  {Path(frame.f_code.co_filename).name}"] += 1
        elif event == "c_call":
            seen[f"{getattr(argument, '__qualname__', argument)}  (built in)"] += 1

    sys.setprofile(profile)
    try:
        await inside.answer(options.requests, stream=options.stream, connections=options.connections)
    finally:
        sys.setprofile(None)
    return _listed(seen, options.requests, "calls", options.top)


async def _opcodes(inside: Inside, options: argparse.Namespace) -> str:
    seen: Counter[Any] = Counter()

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        del argument
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            seen[frame.f_code] += 1
        return trace

    sys.settrace(trace)
    try:
        await inside.answer(options.requests, stream=options.stream, connections=options.connections)
    finally:
        sys.settrace(None)
    named: Counter[str] = Counter()
    for code, times in seen.items():
        named[f"{code.co_qualname}  {Path(code.co_filename).name}"] += times
    return _listed(named, options.requests, "opcodes", options.top)


def _listed(seen: "Counter[str]", requests: int, what: str, top: int) -> str:
    lines = [f"{sum(seen.values()) / requests:.1f} {what} a request"]
    lines += [f"{times / requests:9.1f}  {name}" for name, times in seen.most_common(top)]
    return "\n".join(lines)


_COUNTS: Final[dict[str, Callable[[Inside, argparse.Namespace], Awaitable[str]]]] = {
    "time": _timed,
    "calls": _calls,
    "opcodes": _opcodes,
}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=4000, help="requests a round (default 4000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the fastest counts (default 5)")
    parser.add_argument("--connections", type=int, default=8, help="clients (default 8)")
    parser.add_argument("--limits", action="store_true", help="a key that draws from twelve limits")
    parser.add_argument("--stream", action="store_true", help="streams of 64 events instead of plain answers")
    parser.add_argument("--together", type=int, default=1, help="events of a stream that come in one read (default 1)")
    parser.add_argument("--count", choices=_COUNTS, default="time", help="what to measure (default time)")
    parser.add_argument("--top", type=int, default=0, help="list so many functions that have most of what is counted")
    parser.add_argument("--cpu", type=int, help="core to run on")
    return parser.parse_args()


async def _run(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="meterproxy-micro-") as directory:
        async with built(Path(directory), together=options.together, limited=options.limits) as inside:
            await inside.answer(_WARM, stream=options.stream, connections=options.connections)
            print(await _COUNTS[options.count](inside, options))


def main() -> None:
    options = _options()
    pin(options.cpu)
    uvloop.run(_run(options))


if __name__ == "__main__":
    main()
