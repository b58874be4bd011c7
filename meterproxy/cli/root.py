"""Root: the table of commands, loaded one by one, and what an error turns into."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from meterproxy.cli.invocation import shared_options
from meterproxy.errors import MeterproxyError

COMMANDS: Final = {
    "serve": ("serve", "Run the proxy."),
    "migrate": ("migrate", "Bring the database to this release's schema."),
    "check-config": ("check_config", "Check the configuration and tell every problem."),
    "account": ("account", "Accounts: who has credit."),
    "user": ("user", "Users: who owns keys."),
    "team": ("team", "Teams: keys that share limits."),
    "key": ("key", "Keys: the secrets that clients present."),
    "credit": ("credit", "Credit: grants, balance, history."),
    "purchase": ("purchase", "Purchases: credit that is ordered and paid by transfer."),
    "limit": ("limit", "Limits: budgets and rate limits."),
    "price": ("price", "Prices: what a model is charged at."),
    "provider": ("provider", "Providers beside those of the configuration."),
    "provider-key": ("provider_key", "Our keys at providers."),
    "fleet": ("fleet", "The fleet: brakes for all workers at once."),
    "host": ("host", "Hosts: the machines that workers run on."),
    "audit": ("audit", "Recompute every invariant of the books."),
    "explain": ("explain", "Show how one request came to its amount."),
    "rejected": ("rejected", "Rejected records: what PostgreSQL refused, kept for a person."),
    "journal": ("journal", "Journals: what workers wrote down before they acted."),
    "demo": ("demo", "Make up an organization with a month of usage, to look around."),
    "simulate-provider": ("simulate_provider", "Run a simulated provider."),
    "version": ("version", "Print the version."),
}
_INTERNAL: Final = {"_workers": ("workers", "Fork workers; started by `serve`.")}


class Commands(click.Group):
    """A group that knows its commands by name and imports a command's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        module, _ = COMMANDS.get(cmd_name) or _INTERNAL.get(cmd_name) or (None, None)
        if module is None:
            return None
        command: click.Command = importlib.import_module(f"meterproxy.cli.{module}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@shared_options
@click.pass_context
def root(context: click.Context, config_path: Path | None, as_json: bool) -> None:
    """An OpenAI-compatible metering proxy whose books always balance."""
    context.meta["config_path"] = config_path
    context.meta["as_json"] = as_json


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    if not all(map(_is_text, words)):
        return _failed("an argument is not UTF-8", 2)
    try:
        status: Any = root.main(words, prog_name="meterproxy", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return 2
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "meterproxy"
        return _failed(f"{error.format_message().rstrip('.')}: see `{path} --help`", 2)
    except click.ClickException as error:
        return _failed(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        return _closed_output()
    except (MeterproxyError, OSError) as error:
        return _failed(str(error) or type(error).__name__, 1)
    return status if isinstance(status, int) else 0


def _is_text(word: str) -> bool:
    """Whether an argument is text; the operating system hands over any bytes."""
    return not any("\ud800" <= letter <= "\udfff" for letter in word)


def _failed(message: str, status: int) -> int:
    print(f"meterproxy: {message}", file=sys.stderr)
    return status


def _closed_output() -> int:
    """Whoever read our output has enough; Python must not complain about it when it flushes at exit."""
    sys.stdout = open("/dev/null", "w", encoding="utf-8")  # noqa: PTH123, SIM115 - stays open until exit
    return 0
