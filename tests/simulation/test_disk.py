"""Disks in memory lose what real ones lose, and nothing else."""

import os
from random import Random

import pytest

from tests.simulation.disk import Disk, Os, Owner

SEEDS = range(20)


def disk_with(content: bytes, seed: int) -> tuple[Disk, Os, Owner, int]:
    """A synced file of that content, its name safe, open for more."""
    disk, system = Disk(Random(seed), lambda: 0), Os()
    owner = Owner(disk)
    directory = owner.path("/0")
    directory.mkdir()
    number = system.open(directory / "file", os.O_CREAT)
    system.pwrite(number, content, 0)
    system.fsync(number)
    system.fsync(system.open(directory, 0))
    return disk, system, owner, number


def content_of(disk: Disk) -> bytes:
    return Owner(disk).path("/0/file").read_bytes()


def test_a_killed_process_loses_nothing() -> None:
    """What was written is in the file, whoever reads it next."""
    disk, system, owner, number = disk_with(b"safe", 0)
    system.pwrite(number, b"more", 4)
    owner.die()
    assert content_of(disk) == b"safemore"


def test_what_a_dead_process_does_has_no_effect() -> None:
    """Its last words, told when nobody listens any more, change no file."""
    disk, system, owner, number = disk_with(b"safe", 0)
    owner.die()
    system.pwrite(number, b"more", 4)
    system.ftruncate(number, 0)
    assert content_of(disk) == b"safe"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_power_cut_loses_only_what_was_not_synced(seed: int) -> None:
    """What is left is a beginning of what was written, and all that was synced."""
    disk, system, _, number = disk_with(b"safe", seed)
    for position in range(4, 20, 4):
        system.pwrite(number, b"more", position)
    disk.cut_power()
    left = content_of(disk)
    assert left.startswith(b"safe")
    assert (b"safe" + b"more" * 4).startswith(left)


def test_power_cuts_lose_and_tear() -> None:
    """Some lose everything, some nothing, some a part of a write."""
    lengths = set()
    for seed in SEEDS:
        disk, system, _, number = disk_with(b"safe", seed)
        system.pwrite(number, bytes(4), 4)
        system.pwrite(number, b"more", 4)
        disk.cut_power()
        lengths.add(len(content_of(disk).rstrip(b"\0")))
    assert {4, 8} < lengths


def test_what_a_failed_sync_left_in_doubt_stays_so() -> None:
    """A sync that succeeds after one that failed says nothing about what that one was to make safe."""
    lost = 0
    for seed in SEEDS:
        disk, system, _, number = disk_with(b"safe", seed)
        system.pwrite(number, b"more", 4)
        disk.refusals = 1
        with pytest.raises(OSError, match="refuses"):
            system.fsync(number)
        system.fsync(number)
        disk.cut_power()
        lost += content_of(disk) != b"safemore"
    assert lost
