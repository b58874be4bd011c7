"""The catalog as configured: maintained prices and facts under the operator's own."""

from meterproxy.catalog.catalog import Catalog, FactsOverride
from meterproxy.config import Config


def catalog_of(config: Config) -> Catalog:
    """Build the catalog and load its data, so that no request waits for it."""
    catalog = Catalog(
        {name: model.price for name, model in config.models.items() if model.price is not None},
        {name: FactsOverride(model.max_output_tokens, model.context_tokens) for name, model in config.models.items()},
        default_max_output_tokens=config.default_max_output_tokens,
    )
    catalog.load()
    return catalog
