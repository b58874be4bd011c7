"""Arguments: kinds of values that several commands take."""

import getpass
from collections.abc import Callable
from typing import Any

import click

from meterproxy.core.money import parse_usd

Option = Callable[[Callable[..., Any]], Callable[..., Any]]


def _amount(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else parse_usd(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error


def amount_option(name: str, destination: str, *, required: bool, help: str) -> Option:  # noqa: A002 - click's word
    """An option for an amount in USD, handed over as nanodollars."""
    return click.option(name, destination, required=required, metavar="USD", callback=_amount, help=help)


def account_option(*, required: bool = True) -> Option:
    """The option that names an account."""
    return click.option(
        "--account", "account_id", type=click.UUID, required=required, metavar="ID", help="The account's id."
    )


limit_option = click.option(
    "--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many rows at most."
)


def actor() -> str:
    """Who the audit log names for what a command does."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        return "cli"
