"""Source: where settings come from, put together into one tree before anything is checked.

Rules
-----
- The environment wins over the file; an empty variable is the same as an unset one.
- The file's scalars are null, `true`/`false`, decimal integers and text; nothing turns into a
  float or a date by its looks.
- `${NAME}` expands inside text after the file is parsed, so a variable's content can never become YAML of its own.
- Nothing here raises for a bad setting: problems are collected, so that they can be told together.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

PREFIX: Final = "METERPROXY_"
SECRETS: Final = frozenset({
    "admin_token", "master_key", "master_key_previous", "jwt_secret", "api_key", "database_url", "database_direct_url",
    "client_secret", "password",
})  # fmt: skip
"""Settings that may also be named by a file, in a variable that ends in `_FILE`."""

_FOREIGN: Final = re.compile(r"METERPROXY_(?:CONFIG$|TEST_|INTERNAL_)")
_VARIABLE: Final = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)\})")
_OPENAI_URL: Final = "https://api.openai.com/v1"

Place = tuple[str, ...]


@dataclass(slots=True)
class Settings:
    """The tree of settings as read, what was wrong with it, and which variable or option set what."""

    tree: dict[str, Any] = field(default_factory=dict)
    problems: dict[Place, str] = field(default_factory=dict)
    variables: dict[Place, str] = field(default_factory=dict)


def read_settings(path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, str]) -> Settings:
    """Read the file, if there is one, the environment over it, and the command line's options over both."""
    settings = Settings()
    if path is not None:
        _read_file(settings, path, environ)
    _read_environment(settings, environ)
    if path is None:
        _add_openai(settings, environ)
    for name, value in overrides.items():
        settings.variables[name,] = f"--{name}"
        _set(settings, (name,), value)
    return settings


class _Loader(yaml.SafeLoader):
    """YAML with the few kinds of scalars that a configuration needs, where a key set twice is an error."""

    yaml_implicit_resolvers: Any = {}  # noqa: RUF012 - how PyYAML declares its table


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"-?(?:0|[1-9][0-9]{0,18})\Z"), list("-0123456789"))


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, "a key must be text", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is set twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _unique_mapping)


def _read_file(settings: Settings, path: Path, environ: Mapping[str, str]) -> None:
    try:
        tree = yaml.load(path.read_bytes(), _Loader)  # noqa: S506 - a SafeLoader with fewer scalars
    except OSError as error:
        settings.problems[()] = f"cannot read {path}: {error.strerror}"
        return
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        settings.problems[()] = f"{path} is not valid YAML: {_on_one_line(error)}"
        return
    if tree is None:
        return
    if not isinstance(tree, dict):
        settings.problems[()] = f"{path} must be a mapping of settings"
        return
    settings.tree = _expand(tree, (), environ, settings.problems)


def _on_one_line(error: yaml.YAMLError | UnicodeDecodeError) -> str:
    mark = getattr(error, "problem_mark", None)
    text = str(getattr(error, "problem", None) or error).replace("\n", " ")
    return f"{text} (line {mark.line + 1})" if mark else text


def _expand(node: Any, path: Place, environ: Mapping[str, str], problems: dict[Place, str]) -> Any:
    """Expand `${NAME}` in every text below `node`."""
    if isinstance(node, dict):
        return {key: _expand(value, (*path, key), environ, problems) for key, value in node.items()}
    if isinstance(node, list):
        return [_expand(value, (*path, str(index)), environ, problems) for index, value in enumerate(node)]
    if not isinstance(node, str):
        return node

    def value_of(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return "$"
        if name not in environ:
            problems[path] = f"environment variable {name} is not set"
        return environ.get(name, "")

    return _VARIABLE.sub(value_of, node)


def _read_environment(settings: Settings, environ: Mapping[str, str]) -> None:
    for path, variable, value in sorted(_variables(settings, environ)):
        taken = settings.variables.get(path)
        if taken is not None:
            settings.problems[path] = f"set by both {taken} and {variable}"
            continue
        settings.variables[path] = variable
        _set(settings, path, value)


def _variables(settings: Settings, environ: Mapping[str, str]) -> Iterator[tuple[Place, str, str]]:
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or _FOREIGN.match(variable) or not value:
            continue
        path = tuple(variable.removeprefix(PREFIX).lower().split("__"))
        if path[-1].removesuffix("_file") in SECRETS and path[-1].endswith("_file"):
            path = (*path[:-1], path[-1].removesuffix("_file"))
            yield path, variable, _content(settings, path, variable, value)
        else:
            yield path, variable, value


def _content(settings: Settings, path: Place, variable: str, file: str) -> str:
    """What a secret's file holds, without the line's end."""
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        settings.problems[path] = f"cannot read the file that {variable} names: {error}"
        return ""


def _set(settings: Settings, path: Place, value: str) -> None:
    """Put one value into the tree; names that the file wrote with capitals are found again."""
    node = settings.tree
    for name in path[:-1]:
        child = node.setdefault(_as_written(node, name), {})
        if child is None:
            child = node[_as_written(node, name)] = {}
        if not isinstance(child, dict):
            settings.problems[path] = f"cannot be set inside {name}, which is a single value"
            return
        node = child
    node[_as_written(node, path[-1])] = value


def _as_written(node: Mapping[str, Any], name: str) -> str:
    return next((key for key in node if key.lower() == name), name)


def _add_openai(settings: Settings, environ: Mapping[str, str]) -> None:
    """Without a file, the variables that OpenAI's own SDK reads define the provider `openai`."""
    key = environ.get("OPENAI_API_KEY")
    providers = settings.tree.setdefault("providers", {})
    if key and isinstance(providers, dict) and "openai" not in providers:
        providers["openai"] = {"base_url": environ.get("OPENAI_BASE_URL") or _OPENAI_URL, "api_key": key}
