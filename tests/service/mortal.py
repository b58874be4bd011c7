"""A meterproxy that dies by `kill -9` at a named point, once for each time that a test arms the point.

`python -m tests.service.mortal serve` is `meterproxy serve` with workers that die so, which it starts again at once; it
dies itself while it makes the demo. The program knows nothing of this: points are wrapped around its own functions.

Rules
-----
- A point is armed by a file of its name in the directory `METERPROXY_TEST_DEATHS`; dying removes it.
- The process dies inside the wrapped call's own step: nothing else of the worker runs in between.
- What a dead worker was asking a provider about is due again after two seconds, not twelve.
"""

import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meterproxy.core.record import DeferRecord, EndRecord

DEATHS = "METERPROXY_TEST_DEATHS"

Condition = Callable[..., bool]


class Points:
    """Dies at armed points."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.recovering = False

    def reach(self, point: str) -> None:
        try:
            (self._directory / point).unlink()
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    def before(self, owner: Any, name: str, point: str, when: Condition = lambda *_args, **_named: True) -> None:
        self._wrap(owner, name, point, when, first=True)

    def after(self, owner: Any, name: str, point: str, when: Condition = lambda *_args, **_named: True) -> None:
        self._wrap(owner, name, point, when, first=False)

    def _wrap(self, owner: Any, name: str, point: str, when: Condition, *, first: bool) -> None:
        original = getattr(owner, name)

        def reached(*args: Any, **named: Any) -> None:
            if when(*args, **named):
                self.reach(point)

        @functools.wraps(original)
        def plain(*args: Any, **named: Any) -> Any:
            if first:
                reached(*args, **named)
            result = original(*args, **named)
            if not first:
                reached(*args, **named)
            return result

        @functools.wraps(original)
        async def awaited(*args: Any, **named: Any) -> Any:
            if first:
                reached(*args, **named)
            result = await original(*args, **named)
            if not first:
                reached(*args, **named)
            return result

        setattr(owner, name, awaited if inspect.iscoroutinefunction(original) else plain)


def set_points(points: Points) -> None:
    """Wrap every named point."""
    from meterproxy.ledger import worker as ledger
    from meterproxy.ledger.journal import Journal
    from meterproxy.proxy.capture import OpenHold
    from meterproxy.proxy.client import Client
    from meterproxy.store import settle
    from meterproxy.store.idempotency import IdempotencyRows
    from meterproxy.store.sessions import Sessions

    points.after(Journal, "place", "hold_placed")
    points.after(OpenHold, "answered", "first_byte_received")
    points.after(Client, "send", "first_byte_forwarded")
    points.before(Journal, "end", "before_ending")
    points.after(Journal, "end", "after_ending")
    points.before(Client, "send", "before_terminal_event", lambda _, piece: b"[DONE]" in piece)
    points.after(Client, "send", "terminal_event", lambda _, piece: b"[DONE]" in piece)
    points.after(Client, "answer", "last_byte", lambda _, status, *_rest: status == 200)
    points.before(Journal, "defer", "before_deferral")
    points.after(Journal, "defer", "after_deferral")
    points.after(settle, "_book", "deferral_before_commit", lambda _, batch, **_how: _defers(batch))
    points.after(settle.Settlement, "book", "deferral_after_commit", lambda _, batch: _defers(batch))
    points.before(Journal, "describe", "before_durable_ending", lambda _, record: isinstance(record, EndRecord))
    points.after(Journal, "describe", "after_durable_ending", lambda _, record: isinstance(record, EndRecord))
    points.after(settle, "_book", "before_commit", lambda _, batch, **_how: bool(batch.endings))
    points.after(settle.Settlement, "book", "after_commit", lambda _, batch: bool(batch.endings))

    points.after(IdempotencyRows, "claim", "key_claimed")
    points.before(IdempotencyRows, "end", "before_answer_kept")
    points.after(IdempotencyRows, "end", "after_answer_kept")

    def recovering(*_args: Any, **_named: Any) -> bool:
        return points.recovering

    begin = ledger.replay

    def replay(*args: Any) -> Any:
        points.recovering = True
        return begin(*args)

    ledger.replay = replay
    points.after(ledger, "replay", "recovery_replayed")
    points.before(Journal, "append", "recovery_before_ending", recovering)
    points.after(Journal, "append", "recovery_after_ending", recovering)
    points.after(settle, "_book", "recovery_before_commit", recovering)
    points.after(settle.Settlement, "book", "recovery_after_commit", recovering)
    points.before(Sessions, "end_session", "recovery_before_proof", recovering)
    points.after(Sessions, "end_session", "recovery_after_proof", recovering)


def _defers(batch: Any) -> bool:
    return any(isinstance(noted.record, DeferRecord) for noted in batch.notes)


def serve() -> int:
    from meterproxy.cli.root import run
    from meterproxy.runtime import keeping
    from meterproxy.service import host
    from meterproxy.store.accounts import Accounts
    from meterproxy.store.keys import Keys

    points = Points(Path(os.environ[DEATHS]))
    points.after(Accounts, "create", "demo_account_made")
    points.after(Accounts, "credit", "demo_credited")
    points.after(Keys, "create", "demo_key_made")
    keeping.STABLE_SECONDS = 0.0
    host.WORKERS = (sys.executable, "-m", "tests.service.mortal", "_workers")
    return run(["serve"])


def work() -> int:
    from meterproxy.runtime.fork_server import fork_when_asked
    from meterproxy.service import poller, worker

    poller.ASK_SECONDS, poller.TERM_SECONDS = 1.5, 2.0
    set_points(Points(Path(os.environ[DEATHS])))
    return fork_when_asked(worker.main)


if __name__ == "__main__":
    sys.exit({"serve": serve, "_workers": work}[sys.argv[1]]())
