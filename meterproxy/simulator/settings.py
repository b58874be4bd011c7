"""Settings: how one simulated provider behaves for every request."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SimulatorSettings:
    """What `simulate-provider` takes from its command line.

    `ttft_ms` passes before the first byte of an answer, `token_ms` between two events of a stream (a plain answer
    waits for all of its tokens at once); 0 means as fast as possible. `fail_rate` is the share (0…1) of requests
    answered with a 500. Without `key` any credential is accepted, but one must be there. Texts, failures and numbers
    follow from `seed`. `calls_kept` bounds what `GET /_simulator/calls` remembers.
    """

    ttft_ms: float = 0.0
    token_ms: float = 0.0
    fail_rate: float = 0.0
    key: str | None = None
    seed: int = 1
    organization: str = "org-simulator"
    calls_kept: int = 100
