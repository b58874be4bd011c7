"""How long and how much a client may ask of a connection before its request is understood, and after."""

from dataclasses import dataclass, field

from meterproxy.proxy.request_reader import HeadLimits

LONGEST_SWEEP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """The limits of all connections of a server.

    Args:
        head_seconds: how long a head may take from its first byte to its last.
        body_gap_seconds: how long a body may pause.
        body_seconds: how long a body may take altogether, and a second more for each `body_bytes_per_second` that came.
        keepalive_seconds: how long a connection may be idle; longer than the sixty seconds of common load balancers,
            which must be the ones to end it.
        linger_seconds: how long an unwanted body is dropped, and how long a client may take nothing of an answer.
        close_seconds: how long a client may take to close its half when we have closed ours.
    """

    head_seconds: float = 10.0
    body_gap_seconds: float = 30.0
    body_seconds: float = 30.0
    body_bytes_per_second: int = 32 << 10
    keepalive_seconds: float = 75.0
    linger_seconds: float = 30.0
    close_seconds: float = 2.0
    head: HeadLimits = field(default_factory=HeadLimits)

    @property
    def sweep_seconds(self) -> float:
        """How often the deadlines are looked at."""
        return min(
            LONGEST_SWEEP_SECONDS,
            self.head_seconds,
            self.body_gap_seconds,
            self.body_seconds,
            self.keepalive_seconds,
            self.linger_seconds,
            self.close_seconds,
        )
