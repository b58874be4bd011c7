"""OpenID: whose tokens are taken beside our own, and what is read out of them."""

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from meterproxy.config.section import Section

_LOCAL = {"localhost", "127.0.0.1", "::1"}


def _check_url(value: str) -> str:
    """An issuer is compared letter by letter, so nothing of it is changed."""
    url = urlsplit(value)
    if url.scheme not in {"http", "https"} or not url.hostname or url.username is not None or url.fragment:
        raise ValueError("must be an https:// URL, like https://login.example.com")
    if url.scheme == "http" and url.hostname not in _LOCAL:
        raise ValueError("must be https://: who can change what comes from there can sign in as anybody")
    return value


Url = Annotated[str, AfterValidator(_check_url)]
Word = Annotated[str, Field(min_length=1, max_length=200)]


class OpenIdTerms(Section):
    """An external OpenID provider; without an issuer there is none."""

    issuer: Url | None = None
    audience: Word | None = None
    jwks_url: Url | None = None
    client_id: Word | None = None
    client_secret: Annotated[SecretStr, Field(min_length=1)] | None = None
    name_claim: Word = "name"
    email_claim: Word = "email"

    @model_validator(mode="after")
    def _names_both(self) -> Self:
        if (self.issuer is None) != (self.audience is None):
            raise ValueError(
                "openid.issuer and openid.audience belong together: a token for somebody else is none for us"
            )
        if self.client_id is not None and self.issuer is None:
            raise ValueError("openid.client_id needs openid.issuer, where people are sent to sign in")
        if self.client_secret is not None and self.client_id is None:
            raise ValueError("openid.client_secret needs openid.client_id")
        return self
