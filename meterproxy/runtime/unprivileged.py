"""Another user for what refuses to run as root, and whether that user can reach a path.

Rules
-----
- Nobody else's directory is ever opened up: what cannot be reached is reported, never changed.
"""

import os
import pwd
import stat
from pathlib import Path
from typing import Final, NamedTuple

_CANDIDATES: Final = ("postgres", "nobody")


class RunAs(NamedTuple):
    """The user and group that a process is started with."""

    uid: int
    gid: int
    name: str


def other_user(owned: Path | None = None) -> RunAs | None:
    """Who runs PostgreSQL: None (we ourselves) unless we are root; then the owner of `owned`, `postgres` or `nobody`.

    Raises:
        LookupError: we are root and there is no other user at all.
    """
    if os.geteuid() != 0:
        return None
    if owned is not None and owned.exists() and (owner := owned.stat()).st_uid != 0:
        return RunAs(owner.st_uid, owner.st_gid, _name_of(owner.st_uid))
    for name in _CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return RunAs(entry.pw_uid, entry.pw_gid, name)
    raise LookupError(f"none of the users {', '.join(_CANDIDATES)} exists")


def closed_directory(path: Path, user: RunAs | None) -> Path | None:
    """The first directory on the way to `path`, itself included, that `user` may not pass; None if the way is free."""
    if user is None:
        return None
    resolved = path.resolve()
    for directory in (*reversed(resolved.parents), resolved):
        if directory.exists() and not _may_pass(directory.stat(), user):
            return directory
    return None


def _may_pass(status: os.stat_result, user: RunAs) -> bool:
    if status.st_uid == user.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == user.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
