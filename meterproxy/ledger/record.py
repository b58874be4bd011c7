"""Temporary alias."""

from meterproxy.core.record import *  # noqa: F403
