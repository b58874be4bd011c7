"""Logs: one JSON line per event on stderr, readable text on a terminal.

Rules
-----
- Logging never waits for stderr: lines go through a bounded queue to a thread; what does not fit is dropped, counted,
  and the count is told as soon as there is room again.
- Every line is bounded; what looks like a secret is masked even where somebody logged it by mistake.
- Facts go into `extra={...}` under names of their own, for example `request_id`; bodies never do.
"""

import atexit
import contextlib
import logging
import os
import queue
import re
import select
import sys
import threading
import time
from typing import IO, Final

import orjson

MESSAGE_CHARACTERS: Final = 4_096
TRACEBACK_CHARACTERS: Final = 8_192
FIELD_CHARACTERS: Final = 512
QUEUE_LINES: Final = 10_000
_CLOSE_SECONDS: Final = 2.0

_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_SECRETS: Final = (
    (re.compile(r"\b(mp|sk|pk|rk)-[A-Za-z0-9_\-]{8,}"), r"\1-…"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=\-]{6,}"), r"\1 …"),
    (re.compile(r"(://[^/\s:@]{1,256}:)[^@\s/]{1,512}@"), r"\1…@"),
)
_COLOURS: Final = {"WARNING": "33", "ERROR": "31", "CRITICAL": "31;1", "DEBUG": "2"}


class JsonFormatter(logging.Formatter):
    """One JSON object per event: `time`, `level`, `logger`, `message`, then the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, object] = {
            "time": _iso(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": masked(record.getMessage(), MESSAGE_CHARACTERS),
        }
        event |= {name: value for name, value in _fields(record) if name not in event}
        if trace := _traceback(self, record):
            event["exception"] = trace
        return orjson.dumps(event, option=orjson.OPT_NON_STR_KEYS).decode()


class TextFormatter(logging.Formatter):
    """A line for people: time, level where it matters, message, fields."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        parts = [time.strftime("%H:%M:%S", time.localtime(record.created))]
        if record.levelno != logging.INFO:
            parts.append(self._painted(record.levelname))
        parts.append(masked(record.getMessage(), MESSAGE_CHARACTERS))
        parts += [f"{name}={value}" for name, value in _fields(record)]
        trace = _traceback(self, record)
        return " ".join(parts) + (f"\n{trace}" if trace else "")

    def _painted(self, level: str) -> str:
        code = _COLOURS.get(level) if self._colour else None
        return f"\x1b[{code}m{level.lower()}\x1b[0m" if code else level.lower()


class QueuedHandler(logging.Handler):
    """Formats where the event happens, and leaves the writing to a thread."""

    def __init__(self, descriptor: int, lines: int = QUEUE_LINES) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._queue: queue.Queue[str | None] = queue.Queue(lines)
        self._counting = threading.Lock()
        self._untold = 0
        self.dropped_total = 0
        self._thread = threading.Thread(target=self._write_all, name="logs", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._queue.put_nowait(self.format(record))
        except queue.Full:
            with self._counting:
                self._untold += 1
                self.dropped_total += 1
        except Exception:  # noqa: BLE001 - a log line that cannot be formatted must not break what it tells of
            self.handleError(record)

    def close(self) -> None:
        """Write what is queued, for a moment at most."""
        if self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._queue.put(None, timeout=_CLOSE_SECONDS)
            self._thread.join(_CLOSE_SECONDS)
        super().close()

    def _write_all(self) -> None:
        while (line := self._queue.get()) is not None:
            with contextlib.suppress(OSError):  # stderr is gone: nobody reads, nothing else may stop
                _write(self._descriptor, line)
                if told := self._told():
                    _write(self._descriptor, told)

    def _told(self) -> str | None:
        with self._counting:
            dropped, self._untold = self._untold, 0
        if not dropped:
            return None
        message = "%d log lines were dropped because stderr was too slow"
        return self.format(logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, (dropped,), None))


def _write(descriptor: int, line: str) -> None:
    data = memoryview(line.encode("utf-8", "replace") + b"\n")
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            select.select((), (descriptor,), ())


def set_up(level: str = "info", style: str = "auto", stream: IO[str] | None = None) -> QueuedHandler:
    """Send all logging of this process to stderr.

    Args:
        level: "debug", "info", "warning" or "error".
        style: "json", "text", or "auto": text on a terminal.
        stream: stderr unless given.
    """
    out = stream or sys.stderr
    handler = QueuedHandler(out.fileno())
    text = style == "text" or (style == "auto" and out.isatty())
    handler.setFormatter(TextFormatter(colour=out.isatty()) if text else JsonFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.getLogger("asyncio").setLevel(max(root.level, logging.WARNING))
    logging.captureWarnings(capture=True)
    atexit.register(handler.close)
    return handler


def masked(text: str, limit: int) -> str:
    """The text without what looks like a secret, on one line's length."""
    cut = text[: limit * 2]
    for pattern, replacement in _SECRETS:
        cut = pattern.sub(replacement, cut)
    cut = cut.encode("utf-8", "replace").decode()
    return cut if len(cut) <= limit else cut[:limit] + "…"


def _fields(record: logging.LogRecord) -> list[tuple[str, object]]:
    extra = ((name, value) for name, value in record.__dict__.items() if name not in _STANDARD)
    return [(name, _bounded(value)) for name, value in extra]


def _bounded(value: object) -> object:
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    return masked(str(value), FIELD_CHARACTERS)


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    text = formatter.formatException(record.exc_info)
    return masked(text[-TRACEBACK_CHARACTERS:], TRACEBACK_CHARACTERS)


def _iso(seconds: float) -> str:
    whole, milliseconds = divmod(int(seconds * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{milliseconds:03d}Z"
