"""Heirs: which journals a worker looks after, and when."""

from pathlib import Path

from meterproxy.errors import JournalFailed, StoreUnavailable
from meterproxy.ledger.journal import Journal
from meterproxy.ledger.journal_files import JournalLocked
from meterproxy.service.heirs import AGAIN_SECONDS, UNOWNED_SECONDS, Heirs


class Looking:
    """An heir of `slot-0` whose inheritances succeed, or fail as told."""

    def __init__(self, journals: Path) -> None:
        self.heirs = Heirs(journals, journals / "slot-0", self._inherit)
        self.tried: list[str] = []
        self.fails: Exception | None = None

    async def _inherit(self, directory: Path) -> None:
        self.tried.append(directory.name)
        if self.fails:
            raise self.fails

    async def at(self, seconds: float) -> list[str]:
        """What was tried at that instant."""
        self.tried.clear()
        await self.heirs.look(seconds)
        return list(self.tried)


async def test_what_has_no_owner_is_settled_after_a_moment_and_then_left_alone(tmp_path: Path) -> None:
    """Not one's own, not what is owned, not what is no journal; and again much later, or when nothing may be believed."""
    for slot in range(3):
        Journal(tmp_path / f"slot-{slot}").close()
    (tmp_path / "slot-7").mkdir()
    (tmp_path / "quarantine").mkdir()
    owned = Journal(tmp_path / "slot-2")
    looking = Looking(tmp_path)
    assert await looking.at(0) == []
    assert await looking.at(UNOWNED_SECONDS) == ["slot-1"]
    assert await looking.at(UNOWNED_SECONDS + 60) == []
    owned.close()
    assert await looking.at(100) == []
    assert await looking.at(100 + UNOWNED_SECONDS) == ["slot-2"]
    assert await looking.at(100 + AGAIN_SECONDS) == ["slot-1"]
    looking.heirs.look_again()
    assert await looking.at(800) == []
    assert await looking.at(800 + UNOWNED_SECONDS) == ["slot-1", "slot-2"]


async def test_one_that_cannot_be_settled_now_is_tried_again(tmp_path: Path) -> None:
    """Soon where PostgreSQL is away or somebody else was first, later where its volume refuses."""
    Journal(tmp_path / "slot-1").close()
    looking = Looking(tmp_path)
    await looking.at(0)
    for instant, error in ((5, StoreUnavailable("away")), (6, JournalLocked("taken")), (7, JournalFailed("full"))):
        looking.fails = error
        assert await looking.at(instant) == ["slot-1"]
    assert await looking.at(8) == []
    looking.fails = None
    assert await looking.at(7 + AGAIN_SECONDS) == ["slot-1"]
    assert await looking.at(8 + AGAIN_SECONDS) == []


async def test_an_owner_who_comes_back_is_left_alone(tmp_path: Path) -> None:
    """A worker that starts again within the moment recovers its own journal."""
    Journal(tmp_path / "slot-1").close()
    looking = Looking(tmp_path)
    assert await looking.at(0) == []
    owner = Journal(tmp_path / "slot-1")
    assert await looking.at(UNOWNED_SECONDS) == []
    owner.close()
    assert await looking.at(UNOWNED_SECONDS + 1) == []
    assert await looking.at(2 * UNOWNED_SECONDS + 1) == ["slot-1"]
