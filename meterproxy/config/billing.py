"""Billing: what may be bought, and how people are told to pay."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from meterproxy.config.section import Section
from meterproxy.config.values import Rate
from meterproxy.core.money import NANOS_PER_USD
from meterproxy.core.purchase import PurchaseTerms


class PurchaseSection(Section):
    """Purchases of credit, which are paid by transfer and confirmed by an operator."""

    least: Rate = 5 * NANOS_PER_USD
    highest: Rate = 10_000 * NANOS_PER_USD
    instructions: Annotated[str, Field(max_length=2000)] = ""

    @model_validator(mode="after")
    def _something_may_be_bought(self) -> Self:
        if not 0 < self.least <= self.highest:
            raise ValueError("least must be above zero, and highest not below it")
        return self

    @property
    def terms(self) -> PurchaseTerms:
        """The same as the store keeps them."""
        return PurchaseTerms(self.least, self.highest, self.instructions.strip())


class Billing(Section):
    """How credit is paid for."""

    purchase: PurchaseSection = PurchaseSection()
