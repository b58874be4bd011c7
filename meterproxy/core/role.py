"""Roles: what somebody is in an organization."""

from enum import StrEnum


class Role(StrEnum):
    """A member's role; what each may do is a table of `control/access.py`."""

    OWNER = "owner"
    ADMIN = "admin"
    BILLING = "billing"
    MEMBER = "member"
    VIEWER = "viewer"
