"""Arguments: kinds of values that several commands take."""

import getpass
from collections.abc import Callable
from typing import Any

import click

from meterproxy.core.money import parse_usd

Option = Callable[[Callable[..., Any]], Callable[..., Any]]

LONGEST_NAME = 200
_NO_NAME = f"must have 1 to {LONGEST_NAME} characters, not only blanks"


def _amount(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else parse_usd(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error


def _name(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not _is_name(value):
        raise click.BadParameter(_NO_NAME, context, parameter)
    return value


def _is_name(value: str) -> bool:
    return len(value) <= LONGEST_NAME and value.strip() != "" and "\0" not in value


def checked_name(value: str, hint: str) -> str:
    """A name as it may be stored."""
    if not _is_name(value):
        raise click.BadParameter(_NO_NAME, param_hint=hint)
    return value


def amount_option(name: str, destination: str, *, required: bool, help: str) -> Option:  # noqa: A002 - click's word
    """An option for an amount in USD, handed over as nanodollars."""
    return click.option(name, destination, required=required, metavar="USD", callback=_amount, help=help)


def name_option(help: str) -> Option:  # noqa: A002 - click's word
    """The option that names what is made."""
    return click.option("--name", required=True, callback=_name, help=help)


def account_option(*, required: bool = True) -> Option:
    """The option that names an account."""
    return click.option(
        "--account", "account_id", type=click.UUID, required=required, metavar="ID", help="The account's id."
    )


limit_option = click.option(
    "--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many rows at most."
)


def after_option(help: str) -> Option:  # noqa: A002 - click's word
    """The cursor of a list in the order things were made."""
    return click.option("--after", type=click.UUID, metavar="ID", help=help)


def actor() -> str:
    """Who the audit log names for what a command does."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        return "cli"
