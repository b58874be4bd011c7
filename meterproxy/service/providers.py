"""Providers: from the configuration to connections."""

from meterproxy.config import Config
from meterproxy.config import Provider as ProviderConfig
from meterproxy.proxy.provider import Provider
from meterproxy.proxy.upstream import Origin, Upstream


def build(config: Config) -> tuple[Provider, ...]:
    """The configured providers in the order of the file. Raises ConfigError."""
    return tuple(_provider(name, settings) for name, settings in config.providers.items())


def _provider(name: str, settings: ProviderConfig) -> Provider:
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
        headers=tuple((key.encode(), value.get_secret_value().encode()) for key, value in settings.headers.items()),
    )
