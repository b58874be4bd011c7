"""Fixtures of the command line: run a command in this process, against a real database."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from meterproxy.cli.root import run


@dataclass(frozen=True, slots=True)
class Done:
    """What a command came to."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Done]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Run a command line that needs no database; its data directory is a fresh one."""
    monkeypatch.setenv("METERPROXY_DATA_DIR", str(tmp_path / "data"))

    def invoke(*words: object) -> Done:
        status = run([str(word) for word in words])
        captured = capsys.readouterr()
        return Done(status, captured.out, captured.err)

    return invoke


@pytest.fixture
def on_database(command: Command, database: str, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command line on a migrated database."""
    monkeypatch.setenv("METERPROXY_DATABASE_URL", database)
    return command
