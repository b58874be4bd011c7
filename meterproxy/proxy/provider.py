"""Providers: what the proxy knows of each service it forwards to, and what it has learnt about it while running.

Rules
-----
- A refusal of our account (credential, billing) rests the whole provider for a while. A 403 may as well be about what
  one tenant sent (a forbidden model, a firewall), and so may be a refusal of what costs nothing, or of what needs a
  scope that our credential lacks. These rest that operation of that model for that account only: no tenant must be able
  to take a provider from all others.
- A model that has rejected `stream_options` is not sent it again in this operation for an hour; all others are. One
  answer must not leave a whole provider without usage.
- What was learnt is bounded: the oldest is forgotten first.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final, TypeVar
from uuid import UUID

from meterproxy.errors import ApiError, Case
from meterproxy.proxy.upstream import Upstream

REST_US: Final = 30_000_000
REJECTION_US: Final = 3_600_000_000
"""How long a rejected option is left out."""
REMEMBERED: Final = 4096


Subject = TypeVar("Subject")


@dataclass(slots=True, eq=False)
class Provider:
    """One provider.

    Args:
        name: as configured.
        upstream: the connections to it.
        api_key: our credential there, if it wants one.
        models: globs of the models that it serves.
        prices: the catalog's id of who sets its prices.
        headers: sent with every request, after the client's.
        spare: the same provider by another of our keys, for when this one is refused.
    """

    name: str
    upstream: Upstream
    api_key: str | None = field(default=None, repr=False)
    models: tuple[str, ...] = ("*",)
    prices: str = "openai"
    headers: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)
    spare: "Provider | None" = None
    _rests_until_us: int = 0
    _forbidden_until_us: OrderedDict[tuple[UUID, str, str], int] = field(default_factory=OrderedDict)
    _no_option_until_us: OrderedDict[tuple[str, str], int] = field(default_factory=OrderedDict)
    own_headers: tuple[tuple[bytes, bytes], ...] = field(init=False, repr=False)
    """What we add to every request: the credential and the configured headers."""

    def __post_init__(self) -> None:
        credential = () if self.api_key is None else ((b"Authorization", b"Bearer " + self.api_key.encode()),)
        self.own_headers = (*credential, *self.headers)

    def serves(self, model: str) -> bool:
        return any(fnmatchcase(model, glob) for glob in self.models)

    def rest(self, now_us: int) -> None:
        """Send nothing for a while."""
        self._rests_until_us = now_us + REST_US

    def rest_for(self, account_id: UUID, operation: str, model: str, now_us: int) -> None:
        """Send nothing of this operation of this model for this account for a while."""
        _remember(self._forbidden_until_us, (account_id, operation, model), now_us + REST_US)

    def chain(self) -> Iterator["Provider"]:
        """The provider by each of its keys, in order."""
        provider: Provider | None = self
        while provider is not None:
            yield provider
            provider = provider.spare

    def awake(self, account_id: UUID, operation: str, model: str, now_us: int) -> "Provider":
        """The provider by the first of its keys that does not rest.

        Raises:
            ApiError: UPSTREAM_ACCOUNT while it rests by all of them, altogether or for requests like this.
        """
        provider = self
        while True:
            try:
                provider.check_awake(account_id, operation, model, now_us)
            except ApiError:
                if provider.spare is None:
                    raise
                provider = provider.spare
            else:
                return provider

    def check_awake(self, account_id: UUID, operation: str, model: str, now_us: int) -> None:
        """Raises ApiError UPSTREAM_ACCOUNT while the provider rests, altogether or for requests like this."""
        if now_us < self._rests_until_us:
            raise account_refused()
        if self._forbidden_until_us and now_us < self._forbidden_until_us.get((account_id, operation, model), 0):
            raise account_refused()

    def reject_usage_option(self, operation: str, model: str, now_us: int) -> None:
        """Leave `stream_options` out of this model's requests for a while."""
        _remember(self._no_option_until_us, (operation, model), now_us + REJECTION_US)

    def takes_usage_option(self, operation: str, model: str, now_us: int) -> bool:
        """Whether this model may be sent `stream_options`, as far as is known."""
        return not self._no_option_until_us or now_us >= self._no_option_until_us.get((operation, model), 0)


def as_sent(headers: Iterable[tuple[str, str]]) -> tuple[tuple[bytes, bytes], ...]:
    """Headers as they go into a request."""
    return tuple((name.encode(), value.encode()) for name, value in headers)


def _remember(times: OrderedDict[Subject, int], subject: Subject, until_us: int) -> None:
    times[subject] = until_us
    times.move_to_end(subject)
    if len(times) > REMEMBERED:
        times.popitem(last=False)


def account_refused() -> ApiError:
    """What a tenant hears when a provider refused us: none of the provider's words."""
    return ApiError(Case.UPSTREAM_ACCOUNT, "The provider cannot serve this request right now.")


def provider_of(model: str, providers: tuple[Provider, ...]) -> Provider | None:
    """The first provider in the configuration's order that serves the model."""
    return next((provider for provider in providers if provider.serves(model)), None)
