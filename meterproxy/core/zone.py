"""Zones: the rules of time zones, as every host of a fleet must read them.

Rules
-----
- They come from the package `tzdata`, never from the machine: hosts that disagree on when a day begins would each lend
  a whole day's cap.
"""

from functools import cache, lru_cache
from importlib import resources
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError


@cache
def zone_names() -> frozenset[str]:
    """Every time zone there is."""
    return frozenset((resources.files("tzdata") / "zones").read_text().split())


@lru_cache(maxsize=1024)
def zone(name: str) -> ZoneInfo:
    """A time zone.

    Raises:
        zoneinfo.ZoneInfoNotFoundError: there is no such one.
    """
    if name not in zone_names():
        raise ZoneInfoNotFoundError(f"No time zone found with key {name}")
    with (resources.files("tzdata") / "zoneinfo").joinpath(*name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)
