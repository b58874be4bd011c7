"""Disks in memory: what a process writes, what of it is safe, and what a power cut leaves.

Rules
-----
- A write is in the file at once and safe after a successful sync of that file; a name is safe after a sync of its
  directory. A killed process loses nothing, a power cut what is not safe: from some write on everything, and of that
  write a part.
- After a sync that failed the writes concerned are never safe, whatever later syncs say.
- What a dead process still tries to do has no effect.
"""

import errno
import os
from collections.abc import Callable, Iterator
from itertools import count
from random import Random
from types import SimpleNamespace
from typing import Any, Self


class File:
    """Bytes, and the undoing of every change that is not safe yet."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.unsafe: list[tuple[int, bytes, int]] = []
        """Where, what was there before, and how long the file was."""
        self.doubtful = False
        self.changed_us = 0

    def write(self, data: bytes, offset: int) -> None:
        end = offset + len(data)
        self.unsafe.append((offset, bytes(self.content[offset:end]), len(self.content)))
        if len(self.content) < end:
            self.content.extend(bytes(end - len(self.content)))
        self.content[offset:end] = data

    def truncate(self, size: int) -> None:
        if size < len(self.content):
            tail = bytes(self.content[size:]).rstrip(b"\0")
            self.unsafe.append((size, tail, len(self.content)))
            del self.content[size:]

    def allocate(self, size: int) -> None:
        if len(self.content) < size:
            self.content.extend(bytes(size - len(self.content)))

    def sync(self) -> None:
        if not self.doubtful:
            self.unsafe.clear()

    def cut(self, random: Random) -> None:
        """Lose what is not safe: all writes behind a random one, and a part of that one."""
        kept = random.randint(0, len(self.unsafe))
        torn = random.random() < 0.5
        while len(self.unsafe) > kept:
            offset, before, size = self.unsafe.pop()
            part = 0
            if torn and len(self.unsafe) == kept and before:
                part = random.randint(0, len(before))
            self.content[offset + part : offset + len(before)] = before[part:]
            self.content.extend(bytes(max(size - len(self.content), 0)))
            del self.content[size:]
        self.unsafe.clear()
        self.doubtful = False


class Directory:
    """Names, as they are and as they are safe."""

    def __init__(self) -> None:
        self.names: dict[str, File] = {}
        self.safe: dict[str, File] = {}

    def cut(self, random: Random) -> None:
        if random.random() < 0.5:
            self.names = dict(self.safe)
        for file in {**self.names, **self.safe}.values():
            file.cut(random)
        self.safe = dict(self.names)


class Disk:
    """The volume of one host. `refusals`: how many of the next syncs and allocations fail."""

    def __init__(self, random: Random, now_us: Callable[[], int]) -> None:
        self._random = random
        self.now_us = now_us
        self.directories: dict[str, Directory] = {}
        self.locked: dict[str, Owner] = {}
        self.refusals = 0

    def cut_power(self) -> None:
        for directory in self.directories.values():
            directory.cut(self._random)

    def refuse(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise OSError(errno.EIO, "the volume refuses")


class Owner:
    """One process that uses a disk; once dead, what it does has no effect."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.alive = True

    def path(self, name: str) -> "Path":
        return Path(self, name)

    def die(self) -> None:
        self.alive = False
        for name, owner in list(self.disk.locked.items()):
            if owner is self:
                del self.disk.locked[name]


class Path:
    """As much of `pathlib.Path` as the journal uses."""

    def __init__(self, owner: Owner, name: str) -> None:
        self.owner = owner
        self._name = name

    def __truediv__(self, name: str) -> "Path":
        return Path(self.owner, f"{self._name}/{name}")

    def __str__(self) -> str:
        return self._name

    def __lt__(self, other: "Path") -> bool:
        return self._name < other._name

    @property
    def name(self) -> str:
        return self._name.rpartition("/")[2]

    @property
    def stem(self) -> str:
        return self.name.rpartition(".")[0] or self.name

    @property
    def parent(self) -> "Path":
        return Path(self.owner, self._name.rpartition("/")[0])

    @property
    def directory(self) -> Directory:
        return self.owner.disk.directories[self.parent._name]

    def file(self) -> File:
        try:
            return self.directory.names[self.name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "no such file", self._name) from None

    def mkdir(self, mode: int = 0, parents: bool = False, exist_ok: bool = False) -> None:
        self.owner.disk.directories.setdefault(self._name, Directory())

    def exists(self) -> bool:
        return self._name in self.owner.disk.directories or self.name in self.directory.names

    def glob(self, pattern: str) -> Iterator["Path"]:
        ending = pattern.removeprefix("*")
        names = list(self.owner.disk.directories[self._name].names)
        return (self / name for name in names if name.endswith(ending))

    def rename(self, target: "Path") -> None:
        if self.owner.alive:
            self.directory.names[target.name] = self.directory.names.pop(self.name)

    def unlink(self, missing_ok: bool = False) -> None:
        if self.owner.alive:
            self.directory.names.pop(self.name, None)

    def stat(self) -> SimpleNamespace:
        return SimpleNamespace(st_mtime=self.file().changed_us / 1e6, st_size=len(self.file().content))

    def read_bytes(self) -> bytes:
        return bytes(self.file().content)

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def write_bytes(self, data: bytes) -> None:
        with self.open("wb") as file:
            file.write(data)

    def open(self, mode: str = "r") -> "Opened":
        return Opened(Os.instance, Os.instance.open(self, os.O_CREAT | os.O_TRUNC if "w" in mode else 0))


class Opened:
    """An open file as `Path.open` gives it."""

    def __init__(self, system: "Os", number: int) -> None:
        self._system = system
        self._number = number
        self._at = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._system.close(self._number)

    def fileno(self) -> int:
        return self._number

    def flush(self) -> None:
        pass

    def seek(self, offset: int) -> None:
        self._at = offset

    def read(self) -> bytes:
        return bytes(self._system.file(self._number).content[self._at :])

    def write(self, data: str | bytes) -> None:
        self._system.pwrite(self._number, data.encode() if isinstance(data, str) else data, self._at)
        self._at += len(data)

    def truncate(self, size: int) -> None:
        self._system.ftruncate(self._number, size)


class Os:
    """As much of the module `os` as the journal uses, and of `fcntl`; everything else is the real one's."""

    instance: "Os"
    LOCK_EX = 2
    LOCK_NB = 4

    def __init__(self) -> None:
        Os.instance = self
        self._open: dict[int, tuple[Path, File | Directory]] = {}
        self._numbers = count(1000)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def clear(self) -> None:
        """Let go of every file."""
        self._open.clear()

    def open(self, path: Path, flags: int, _mode: int = 0) -> int:
        node: File | Directory
        if str(path) in path.owner.disk.directories:
            node = path.owner.disk.directories[str(path)]
        else:
            if flags & os.O_CREAT and path.owner.alive and path.name not in path.directory.names:
                path.directory.names[path.name] = File()
            node = path.file()
            if flags & os.O_TRUNC and path.owner.alive:
                node.truncate(0)
        number = next(self._numbers)
        self._open[number] = path, node
        return number

    def close(self, number: int) -> None:
        path, _ = self._open.pop(number, (None, None))
        if path is not None and path.owner.alive and path.owner.disk.locked.get(str(path)) is path.owner:
            del path.owner.disk.locked[str(path)]

    def file(self, number: int) -> File:
        node = self._open[number][1]
        assert isinstance(node, File)
        return node

    def _living(self, number: int) -> tuple[Path, File | Directory] | None:
        path, node = self._open.get(number) or _NOBODYS
        return (path, node) if path.owner.alive else None

    def pwrite(self, number: int, data: bytes, offset: int) -> int:
        if (living := self._living(number)) is not None:
            path, file = living
            assert isinstance(file, File)
            file.write(data, offset)
            file.changed_us = path.owner.disk.now_us()
        return len(data)

    def pread(self, number: int, size: int, offset: int) -> bytes:
        return bytes(self.file(number).content[offset : offset + size])

    def ftruncate(self, number: int, size: int) -> None:
        if (living := self._living(number)) is not None and isinstance(living[1], File):
            living[1].truncate(size)

    def posix_fallocate(self, number: int, _offset: int, size: int) -> None:
        if (living := self._living(number)) is not None and isinstance(living[1], File):
            living[0].owner.disk.refuse()
            living[1].allocate(size)

    def fsync(self, number: int) -> None:
        if (living := self._living(number)) is None:
            return
        path, node = living
        if isinstance(node, Directory):
            node.safe = dict(node.names)
            return
        try:
            path.owner.disk.refuse()
        except OSError:
            node.doubtful = bool(node.unsafe)
            raise
        node.sync()

    fdatasync = fsync

    def flock(self, number: int, _how: int) -> None:
        path, _ = self._open[number]
        holder = path.owner.disk.locked.setdefault(str(path), path.owner)
        if holder is not path.owner:
            raise BlockingIOError(errno.EAGAIN, "locked")


_NOBODYS = Path(Owner(Disk(Random(0), lambda: 0)), ""), File()
_NOBODYS[0].owner.alive = False
