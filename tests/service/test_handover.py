"""What a supervisor hands to its workers, across an upgrade too."""

import os
from pathlib import Path

import pytest

from meterproxy.config import Config
from meterproxy.errors import StartFailed
from meterproxy.service import handover as module
from meterproxy.service.handover import WORKER_FD, Handover, hand_over, take_over


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> Handover:
    """Handed over under the number that the environment says."""
    handover = Handover(3, Config.load(None, {}), "postgresql://x", "postgresql://y", False, run_dir=Path("/run"))
    descriptor = hand_over(handover)
    monkeypatch.setenv(WORKER_FD, str(descriptor))
    return handover


def test_what_is_handed_over_arrives(handed: Handover) -> None:
    """All of it, and its variable is gone, so that no child of the worker acts on it."""
    assert take_over() == handed
    assert WORKER_FD not in os.environ


def test_another_release_is_refused(handed: Handover, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was installed over says what to do."""
    monkeypatch.setattr(module, "__version__", "9.9.9")
    with pytest.raises(StartFailed, match=r"^meterproxy \S+ runs, but 9\.9\.9 is installed: restart it$"):
        take_over()
