"""Fitness: what the boot self-test of a worker looks at on its own machine."""

from pathlib import Path
from typing import Final
from uuid import UUID

from meterproxy.core.account import AccountEntry
from meterproxy.core.bound import Bound
from meterproxy.core.hold import HoldRequest
from meterproxy.core.key import KeyEntry, KeyPolicy
from meterproxy.core.money import PPM
from meterproxy.core.price import Price, RateCard, Rates, RateTier

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
