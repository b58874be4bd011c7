"""Log lines: their shape, their bounds, and that they never make anyone wait."""

import json
import logging
import os
from collections.abc import Iterator

import pytest

from meterproxy.runtime.logs import (
    MESSAGE_CHARACTERS,
    JsonFormatter,
    QueuedHandler,
    TextFormatter,
    masked,
    set_up,
)


def record(message: str, *arguments: object, level: int = logging.INFO, **extra: object) -> logging.LogRecord:
    return logging.getLogger("meterproxy.test").makeRecord(
        "meterproxy.test", level, __file__, 1, message, arguments, None, extra=extra
    )


def test_json_line() -> None:
    """An event is one JSON object with its own fields beside the usual ones."""
    event = json.loads(JsonFormatter().format(record("took %d ms", 3, request_id="0197", seconds=0.5, big=2**70)))
    assert event.pop("time").endswith("Z")
    assert event == {
        "level": "info",
        "logger": "meterproxy.test",
        "message": "took 3 ms",
        "request_id": "0197",
        "seconds": 0.5,
        "big": str(2**70),
    }


def test_one_event_is_one_line() -> None:
    """Whatever is in a message, it stays on its line and cannot pretend to be another event."""
    line = JsonFormatter().format(record('first\n{"level": "error"}\r\ud800'))
    assert "\n" not in line
    assert json.loads(line)["message"] == 'first\n{"level": "error"}\r?'


def test_long_message_is_cut() -> None:
    """A message is bounded, however long the text that got into it."""
    assert len(json.loads(JsonFormatter().format(record("x" * 10**6)))["message"]) == MESSAGE_CHARACTERS + 1


def test_exception_is_told() -> None:
    """The traceback goes with the event, in a field of its own."""
    error = ValueError("no key mp-0123456789abcdef here")
    failed = logging.getLogger("x").makeRecord("x", logging.ERROR, __file__, 1, "failed", (), (ValueError, error, None))
    trace = json.loads(JsonFormatter().format(failed))["exception"]
    assert trace.endswith("ValueError: no key mp-… here")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("key mp-abcdefgh12345", "key mp-…"),
        ("key sk-proj-abcdefgh12345", "key sk-…"),
        ("Authorization: Bearer abcdef.ghi", "Authorization: Bearer …"),
        ("postgresql://user:secret@host/db", "postgresql://user:…@host/db"),
        ("http://host:8080/path", "http://host:8080/path"),
        ("mp-1", "mp-1"),
    ],
)
def test_secrets_are_masked(text: str, shown: str) -> None:
    """What looks like a secret is not shown."""
    assert masked(text, 1000) == shown


def test_text_line() -> None:
    """On a terminal a line is for people; the level is named where it matters."""
    assert TextFormatter(colour=False).format(record("ready", port=8080)).split(" ", 1)[1] == "ready port=8080"
    warned = TextFormatter(colour=False).format(record("slow", level=logging.WARNING))
    assert warned.split(" ", 1)[1] == "warning slow"


def test_slow_reader_never_blocks() -> None:
    """With nobody reading stderr, lines are dropped and counted; the count is told once there is room."""
    read_end, write_end = os.pipe()
    handler = QueuedHandler(write_end, lines=4)
    handler.setFormatter(JsonFormatter())
    for number in range(200):
        handler.handle(record("x" * 4000, number=number))
    assert handler.dropped_total > 100
    told = _until_told(read_end)
    assert sum(told) == handler.dropped_total
    handler.close()
    os.close(write_end)
    os.close(read_end)


def _until_told(descriptor: int) -> list[int]:
    counts: list[int] = []
    with os.fdopen(os.dup(descriptor), "rb", buffering=0) as pipe:
        buffered = b""
        kept = 0
        while kept + sum(counts) < 200:
            buffered += pipe.read(65536)
            *lines, buffered = buffered.split(b"\n")
            for event in map(json.loads, lines):
                if "dropped" in event["message"]:
                    counts.append(int(event["message"].split()[0]))
                else:
                    kept += 1
    return counts


def test_closed_stderr_is_survived() -> None:
    """Without a reader at all, logging goes on doing nothing."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    handler = QueuedHandler(write_end)
    handler.handle(record("nobody hears this"))
    handler.close()
    os.close(write_end)


@pytest.fixture
def root_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


@pytest.mark.usefixtures("root_logging")
def test_set_up() -> None:
    """Logging of the whole process goes to the one handler, from the given level on."""
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "w") as stream:
        handler = set_up("warning", "json", stream)
        logging.getLogger("a").info("quiet")
        logging.getLogger("b").warning("loud", extra={"request_id": "1"})
        handler.close()
    with open(read_end, "rb", buffering=0) as pipe:  # noqa: PTH123 - a pipe has no path
        lines = pipe.read(65536).splitlines()
    assert [(event["message"], event["request_id"]) for event in map(json.loads, lines)] == [("loud", "1")]
