"""The operator's API: accounts, credit, keys and usage, and what machines ask: health, readiness, metrics."""
