"""Invocation: what every command is given, the configuration, a database, and a place for its result."""

import functools
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from pydantic import BaseModel

    from meterproxy.cli.session import Session
    from meterproxy.config import Config

Result = TypeVar("Result")
Model = TypeVar("Model", bound="BaseModel")
_Decorated = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Invocation:
    """One run of a command: `--config` and `--json`, and what follows from them."""

    config_path: Path | None
    as_json: bool

    def load(self, overrides: Mapping[str, str] | None = None) -> "Config":
        """Read the configuration.

        Raises:
            ConfigError: it cannot be used.
        """
        from meterproxy.config import Config

        return Config.load(self.config_path, overrides=overrides)

    def with_session(self, work: "Callable[[Session], Awaitable[Result]]") -> Result:
        """Open the database, do the work, close it again."""
        import asyncio

        from meterproxy.cli.session import open_session

        config = self.load()

        async def worked() -> Result:
            async with open_session(config) as session:
                return await work(session)

        return asyncio.run(worked())

    def validated(self, kind: type[Model], given: Mapping[str, Any]) -> Model:
        """What was given, as the API would take it. Raises UsageError."""
        from pydantic import ValidationError

        from meterproxy.control.faults import sentence

        try:
            return kind.model_validate(given)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            text = sentence(problem["type"], problem["msg"], problem.get("ctx") or {})
            raise click.UsageError(f"{'.'.join(map(str, problem['loc']))}: {text}") from error

    def show(self, row: object) -> None:
        """Print one thing, a line per member."""
        from meterproxy.cli import output

        output.print_json(row) if self.as_json else output.print_record(row)

    def show_all(self, rows: Iterable[object], columns: Iterable[str]) -> None:
        """Print a list, as a table of the named columns or as JSON with everything."""
        from meterproxy.cli import output

        output.print_json(list(rows)) if self.as_json else output.print_table(rows, tuple(columns))


def note(text: str) -> None:
    """Tell the person something that is not the result."""
    print(text, file=sys.stderr)


def shared_options(function: _Decorated) -> _Decorated:
    """Add `--config` and `--json`."""
    function = click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)
    return click.option(
        "--config",
        "config_path",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        envvar="METERPROXY_CONFIG",
        help="The configuration file.",
    )(function)


def invoked(function: _Decorated) -> _Decorated:
    """Add `--config` and `--json` to a command and hand both over as an `Invocation`, its first argument."""

    def wrapper(context: click.Context, /, config_path: Path | None, as_json: bool, **options: Any) -> Any:
        path = config_path or context.meta.get("config_path")
        return function(Invocation(path, as_json or context.meta.get("as_json", False)), **options)

    return shared_options(functools.update_wrapper(click.pass_context(wrapper), function))
