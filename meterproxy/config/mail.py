"""Mail: where letters to people are handed in."""

from email.utils import formataddr, parseaddr
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from meterproxy.config.section import Section
from meterproxy.config.values import Seconds
from meterproxy.core.mail_address import read_address

_LOCAL: Final = {"localhost", "127.0.0.1", "::1"}
_PORTS: Final = {"starttls": 587, "tls": 465, "none": 25}


def _check_sender(value: str) -> str:
    name, address = parseaddr(value)
    if read_address(address) is None or not (value.isprintable() and address.isascii()):
        raise ValueError("must be an address, like meterproxy@example.com or Metering <meterproxy@example.com>")
    return formataddr((name, address))


Sender = Annotated[str, Field(max_length=320), AfterValidator(_check_sender)]


class MailTerms(Section):
    """A server that takes mail by SMTP; without a host no mail is sent."""

    host: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9.:_-]+$")] | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    tls: Literal["starttls", "tls", "none"] = "starttls"
    tls_ca_file: Path | None = None
    user: Annotated[str, Field(min_length=1, max_length=320)] | None = None
    password: Annotated[SecretStr, Field(min_length=1)] | None = None
    sender: Sender | None = Field(default=None, alias="from")
    timeout_seconds: Seconds = 20.0

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if self.host is not None and self.sender is None:
            raise ValueError("mail.host needs mail.from, the address that letters come from")
        if (self.user is None) != (self.password is None):
            raise ValueError("mail.user and mail.password belong together")
        if self.password is not None and self.tls == "none" and self.host not in _LOCAL:
            raise ValueError('mail.tls "none" would send mail.password in the clear: use starttls or tls')
        return self

    @property
    def is_overheard(self) -> bool:
        """Whether letters leave this machine in the clear."""
        return self.tls == "none" and self.host is not None and self.host not in _LOCAL

    @property
    def port_used(self) -> int:
        """The port as set, else the one that is usual for this kind of TLS."""
        return self.port or _PORTS[self.tls]
