"""Configuration: one YAML file, environment variables over it, and secrets that are made where none are set."""

from meterproxy.config.mail import MailTerms
from meterproxy.config.schema import Config, Model, Provider, Timeouts
from meterproxy.config.secret import ensure_secrets, secret_path
from meterproxy.config.values import Address

__all__ = ["Address", "Config", "MailTerms", "Model", "Provider", "Timeouts", "ensure_secrets", "secret_path"]
