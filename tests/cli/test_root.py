"""The frame of the command line: help, errors, exit statuses, and how little it loads."""

import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

import meterproxy
from meterproxy.cli.root import COMMANDS, Commands, root
from tests.cli.conftest import Command


def test_version(command: Command) -> None:
    """`version` says the release, in JSON too, wherever --json stands."""
    assert command("version").out == f"meterproxy {meterproxy.__version__}\n"
    assert command("version", "--json").json == {"version": meterproxy.__version__}
    assert command("--json", "version").json == {"version": meterproxy.__version__}


def test_version_loads_nothing_heavy() -> None:
    """The quick commands stay quick: no server, driver or validator is imported for them."""
    heavy = ("aiohttp", "asyncpg", "pydantic", "rich", "tiktoken", "genai_prices", "asyncio")
    code = (
        "import sys; from meterproxy.cli.root import run; run(['version']);"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_help_lists_every_command(command: Command) -> None:
    """Help needs no command's module and names all that people call."""
    done = command("--help")
    assert done.status == 0
    assert all(f"  {name} " in done.out for name in COMMANDS)
    assert "_workers" not in done.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(command: Command, name: str) -> None:
    """The table of commands leads to modules that exist."""
    done = command(name, "--help")
    assert done.status == 0
    assert done.out.startswith(f"Usage: meterproxy {name} ")


def test_every_command_takes_config_and_json() -> None:
    """`--config` and `--json` are everywhere."""
    assert isinstance(root, Commands)
    for name in COMMANDS:
        found = root.get_command(None, name)  # type: ignore[arg-type]
        assert found is not None
        for leaf in getattr(found, "commands", {name: found}).values():
            assert {"--config", "--json"} <= {option for parameter in leaf.params for option in parameter.opts}, (
                leaf.name
            )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["keys"], "meterproxy: No such command 'keys'"),
        (["key", "create"], "meterproxy: Missing option '--account': see `meterproxy key create --help`"),
        (["key", "revoke", "x"], "meterproxy: Invalid value for 'ID': 'x' is not a valid UUID"),
        (["version", "--what"], "meterproxy: No such option"),
        (["--config", "/nowhere.yaml", "version"], "meterproxy: Invalid value for '--config'"),
        (["serve", "--workers"], "meterproxy: Option '--workers' requires an argument"),
        (["account", "create", "--name", ""], "meterproxy: Invalid value for '--name': must have 1 to 200 characters"),
        (
            ["account", "create", "--name", "  "],
            "meterproxy: Invalid value for '--name': must have 1 to 200 characters",
        ),
        (
            ["user", "create", "--account", str(UUID(int=1)), "--name", "Ann", "--email", "ann"],
            "meterproxy: Invalid value for --email: not an e-mail address: 'ann'",
        ),
        (
            ["credit", "grant", "--account", "0199e0a0-0000-7000-8000-000000000000", "--amount", "0.0000000001"],
            "meterproxy: Invalid value for '--amount': not an amount in USD with at most nine decimals",
        ),
        (
            ["credit", "grant", "--account", "0199e0a0-0000-7000-8000-000000000000", "--amount", "-1"],
            "meterproxy: Invalid value for --amount: must be above zero",
        ),
        (["simulate-provider", "--listen", "x"], "meterproxy: Invalid value for --listen: must be host:port"),
    ],
)
def test_wrong_usage_is_one_line(command: Command, words: list[str], line: str) -> None:
    """What was typed wrong is told in one line on standard error, with status 2."""
    done = command(*words)
    assert done.status == 2
    assert done.out == ""
    assert done.err.startswith(line)
    assert done.err.count("\n") == 1


def test_what_is_no_text_is_wrong_usage(command: Command) -> None:
    """Bytes that are not UTF-8 reach Python as surrogates, which nothing could print or store."""
    done = command("account", "create", "--name", "Acm\udce9")
    assert (done.status, done.err) == (2, "meterproxy: an argument is not UTF-8\n")


def test_no_command_is_help(command: Command) -> None:
    """Nothing typed at all is answered with help, as wrong usage."""
    done = command()
    assert done.status == 2
    assert done.err.startswith("Usage: meterproxy")


def test_unreachable_database_is_one_line(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure is one line with status 1, and no traceback."""
    monkeypatch.setenv("METERPROXY_DATABASE_URL", "postgresql://u:hush@127.0.0.1:1/x")
    done = command("account", "list")
    assert done.status == 1
    assert done.err.startswith("meterproxy: PostgreSQL is not available")
    assert done.err.count("\n") == 1
    assert "hush" not in done.err


def test_closed_output_is_not_an_error() -> None:
    """A reader that has enough, like `head`, ends a command quietly."""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{sys.executable} -u -m meterproxy --help | true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr


def test_check_config(command: Command, tmp_path: Path) -> None:
    """A good configuration is called valid; a bad one fails with every problem."""
    assert command("check-config").out == "the configuration is valid\n"
    path = tmp_path / "config.yaml"
    path.write_text("lisen: x\nworkers: none")
    done = command("check-config", "--config", path)
    assert done.status == 1
    assert "lisen: unknown setting" in done.err
    assert "workers: must be a whole number" in done.err


def test_check_config_knows_prices_and_authorities(command: Command, tmp_path: Path) -> None:
    """Prices that nobody has are found before a request is refused for them, authorities that are none before a start."""
    path = tmp_path / "config.yaml"
    (authorities := tmp_path / "ca.pem").write_text("nothing")
    path.write_text(
        "providers:\n  a: {base_url: 'http://a/v1', prices: opnai}\n"
        f"  b: {{base_url: 'https://b/v1', tls_ca_file: {authorities}}}"
    )
    done = command("check-config", "--config", path)
    assert done.status == 1
    assert "2 problems with providers" in done.err
    assert "providers.a.prices: no prices are known under 'opnai'" in done.err
    assert f"providers.b: tls_ca_file '{authorities}' cannot be used" in done.err


def test_check_config_doubts_what_is_hardly_meant(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind something that ends TLS, and whose word is not taken, one who guesses passwords would slow everybody."""
    said = "trusted_proxies is empty"
    assert said not in command("check-config").err
    monkeypatch.setenv("METERPROXY_PUBLIC_URL", "https://meter.example")
    done = command("check-config")
    assert (done.status, said in done.err) == (0, True)
    monkeypatch.setenv("METERPROXY_TRUSTED_PROXIES", "10.0.0.0/8")
    assert said not in command("check-config").err


@pytest.mark.parametrize(("host", "doubted"), [("smtp.example.com", True), ("127.0.0.1", False)])
def test_check_config_doubts_letters_in_the_clear(
    command: Command, monkeypatch: pytest.MonkeyPatch, host: str, doubted: bool
) -> None:
    """They hold links that set passwords; on this machine nobody listens."""
    monkeypatch.setenv("METERPROXY_PUBLIC_URL", "http://127.0.0.1:8080")
    for name, value in (("HOST", host), ("FROM", "meter@example.com"), ("TLS", "none")):
        monkeypatch.setenv(f"METERPROXY_MAIL__{name}", value)
    done = command("check-config")
    assert (done.status, "mail.tls is none" in done.err) == (0, doubted)


def test_check_config_hides_secrets(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the configuration comes to is shown without secrets."""
    monkeypatch.setenv("METERPROXY_ADMIN_TOKEN", "hush")
    done = command("check-config", "--json")
    assert done.json["admin_token"] == "**********"
    assert "hush" not in done.out


def test_config_from_the_environment(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """METERPROXY_CONFIG names the file as --config does."""
    (tmp_path / "config.yaml").write_text("markup: 1.5")
    monkeypatch.setenv("METERPROXY_CONFIG", str(tmp_path / "config.yaml"))
    assert command("check-config", "--json").json["markup"] == "1.5"
