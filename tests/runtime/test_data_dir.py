"""The data directory's lock, and the place of its sockets."""

import os
import stat
from pathlib import Path

import pytest

from meterproxy.errors import StartFailed
from meterproxy.runtime.data_dir import DataDirLock, RunDirectory


def test_second_start_is_told_who_holds_it(tmp_path: Path) -> None:
    """Only one process uses a data directory; the other one is told which."""
    with DataDirLock(tmp_path / "data"):
        with (
            pytest.raises(StartFailed, match=f"in use by process {os.getpid()}: stop it"),
            DataDirLock(tmp_path / "data"),
        ):
            pass
    with DataDirLock(tmp_path / "data") as lock:
        assert not lock.was_left


def test_killed_holder_is_noticed(tmp_path: Path) -> None:
    """A lock whose holder was killed is free, and known to have been left."""
    (tmp_path / "lock").write_text("process 1234\n")
    with DataDirLock(tmp_path) as lock:
        assert lock.was_left


def test_unusable_directory_is_told(tmp_path: Path) -> None:
    """A data_dir that cannot be a directory is an error in one line."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StartFailed, match="cannot be used"), DataDirLock(tmp_path / "file"):
        pass


@pytest.mark.parametrize("depth", [1, 30])
def test_sockets_fit_their_directory(tmp_path: Path, depth: int) -> None:
    """The path of a socket is short enough, in a private directory."""
    with RunDirectory(tmp_path / ("deep" * depth)) as run:
        assert len(os.fsencode(run / "tokenizer.sock")) <= 107
        assert stat.S_IMODE(run.stat().st_mode) == 0o700
