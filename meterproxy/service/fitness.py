"""Fitness: what the boot self-test of a worker looks at on its own machine."""

from pathlib import Path
from typing import Final
from uuid import UUID

from meterproxy.config import Config
from meterproxy.core.account import AccountEntry
from meterproxy.core.bound import Bound
from meterproxy.core.hold import HoldRequest
from meterproxy.core.key import KeyEntry, KeyPolicy
from meterproxy.core.money import PPM
from meterproxy.core.price import Price, RateCard, Rates, RateTier
from meterproxy.errors import ApiError
from meterproxy.ledger.worker import WorkerLedger

MOST_SKEW_SECONDS: Final = 300.0

_NOBODY: Final = UUID(int=0)
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})


def is_volatile(directory: Path) -> bool:
    """Whether a directory lies on a file system that lives in memory; False where that cannot be told."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return False
    real = directory.resolve()
    found = max(
        ((mount.split()[1], mount.split()[2]) for mount in mounts if real.is_relative_to(mount.split()[1])),
        key=lambda mount: len(mount[0]),
        default=("/", ""),
    )
    return found[1] in _IN_MEMORY


def self_test_request(now_us: int) -> HoldRequest:
    """A request of an account that does not exist; a ledger that places its hold must not serve."""
    nobody = KeyEntry(_NOBODY, AccountEntry(_NOBODY, _NOBODY, _NOBODY), _NOBODY, KeyPolicy())
    price = Price("self-test", "self-test", {"default": RateCard((RateTier(-1, Rates(input=1)),))})
    bound = Bound(input_tokens=1, output_tokens=0)
    return HoldRequest(_NOBODY, now_us, nobody, "chat", "self-test", "self-test", price, PPM, bound, 1, stream=False)


def local_problems(config: Config, ledger: WorkerLedger) -> list[str]:
    """The self-test of what is not the database's."""
    problems = []
    if is_volatile(config.data_dir):
        problems.append(f"data_dir {config.data_dir} lies in memory, which a power cut empties")
    if abs(ledger.clock.skew_us) > MOST_SKEW_SECONDS * 1e6:
        problems.append("this machine's clock and the database's are minutes apart")
    if _places_without_credit(ledger):
        problems.append("a key without credit was not refused")
    return problems


def _places_without_credit(ledger: WorkerLedger) -> bool:
    try:
        return ledger.holds.try_place(self_test_request(ledger.clock.now_us())) is not None
    except ApiError:
        return False  # refused, be it for want of trust: the session may have waited long for the start
