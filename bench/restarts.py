"""Restart a service again and again under load, and count the errors: `python -m bench.restarts --rounds 50`.

Clients ask for plain answers and streams as OpenAI's SDK does: what fails before its answer is there (the connection,
408, 409, 429, 5xx) is tried again twice, after the SDK's own pauses. Counted is what failed at first and what failed in
the end. Ways to restart: `hangup` (SIGHUP: workers are replaced), `stop` (SIGTERM, and `serve` again as soon as it has
ended), `socket` (the same where a service manager keeps the listening socket open meanwhile).
"""

import argparse
import asyncio
import math
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

import aiohttp
import yaml

from bench.kills import CUSTOMERS, MUST_BE_NOTHING, PROVIDER, verdict
from tests.postgres import reachable_directory
from tests.service.load import Customer, Load, Refused, Whole, ask, customer
from tests.service.running import Service, service, until

RETRIES: Final = 2
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 8.0
RETRIED: Final = frozenset({408, 409, 429})
BETWEEN_SECONDS: Final = 1.0
THINK_SECONDS: Final = 0.02
"""Between two requests of a client: this is about errors, not about speed."""
WAYS: Final = ("hangup", "stop", "socket")
IN_FORCE: Final = "the new configuration is in force"


@dataclass
class Seen:
    """What clients of one way to restart have seen."""

    answers: int = 0
    at_first: Counter[str] = field(default_factory=Counter)
    in_the_end: Counter[str] = field(default_factory=Counter)
    longest_seconds: float = 0.0
    restart_seconds: list[float] = field(default_factory=list)


class RetryingLoad(Load):
    """A load whose clients try again like OpenAI's SDK."""

    def __init__(self, running: Service, customers: list[Customer], seed: int) -> None:
        super().__init__(running, customers, seed)
        self.seen = Seen()

    async def _client(self, session: aiohttp.ClientSession) -> None:
        while not self._stopping:
            began = time.monotonic()
            who, stream = self._random.choice(self.customers), self._random.random() < 0.5
            slow = "slow=0.005" if stream and self._random.random() < 0.3 else ""
            for attempt in range(RETRIES + 1):
                answer = await self._attempt(session, who, stream, slow)
                if isinstance(answer, Whole):
                    self.whole.append(answer)
                    self.seen.answers += 1
                    break
                what, again, after_seconds = answer
                self.seen.at_first[what] += 1
                if not again or attempt == RETRIES:
                    self.seen.in_the_end[what] += 1
                    break
                await asyncio.sleep(after_seconds or self._pause(attempt))
            self.seen.longest_seconds = max(self.seen.longest_seconds, time.monotonic() - began)
            await asyncio.sleep(THINK_SECONDS)

    async def _attempt(
        self, session: aiohttp.ClientSession, who: Customer, stream: bool, slow: str
    ) -> Whole | tuple[str, bool, float]:
        """An answer, or what went wrong, whether the SDK would try again, and the pause that it was told."""
        tokens = self._random.randint(1, 40)
        try:
            answer = await ask(session, self._service, who, stream=stream, simulate=slow, tokens=tokens)
        except aiohttp.ClientPayloadError:  # a plain answer's body is read before the SDK returns, a stream's after
            return "broken stream" if stream else "broken answer", not stream, 0.0
        except (aiohttp.ClientError, TimeoutError) as error:
            return type(error).__name__, True, 0.0
        if isinstance(answer, Refused):
            again = answer.status in RETRIED or answer.status >= 500
            return str(answer.status), again, float(answer.headers.get("retry-after", 0))
        return answer

    def _pause(self, attempt: int) -> float:
        longest = min(FIRST_PAUSE_SECONDS * 2**attempt, LONGEST_PAUSE_SECONDS)
        return longest * (1 - 0.25 * self._random.random())


async def hang_up(running: Service) -> None:
    """SIGHUP, and wait until every worker was replaced."""
    before = running.whole_log().count(IN_FORCE)
    assert running.process is not None
    running.process.send_signal(signal.SIGHUP)
    await until(lambda: running.whole_log().count(IN_FORCE) > before, "the replacement of all workers")


async def stop_and_start(running: Service) -> None:
    """SIGTERM, and the start of a successor as soon as everything has ended."""
    assert await running.stop() == 0
    await running.start()


async def run(options: argparse.Namespace, way: str, directory: Path) -> bool:
    """All restarts of one way; answers whether the books were right afterwards."""
    random.seed(options.seed)
    config = directory / "config.yaml"
    config.write_text(yaml.safe_dump({"workers": options.workers, "providers": {"openai": PROVIDER}}))
    environment = {"METERPROXY_CONFIG": str(config)}
    over = time.monotonic() + options.minutes * 60
    restart = hang_up if way == "hangup" else stop_and_start
    async with service(directory, environment=environment, kept_socket=way == "socket") as running:
        customers = [await customer(running) for _ in range(CUSTOMERS)]
        load = RetryingLoad(running, customers, options.seed)
        async with load.running(options.clients):
            await until(load.more(20), "answers")
            for at in range(options.rounds):
                if time.monotonic() > over:
                    break
                await asyncio.sleep(BETWEEN_SECONDS)
                began = time.monotonic()
                await restart(running)
                load.seen.restart_seconds.append(time.monotonic() - began)
                await until(load.more(20), "answers after a restart")
                print(f"\r{way}: {at + 1} of {options.rounds}, {load.seen.answers} answers", end="", file=sys.stderr)
        print(file=sys.stderr)
        told = await verdict(running, customers, load)
    show(options, way, load.seen, told)
    return not any(told[name] for name in MUST_BE_NOTHING)


def show(options: argparse.Namespace, way: str, seen: Seen, told: dict[str, object]) -> None:
    print(
        f"\n### {len(seen.restart_seconds)} restarts by {way}, {options.workers} workers, {options.clients} clients\n"
    )
    print("| what | figure |\n|---|---|")
    print(f"| answers that clients got whole | {seen.answers} |")
    print(f"| attempts that failed | {seen.at_first.total()} {dict(seen.at_first) or ''} |")
    print(f"| requests that failed after two retries | {seen.in_the_end.total()} {dict(seen.in_the_end) or ''} |")
    print(f"| longest request, retries included | {seen.longest_seconds:.1f} s |")
    seconds = seen.restart_seconds
    print(f"| a restart took | {median(seconds):.1f} s (median), {max(seconds):.1f} s (longest) |")
    for name in MUST_BE_NOTHING:
        print(f"| {name} | {told[name]} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.restarts", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50, help="how many restarts of each way (default 50)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end each way after so many")
    parser.add_argument("--workers", type=int, default=2, help="workers of the service (default 2)")
    parser.add_argument("--clients", type=int, default=8, help="clients that ask (default 8)")
    parser.add_argument("--ways", default=",".join(WAYS), help=f"some of {', '.join(WAYS)}")
    parser.add_argument("--seed", type=int, default=1, help="of all that is random here")
    options = parser.parse_args()
    right = []
    for way in options.ways.split(","):
        with reachable_directory() as directory:
            right.append(asyncio.run(run(options, way, directory)))
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
