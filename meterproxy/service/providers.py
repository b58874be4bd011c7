"""Providers: from the configuration and the database to connections, and kept as the database says.

Configured providers come first, in the order of the file, then those that operators have added, in the order of their
making; one that has a configured one's name is left out. A stored provider has one `Provider` for each of its keys, the
next one as the spare of the one before.
"""

import base64
import logging
from collections.abc import Iterable
from typing import Final

from meterproxy.config import Config
from meterproxy.config import Provider as ProviderConfig
from meterproxy.core.seal import Seal
from meterproxy.errors import ConfigError
from meterproxy.proxy.provider import Provider, as_sent
from meterproxy.proxy.route import Router
from meterproxy.proxy.upstream import Origin, Upstream
from meterproxy.service.looking import Looking
from meterproxy.store.pool import Pool
from meterproxy.store.providers import PURPOSE, OpenedProvider, ProviderRows

_log: Final = logging.getLogger(__name__)


def build(config: Config) -> tuple[Provider, ...]:
    """The configured providers in the order of the file. Raises ConfigError."""
    return tuple(configured_provider(name, settings) for name, settings in config.providers.items())


def provider_rows(config: Config, pool: Pool, actor: str = "operator") -> ProviderRows:
    """Where stored providers are, with what opens their secrets."""
    assert config.master_key is not None, "the supervisor has made what was not set"
    previous = () if config.master_key_previous is None else (config.master_key_previous,)
    seals = [Seal(base64.b64decode(key.get_secret_value()), PURPOSE) for key in (config.master_key, *previous)]
    return ProviderRows(pool, seals[0], seals[1:], actor)


class StoredProviders(Looking):
    """Keeps one worker's providers as PostgreSQL says; while that is away they stay as they were."""

    def __init__(self, rows: ProviderRows, configured: tuple[Provider, ...], router: Router) -> None:
        super().__init__()
        self._rows = rows
        self._configured = configured
        self._router = router
        self._known: tuple[OpenedProvider, ...] = ()
        self._made: dict[OpenedProvider, Provider] = {}
        self._left: list[Upstream] = []
        """Connections of providers as they were, which exchanges may still use."""

    async def look(self) -> None:
        """Do as PostgreSQL says; what runs goes on with what it began with. Raises StoreUnavailable."""
        stored = tuple(await self._rows.opened())
        if stored == self._known:
            return
        taken = {provider.name for provider in self._configured}
        made: dict[OpenedProvider, Provider] = {}
        for one in stored:
            if one.name in taken:
                _log.error("a provider has a configured one's name and is left out", extra={"provider": one.name})
                continue
            try:
                made[one] = self._made.get(one) or stored_provider(one)
            except ConfigError as error:
                _log.error("a provider cannot be used", extra={"provider": one.name, "error": str(error)})
        gone = [provider for one, provider in self._made.items() if one not in made]
        self._known, self._made = stored, made
        self._router.replace((*self._configured, *made.values()))
        self._left = [upstream for upstream in self._left if upstream.stats().open]
        self._left += _upstreams(gone)

    async def close(self) -> None:
        """Close all connections of stored providers."""
        for upstream in (*self._left, *_upstreams(self._made.values())):
            await upstream.close()


def _upstreams(providers: Iterable[Provider]) -> list[Upstream]:
    return [one.upstream for provider in providers for one in provider.chain()]


def stored_provider(stored: OpenedProvider) -> Provider:
    """A provider by the first of its keys, with one for each other key as a spare. Raises ConfigError."""
    terms, made = stored.terms, None
    origin = Origin.from_base_url(
        terms.base_url,
        tls_ca=terms.tls_ca,
        connect_seconds=terms.connect_seconds,
        first_byte_seconds=terms.first_byte_seconds,
        between_bytes_seconds=terms.between_bytes_seconds,
    )
    for secret in reversed(stored.secrets):
        made = Provider(
            name=stored.name,
            upstream=Upstream(origin),
            api_key=secret,
            models=terms.models,
            prices=terms.prices,
            headers=as_sent(stored.headers),
            spare=made,
        )
    assert made is not None, "it has a key"
    return made


def configured_provider(name: str, settings: ProviderConfig) -> Provider:
    """A provider of the configuration. Raises ConfigError where its authorities or the way to it cannot be used."""
    origin = Origin.from_base_url(
        settings.base_url,
        tls_ca_file=str(settings.tls_ca_file) if settings.tls_ca_file else None,
        connect_seconds=settings.timeouts.connect_seconds,
        first_byte_seconds=settings.timeouts.first_byte_seconds,
        between_bytes_seconds=settings.timeouts.between_bytes_seconds,
    )
    return Provider(
        name=name,
        upstream=Upstream(origin),
        api_key=settings.api_key.get_secret_value() if settings.api_key else None,
        models=settings.models,
        prices=settings.prices,
        headers=as_sent((name, value.get_secret_value()) for name, value in settings.headers.items()),
    )
