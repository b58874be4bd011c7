"""The configuration: where settings come from, what is refused, and what is never shown."""

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from meterproxy.config import Address, Config, ensure_secrets, secret_path
from meterproxy.config.processors import usable_processors
from meterproxy.errors import ConfigError


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Write a configuration file and give its path."""

    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return write


def problems(path: Path | None, environ: Mapping[str, str] | None = None) -> list[str]:
    """The lines of the error that loading raises, without the heading."""
    with pytest.raises(ConfigError) as caught:
        Config.load(path, environ or {})
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_everything_has_a_default() -> None:
    """Nothing at all is a valid configuration: the demo runs on it."""
    config = Config.load(None, {})
    assert config.listen == Address("127.0.0.1", 8080)
    assert config.journal.fsync_ms == 50
    assert config.hold.max_share_ppm == 250_000
    assert not config.providers


def test_openai_variables_define_a_provider() -> None:
    """Without a file, the variables of OpenAI's SDK are enough."""
    config = Config.load(None, {"OPENAI_API_KEY": "sk-1"})
    assert config.providers["openai"].base_url == "https://api.openai.com/v1"
    other = Config.load(None, {"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1/"})
    assert other.providers["openai"].base_url == "http://127.0.0.1:9/v1"


def test_openai_variables_mean_nothing_beside_a_file(write: Any) -> None:
    """A file says everything; a forgotten variable does not add a provider to it."""
    assert not Config.load(write("workers: 1"), {"OPENAI_API_KEY": "sk-1"}).providers


def test_environment_wins_over_file(write: Any) -> None:
    """A variable replaces the file's value and leaves its neighbours."""
    path = write("journal: {fsync_ms: 10, retain_hours: 2}")
    config = Config.load(path, {"METERPROXY_JOURNAL__FSYNC_MS": "20", "METERPROXY_DRAIN_SECONDS": "1.5"})
    assert (config.journal.fsync_ms, config.journal.retain_hours, config.drain_seconds) == (20, 2, 1.5)


def test_options_win_over_environment() -> None:
    """What was typed for this start is what counts."""
    config = Config.load(None, {"METERPROXY_LISTEN": "127.0.0.1:1"}, {"listen": "[::1]:0"})
    assert config.listen == Address("::1", 0)
    assert str(config.listen) == "[::1]:0"


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("box", False)],
)
def test_loopback(host: str, expected: bool) -> None:
    """Whether an address is this machine's own decides who needs the token for metrics."""
    assert Address(host, 1).is_loopback is expected


def test_environment_reaches_into_providers(write: Any) -> None:
    """A provider's key can stay out of the file, whatever the case of its name."""
    path = write("providers: {Groq: {base_url: 'https://api.groq.com/openai/v1'}}")
    config = Config.load(
        path, {"METERPROXY_PROVIDERS__GROQ__API_KEY": "k", "METERPROXY_PROVIDERS__GROQ__MODELS": "a*, b"}
    )
    key = config.providers["Groq"].api_key
    assert key is not None
    assert key.get_secret_value() == "k"
    assert config.providers["Groq"].models == ("a*", "b")


def test_secret_from_a_file(tmp_path: Path) -> None:
    """A variable that ends in _FILE names where the secret lies."""
    (tmp_path / "token").write_text("t0ken\n")
    config = Config.load(None, {"METERPROXY_ADMIN_TOKEN_FILE": str(tmp_path / "token")})
    assert config.admin_token is not None
    assert config.admin_token.get_secret_value() == "t0ken"


@pytest.mark.parametrize(
    ("environ", "name", "read"),
    [
        (
            {"METERPROXY_MAIL__USER": "u", "METERPROXY_OPENID__ISSUER": "https://i.example"},
            "METERPROXY_MAIL__PASSWORD_FILE",
            lambda config: config.mail.password,
        ),
        (
            {"METERPROXY_OPENID__CLIENT_ID": "c", "METERPROXY_OPENID__ISSUER": "https://i.example"},
            "METERPROXY_OPENID__CLIENT_SECRET_FILE",
            lambda config: config.openid.client_secret,
        ),
    ],
)
def test_a_secret_within_a_section_from_a_file(
    environ: dict[str, str], name: str, read: Callable[[Config], SecretStr | None], tmp_path: Path
) -> None:
    """Like every other."""
    (tmp_path / "secret").write_text("hush\n")
    told = {**environ, "METERPROXY_OPENID__AUDIENCE": "a", name: str(tmp_path / "secret")}
    secret = read(Config.load(None, told))
    assert secret is not None
    assert secret.get_secret_value() == "hush"


def test_a_secret_that_signs_is_not_to_be_guessed() -> None:
    """From one token of his own, anybody could try all short ones."""
    (line,) = problems(None, {"METERPROXY_JWT_SECRET": "s3cret-of-thirty-one-characters"})
    assert line == ("jwt_secret (METERPROXY_JWT_SECRET): must have at least 32 characters, as of: openssl rand -hex 32")
    assert Config.load(None, {"METERPROXY_JWT_SECRET": "s3cret-of-thirty-two-characters!"}).jwt_secret is not None


def test_secret_from_two_places(tmp_path: Path) -> None:
    """Two answers to one question are an error, not a race."""
    (tmp_path / "token").write_text("a")
    environ = {"METERPROXY_ADMIN_TOKEN": "b", "METERPROXY_ADMIN_TOKEN_FILE": str(tmp_path / "token")}
    assert problems(None, environ) == [
        "admin_token (METERPROXY_ADMIN_TOKEN): set by both METERPROXY_ADMIN_TOKEN and METERPROXY_ADMIN_TOKEN_FILE"
    ]


def test_missing_secret_file() -> None:
    """A secret's file that is not there is told, not taken for an empty secret."""
    (line,) = problems(None, {"METERPROXY_MASTER_KEY_FILE": "/nowhere/key"})
    assert line.startswith("master_key (METERPROXY_MASTER_KEY_FILE): cannot read the file")


def test_tls_ca_file_is_a_setting_of_its_own() -> None:
    """Not every name that ends in _FILE holds a secret."""
    environ = {"METERPROXY_PROVIDERS__X__BASE_URL": "https://x/v1", "METERPROXY_PROVIDERS__X__TLS_CA_FILE": "/ca.pem"}
    assert Config.load(None, environ).providers["x"].tls_ca_file == Path("/ca.pem")


def test_expansion(write: Any) -> None:
    """`${NAME}` becomes the variable's content as text, `$$` one dollar."""
    path = write("admin_token: 'a-${T}-$$-$x'\njournal: {fsync_ms: '${MS}'}")
    config = Config.load(path, {"T": "{not: yaml}", "MS": "7"})
    assert config.admin_token is not None
    assert config.admin_token.get_secret_value() == "a-{not: yaml}-$-$x"
    assert config.journal.fsync_ms == 7


def test_expansion_of_an_unset_variable(write: Any) -> None:
    """An unset variable is an error at the place that needs it."""
    assert problems(write("admin_token: ${NOPE}")) == ["admin_token: environment variable NOPE is not set"]


def test_all_problems_at_once(write: Any) -> None:
    """One run tells everything that is wrong, each with its path and where it came from."""
    path = write(
        """
        jornal: {fsync_ms: 3}
        drain_seconds: soon
        providers: {a: {base_url: 'ftp://x'}, b: {}}
        models: {m: {route: zz/x, price: {input: 2.50, outputt: 1}}}
        """
    )
    lines = problems(path, {"METERPROXY_JOURNAL__FSYNC_MS": "x", "METERPROXY_NO__SUCH": "1"})
    assert [line.partition(":")[0] for line in lines] == [
        "drain_seconds",
        "jornal",
        "journal.fsync_ms (METERPROXY_JOURNAL__FSYNC_MS)",
        "models.m.price",
        "models.m.route",
        "no (METERPROXY_NO__SUCH)",
        "providers.a.base_url",
        "providers.b.base_url",
    ]


def test_error_counts_and_names_the_file(write: Any) -> None:
    """The heading says how many and where."""
    path = write("a: 1\nb: 2")
    with pytest.raises(ConfigError, match=f"^2 problems in {path}\n"):
        Config.load(path, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("listen: 127.0.0.1:1\nlisten: 127.0.0.1:2", "key 'listen' is set twice (line 2)"),
        ("journal: {fsync_ms: 1, fsync_ms: 2}", "key 'fsync_ms' is set twice (line 1)"),
        ("listen: [", "is not valid YAML"),
        ("- a", "must be a mapping of settings"),
        ("1: 2", "a key must be text"),
    ],
)
def test_unusable_files(write: Any, text: str, message: str) -> None:
    """What is not one mapping with each key once is refused with its line."""
    (line,) = problems(write(text))
    assert message in line


def test_file_that_is_not_there(tmp_path: Path) -> None:
    """A file that was named must exist."""
    assert problems(tmp_path / "none.yaml") == [
        f"configuration: cannot read {tmp_path / 'none.yaml'}: No such file or directory"
    ]


def test_empty_file_is_all_defaults(write: Any) -> None:
    """An empty file is a file."""
    assert Config.load(write("# nothing"), {}) == Config.load(None, {})


def test_trusted_proxies_are_networks(write: Any) -> None:
    """Of IPv4 and IPv6, or single addresses; anything else is told."""
    config = Config.load(write("trusted_proxies: [10.0.0.0/8, '2001:db8::1']"), {})
    assert [str(network) for network in config.trusted_proxies] == ["10.0.0.0/8", "2001:db8::1/128"]
    assert Config.load(None, {"METERPROXY_TRUSTED_PROXIES": "10.0.0.0/8, 127.0.0.1"}).trusted_proxies[1:]
    (line,) = problems(write("trusted_proxies: [balancer]"))
    assert "must be networks such as 10.0.0.0/8" in line


def test_limits_of_new_accounts_and_keys(write: Any) -> None:
    """By name; money is exact, and what makes no sense is told with its path."""
    config = Config.load(
        write(
            "limits:\n  account:\n    monthly: {measure: amount, window: month, cap: 99.50, marks: [50]}\n"
            "  key:\n    burst: {measure: requests, window: minute, cap: 60}\n    at once: {measure: concurrent, cap: 4}"
        ),
        {"METERPROXY_LIMITS__KEY__BURST__CAP": "90"},
    )
    (monthly,) = config.limits.of_accounts
    assert (monthly.name, monthly.cap, monthly.marks) == ("monthly", 99_500_000_000, (50,))
    assert [(limit.name, limit.cap) for limit in config.limits.of_keys] == [("burst", 90), ("at once", 4)]
    for wrong, told in (
        ("{measure: amount, window: month, cap: x}", "cap"),
        ("{measure: requests, cap: 5}", "window"),
        ("{measure: tokens, window: day, cap: 1.5}", "whole number"),
        ("{measure: tokens, window: day, time_zone: Mars}", "time_zone"),
    ):
        (line,) = problems(write(f"limits:\n  account:\n    a: {wrong}"))
        assert line.startswith("limits.account.a")
        assert told in line


def test_null_is_unset(write: Any) -> None:
    """A level or setting without a value is the default, as when all of it is commented out."""
    assert Config.load(write("journal:\nworkers:\nproviders: ~"), {}) == Config.load(None, {})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("cors_origins", "https://example.com"),
        ("passthrough", "/v1/x"),
        ("control__listen", "127.0.0.1:9"),
        ("models__fast__route", "openai/gpt-5-mini"),
    ],
)
def test_later_features_are_refused(setting: str, value: str) -> None:
    """A setting whose feature this release lacks never pretends to work."""
    (line,) = problems(None, {f"METERPROXY_{setting.upper()}": value})
    assert line.startswith(setting.replace("__", ".") + " ")
    assert "not supported yet" in line


def test_people_reach_the_service_at_a_root() -> None:
    """A path before all of its own would lead every link of its pages astray."""
    (line,) = problems(None, {"METERPROXY_PUBLIC_URL": "https://example.com/meter"})
    assert "public_url" in line
    assert "must have no path" in line
    told = Config.load(None, {"METERPROXY_PUBLIC_URL": "https://meter.example.com/"})
    assert told.public_url == "https://meter.example.com"


@pytest.mark.parametrize("setting", ["settle.interval_ms", "journal.fsync_ms"])
@pytest.mark.parametrize(
    ("value", "fault"), [("0", "must be greater than 0"), ("60001", "must be less than or equal to 60000")]
)
def test_what_is_done_for_safety_is_done_at_least_every_minute(setting: str, value: str, fault: str) -> None:
    """Neither so often that nothing else is done, nor so seldom that nobody would believe it."""
    name = f"METERPROXY_{setting.upper().replace('.', '__')}"
    (line,) = problems(None, {name: value})
    assert line.startswith(setting)
    assert fault in line
    for bearable in ("1", "60000"):
        assert Config.load(None, {name: bearable})


@pytest.mark.parametrize(("days", "hours", "fault"), [
    ("34", "24", "must be greater than or equal to 35"),
    ("35", "840", "usage.retention_days must be longer than journal.retain_hours"),
    ("0", "24", "must be greater than 0"),
])  # fmt: skip
def test_rows_are_kept_for_longer_than_anything_needs_them(days: str, hours: str, fault: str) -> None:
    """A row that is gone no longer keeps its request from being booked again."""
    (line,) = problems(None, {"METERPROXY_USAGE__RETENTION_DAYS": days, "METERPROXY_JOURNAL__RETAIN_HOURS": hours})
    assert fault in line
    assert Config.load(None, {"METERPROXY_USAGE__RETENTION_DAYS": "36"}).usage.retention_days == 36


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("listen", ":80", Address("0.0.0.0", 80)),
        ("max_body_bytes", "16 MiB", 16 * 2**20),
        ("max_body_bytes", "1000", 1000),
        ("markup", "1.2", 1_200_000),
        ("markup", "0", 0),
        ("markup", "1.000001", 1_000_001),
        ("hold.max_share", "12.5%", 125_000),
        ("hold.max_share", "1", 1_000_000),
        ("out_of_credit_status", "402", 402),
        ("lease.ttl_seconds", "0.5", 0.5),
    ],
)
def test_values(setting: str, value: str, expected: object) -> None:
    """Text becomes exactly the number it says."""
    config: Any = Config.load(None, {f"METERPROXY_{setting.upper().replace('.', '__')}": value})
    for name in setting.replace("markup", "markup_ppm").replace("max_share", "max_share_ppm").split("."):
        config = getattr(config, name)
    assert config == expected


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("listen", "8080"),
        ("listen", "::1:8080"),
        ("listen", "127.0.0.1:99999"),
        ("max_body_bytes", "64 MB"),
        ("markup", "1.0000001"),
        ("markup", "-1"),
        ("markup", "1e3"),
        ("hold.max_share", "0%"),
        ("hold.max_share", "101%"),
        ("out_of_credit_status", "403"),
        ("drain_seconds", "inf"),
        ("drain_seconds", "0"),
        ("journal.fsync_ms", "1.5"),
        ("master_key", "c2hvcnQ="),
        ("database_url", "mysql://localhost/x"),
        ("log.level", "loud"),
    ],
)
def test_bad_values(setting: str, value: str) -> None:
    """What cannot be meant is refused with the setting's name."""
    (line,) = problems(None, {f"METERPROXY_{setting.upper().replace('.', '__')}": value})
    assert line.startswith(f"{setting} (METERPROXY_")


def test_yaml_booleans_are_not_numbers(write: Any) -> None:
    """`true` is not one."""
    assert problems(write("drain_seconds: true\njournal: {fsync_ms: true}\nmarkup: true")) == [
        "drain_seconds: must be a number",
        "journal.fsync_ms: must be a number",
        'markup: must be a decimal with at most six places, like "1.2"',
    ]


def test_decimals_in_yaml_need_no_quotes(write: Any) -> None:
    """The reader makes no floats, so a decimal keeps every digit."""
    config = Config.load(write("markup: 1.100001\nmodels: {m: {price: {input: 0.000000001, output: 2}}}"), {})
    assert config.markup_ppm == 1_100_001
    assert config.models["m"].price == {"input": 1, "output": 2_000_000_000}


@pytest.mark.parametrize(
    "address",
    ["http://a b/v1", "http://a\\tb/v1", "http://[fe80::1%é]/v1", "http://a:0/v1", "https://a/v1?", "http://a:x/"],
)
def test_addresses_are_those_that_a_request_can_have(write: Any, address: str) -> None:
    """What would keep every worker from starting is found when the configuration is read, of a provider and of ours."""
    (line,) = problems(write(f'providers: {{a: {{base_url: "{address}"}}}}'))
    assert line.startswith("providers.a.base_url: ")
    (line,) = problems(write(f'public_url: "{address.replace("/v1", "")}"'))
    assert line.startswith("public_url: ")


@pytest.mark.parametrize("address", ["https://user:hush@℀/v1", "https://user:hush＠a/v1", "https://user:hush/2@a/v1"])
def test_no_address_is_repeated_with_a_password_in_it(write: Any, address: str) -> None:
    """Not by what takes addresses apart either, which tells of the part that it fails at."""
    (line,) = problems(write(f'providers: {{a: {{base_url: "{address}"}}}}'))
    assert line == "providers.a.base_url: cannot be read"


@pytest.mark.parametrize("header", ['"x y": z', '"x": "a\\r\\nb: c"', '"": z'])
def test_headers_are_headers(write: Any, header: str) -> None:
    """What would break the wire is found when the configuration is read."""
    (line,) = problems(write(f"providers: {{a: {{base_url: 'http://a/v1', headers: {{{header}}}}}}}"))
    assert line.startswith("providers.a.headers: not a header")


@pytest.mark.parametrize("name", ["Host", "content-length", "Transfer-Encoding", "X-Meterproxy-Request-Id"])
def test_headers_of_every_request_cannot_be_set(write: Any, name: str) -> None:
    """A second one would be taken for the first by somebody."""
    (line,) = problems(write(f"providers: {{a: {{base_url: 'http://a/v1', headers: {{{name}: x}}}}}}"))
    assert line == f"providers.a.headers: {name}: each request has its own"


def test_a_provider_gets_one_credential(write: Any) -> None:
    """A key and a header of that name would be sent both; the header alone is for who speaks otherwise than `Bearer`."""
    header = "headers: {authorization: Basic eA==}"
    (line,) = problems(write(f"providers: {{a: {{base_url: 'http://a/v1', api_key: sk, {header}}}}}"))
    assert line == "providers.a: api_key and a header Authorization would both be sent: set one of them"
    assert Config.load(write(f"providers: {{a: {{base_url: 'http://a/v1', {header}}}}}"), {}).providers["a"].headers


def test_variable_inside_a_single_value() -> None:
    """A variable below a setting that is not a level is told."""
    assert problems(None, {"METERPROXY_MARKUP": "1", "METERPROXY_MARKUP__X": "1"}) == [
        "markup.x (METERPROXY_MARKUP__X): cannot be set inside markup, which is a single value"
    ]


def test_foreign_variables_are_ignored() -> None:
    """Tests, the program's own processes and the file's path have variables that are no settings."""
    names = ("METERPROXY_TEST_PG_BINDIR", "METERPROXY_INTERNAL_FD", "METERPROXY_CONFIG")
    assert Config.load(None, dict.fromkeys(names, "x")) == Config.load(None, {})


def test_empty_variable_is_unset() -> None:
    """Compose passes unset variables on as empty ones."""
    assert Config.load(None, {"METERPROXY_DATABASE_URL": ""}).database_url is None


def test_secrets_are_not_shown(write: Any) -> None:
    """Neither the public form nor a representation contains a secret."""
    text = """
        admin_token: hush
        database_url: postgresql://u:hush@h/d
        providers: {a: {base_url: 'http://a/v1', api_key: hush, headers: {X-Key: hush}}}
        """
    config = Config.load(write(text), {})
    assert "hush" not in str(config.public()) + repr(config) + str(config)
    assert config.public()["providers"]["a"]["base_url"] == "http://a/v1"


def test_travels_to_workers(write: Any) -> None:
    """The supervisor hands the configuration over pickled, secrets and all."""
    text = "admin_token: hush\nproviders: {a: {base_url: 'http://a/v1', headers: {X: y}}}\nmarkup: 1.2"
    config = Config.load(write(text), {})
    assert pickle.loads(pickle.dumps(config)) == config


def test_made_secrets_are_kept(tmp_path: Path) -> None:
    """Secrets nobody set are made once, readable by their owner only, and the same at the next start."""
    config = Config.load(None, {"METERPROXY_DATA_DIR": str(tmp_path / "data")})
    first, second = ensure_secrets(config), ensure_secrets(config)
    assert first == second
    assert first.admin_token != first.jwt_secret
    for name in ("admin_token", "master_key", "jwt_secret"):
        assert secret_path(config, name).stat().st_mode & 0o777 == 0o600
        assert secret_path(config, name).parent.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in (tmp_path / "data" / "secrets").iterdir()} == {
        "admin_token",
        "jwt_secret",
        "master_key",
    }


def test_set_secrets_are_not_written(tmp_path: Path) -> None:
    """A secret that comes from the configuration stays out of the data directory."""
    config = Config.load(None, {"METERPROXY_DATA_DIR": str(tmp_path), "METERPROXY_ADMIN_TOKEN": "mine"})
    made = ensure_secrets(config)
    assert made.admin_token == config.admin_token
    assert not secret_path(config, "admin_token").exists()


def test_damaged_secret(tmp_path: Path) -> None:
    """A master key that was cut is not replaced: what it encrypted would be lost."""
    config = Config.load(None, {"METERPROXY_DATA_DIR": str(tmp_path)})
    ensure_secrets(config)
    secret_path(config, "master_key").write_text("c2hvcnQ=")
    with pytest.raises(ConfigError, match="damaged secret"):
        ensure_secrets(config)


def test_secrets_without_a_place(tmp_path: Path) -> None:
    """Where the data directory cannot be made, the error names the way out."""
    (tmp_path / "data").write_text("")
    config = Config.load(None, {"METERPROXY_DATA_DIR": str(tmp_path / "data")})
    with pytest.raises(ConfigError, match="or set admin_token"):
        ensure_secrets(config)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("providers: {openai: {base_url: 'http://p/v1', api_key: \"sk-abc\\n\"}}", "providers.openai.api_key"),
        (
            "providers: {openai: {base_url: 'http://p/v1', headers: {X-A: \"a\\r\\nX-B: c\"}}}",
            "providers.openai.headers",
        ),
        ("providers: {openai: {base_url: 'http://p/v1', headers: {'X A': b}}}", "providers.openai.headers"),
        ("admin_token: 'a '", "admin_token"),
        ("data_dir: ''", "data_dir"),
    ],
)
def test_what_would_break_every_request_is_refused_at_load(text: str, path: str, tmp_path: Path) -> None:
    """Secrets and headers that cannot stand in a header, and a data_dir that is the working directory."""
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as told:
        Config.load(file, {})
    assert path in str(told.value)
    assert "sk-abc" not in str(told.value)


def test_auto_is_one_worker_for_each_processor() -> None:
    """As many as this process may run on."""
    assert Config.load(None, {"METERPROXY_WORKERS": "auto"}).workers == usable_processors(Path("/nonexistent"))


@pytest.mark.parametrize(
    ("quota", "paid"), [("max 100000", None), ("150000 100000", 2), ("10000 100000", 1), ("", None), ("1 0", None)]
)
def test_a_containers_quota_bounds_the_processors(tmp_path: Path, quota: str, paid: int | None) -> None:
    """One and a half processors are two workers, a tenth is one; no quota is no bound."""
    path = tmp_path / "cpu.max"
    path.write_text(f"{quota}\n")
    allowed = usable_processors(tmp_path / "absent")
    assert usable_processors(path) == min(allowed, paid or allowed)


MAIL = {"METERPROXY_MAIL__HOST": "smtp.example.com", "METERPROXY_MAIL__FROM": "Meter <meter@example.com>"}


def test_mail_needs_no_more_than_a_host_a_sender_and_where_links_lead() -> None:
    """TLS is demanded unless it is taken away; the port follows from it; the password is never shown."""
    environ = {**MAIL, "METERPROXY_PUBLIC_URL": "https://m.example", "METERPROXY_MAIL__USER": "u"}
    config = Config.load(None, {**environ, "METERPROXY_MAIL__PASSWORD": "hush"})
    assert (config.mail.tls, config.mail.port_used, config.mail.sender) == (
        "starttls",
        587,
        "Meter <meter@example.com>",
    )
    assert "hush" not in repr(config) + str(config.public())
    assert config.public()["mail"]["from"] == "Meter <meter@example.com>"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"METERPROXY_PUBLIC_URL": None}, "mail.host needs public_url: the links in letters begin with it"),
        ({"METERPROXY_MAIL__FROM": None}, "mail.host needs mail.from, the address that letters come from"),
        ({"METERPROXY_MAIL__USER": "u"}, "mail.user and mail.password belong together"),
        (
            {"METERPROXY_MAIL__USER": "u", "METERPROXY_MAIL__PASSWORD": "p", "METERPROXY_MAIL__TLS": "none"},
            'mail.tls "none" would send mail.password in the clear: use starttls or tls',
        ),
        ({"METERPROXY_MAIL__FROM": "meter@example.com\nBcc: eve@example.com"}, "must be an address, like meterproxy@"),
        ({"METERPROXY_MAIL__FROM": "nobody"}, "must be an address, like meterproxy@"),
        ({"METERPROXY_MAIL__FROM": "a..b@example.com"}, "must be an address, like meterproxy@"),
        ({"METERPROXY_MAIL__PORT": "0"}, "must be greater than or equal to 1"),
    ],
)
def test_mail_that_could_not_work_is_refused(changed: Mapping[str, str | None], told: str) -> None:
    """With what is missing or wrong in one line."""
    environ = {**MAIL, "METERPROXY_PUBLIC_URL": "https://m.example", **changed}
    (problem,) = problems(None, {name: value for name, value in environ.items() if value is not None})
    assert told in problem
