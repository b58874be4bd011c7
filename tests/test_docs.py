"""The documents say what the code does: settings, errors, metrics, commands."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import click
import pytest
import yaml
from pydantic import BaseModel

from meterproxy.cli.root import root
from meterproxy.config import Config
from meterproxy.errors import Case
from meterproxy.runtime.metrics import Metrics

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "config.example.yaml"

_OFF = re.compile(r"^#((?: {2,})?(?:[\w-]+:|- ).*)$", re.MULTILINE)
"""A setting that is commented out: `#` and at once, or after its indentation, a name and a colon."""


def switched_on(text: str) -> str:
    """The example with every commented setting in force."""
    return _OFF.sub(r"\1", text)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation names, in mappings and unions too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is Annotated or get_args(annotation):
        arguments = get_args(annotation)
        for argument in arguments[:1] if get_origin(annotation) is Annotated else arguments:
            yield from models_in(argument)


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every setting's path; `*` stands for a name that the operator chooses."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        nested = list(models_in(field.annotation))
        named = get_origin(field.annotation) not in {None, Union, UnionType}
        if not nested:
            yield path
        for inner in nested:
            yield from keys_of(inner, f"{path}.*." if named else f"{path}.")


def keys_in(tree: Any, model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every setting's path in a parsed file, in the same form."""
    known = {field.alias or name: field for name, field in model.model_fields.items()}
    for name, value in (tree or {}).items():
        nested = list(models_in(known[name].annotation)) if name in known else []
        if not nested:
            yield f"{prefix}{name}"
        elif get_origin(known[name].annotation) not in {None, Union, UnionType}:
            for inner in value.values():
                yield from keys_in(inner, nested[0], f"{prefix}{name}.*.")
        else:
            yield from keys_in(value, nested[0], f"{prefix}{name}.")


def test_example_documents_every_setting() -> None:
    """Each setting is in config.example.yaml, and nothing else is."""
    tree = yaml.safe_load(switched_on(EXAMPLE.read_text()))
    assert sorted(keys_in(tree, Config)) == sorted(keys_of(Config))


def test_example_says_the_defaults() -> None:
    """As shipped the example changes nothing."""
    assert Config.load(EXAMPLE, {}) == Config.load(None, {})


def test_example_provider_says_the_defaults(tmp_path: Path) -> None:
    """The commented provider shows each default of a provider's settings."""
    provider = yaml.safe_load(switched_on(EXAMPLE.read_text()))["providers"]["openai"]
    path = tmp_path / "config.yaml"
    path.write_text(
        yaml.safe_dump({"providers": {"a": {**provider, "api_key": "k"}, "b": {"base_url": "http://b/v1"}}})
    )
    shown, plain = Config.load(path, {}).providers.values()
    expected = plain.model_copy(
        update={"base_url": shown.base_url, "api_key": shown.api_key, "tls_ca_file": shown.tls_ca_file}
    )
    assert shown == expected


def table_rows(path: Path) -> list[list[str]]:
    """The cells of every table row of a document, code marks removed."""
    rows = [line.strip("|").split("|") for line in path.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip().replace("`", "") for cell in row] for row in rows]


def test_errors_document_matches_the_table() -> None:
    """docs/errors.md has one row per case, with its status, type and code."""
    rows = {row[0]: row[1:4] for row in table_rows(ROOT / "docs" / "errors.md")[1:]}
    assert rows == {case.name.lower(): [str(case.status), case.type, case.code or "null"] for case in Case}


def test_metrics_document_matches_the_registry() -> None:
    """docs/metrics.md has one row per metric, with its kind and labels."""
    rows = {row[0]: (row[1], row[2]) for row in table_rows(ROOT / "docs" / "metrics.md")[1:]}
    shown = {}
    for collector in Metrics().registry._collector_to_names:
        (described,) = collector.describe()
        name = f"{described.name}_total" if described.type == "counter" else described.name
        labelled = collector if hasattr(collector, "_labelnames") else described
        shown[name] = (described.type, ", ".join(labelled._labelnames))
    assert rows == shown


def commands_in(text: str) -> Iterator[list[str]]:
    """The arguments of each `meterproxy …` line in the shell blocks of a document."""
    for block in re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words and Path(words[0]).name == "meterproxy":
                yield words[1:]


DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_exist(document: Path) -> None:
    """Every command line that a document shows names a command and options that exist."""
    for words in commands_in(document.read_text()):
        command: click.Command = root
        context = click.Context(root)
        while words and isinstance(command, click.Group):
            found = command.get_command(context, words.pop(0))
            assert found is not None, f"{document.name}: no such command"
            command = found
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options | {"--help"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_exist(document: Path) -> None:
    """Every `make` target that a document names is in the Makefile."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", document.read_text(), re.MULTILINE))
    assert named <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link names a file of this repository."""
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_alert_rules_name_metrics_and_runbooks() -> None:
    """Each alert asks for documented metrics and has its line in docs/operating.md."""
    documented = set(re.findall(r"meterproxy_\w+", (ROOT / "docs" / "metrics.md").read_text()))
    runbook = (ROOT / "docs" / "operating.md").read_text()
    for group in yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            named = set(re.findall(r"meterproxy_\w+", rule["expr"]))
            assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in named} <= documented
            assert rule["annotations"]["runbook"].startswith("docs/operating.md#")
            assert f"### {rule['alert']}\n" in runbook


def test_compose_and_prometheus_files_agree() -> None:
    """Compose mounts files that exist, and Prometheus loads the rules that it mounts."""
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    mounted = [volume for service in compose["services"].values() for volume in service.get("volumes", [])]
    sources = [volume.split(":")[0] for volume in mounted if volume.startswith("./")]
    assert sources
    assert all((ROOT / source).exists() for source in sources)
    assert yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())["rule_files"] == ["alerts.yml"]
