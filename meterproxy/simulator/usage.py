"""Usage as told: the true numbers, or what a fault makes of them.

`ABSENT` stands for an answer without the member, which is not the same as null.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

import orjson

from meterproxy.simulator.faults import Faults


class Missing(Enum):
    ABSENT = "absent"


ABSENT: Final = Missing.ABSENT
Told = Mapping[str, Any] | orjson.Fragment | None | Missing

_HUGE: Final = orjson.Fragment(str(2**64))


def told_usage(usage: Mapping[str, Any], faults: Faults) -> Told:
    """What the answer says it used; the first fault of the table that was asked for decides."""
    if faults.usage is not None:
        return orjson.Fragment(faults.usage)
    change = next((change for name, change in _CHANGES.items() if getattr(faults, name)), None)
    return usage if change is None else change(usage)


def _each(change: Callable[[int], Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    def changed(usage: Mapping[str, Any]) -> dict[str, Any]:
        return {name: changed(value) if isinstance(value, dict) else change(value) for name, value in usage.items()}

    return changed


_CHANGES: Final[Mapping[str, Callable[[Mapping[str, Any]], Told]]] = {
    "no_usage": lambda _usage: ABSENT,
    "usage_null": lambda _usage: None,
    "usage_negative": _each(lambda count: -count - 1),
    "usage_huge": _each(lambda _count: _HUGE),
    "usage_float": _each(lambda count: count + 0.5),
}
