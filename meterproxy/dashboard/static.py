"""Static files: styles and scripts, ours and installed packages', each under an address that changes with them."""

import asyncio
import gzip
import hashlib
import mimetypes
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from aiohttp import web

from meterproxy.control.access import Permission
from meterproxy.control.call import Call, Services
from meterproxy.control.route import Route
from meterproxy.errors import ApiError, Case

PACKAGED: Final[Mapping[str, tuple[str, str]]] = {
    "plotly.min.js": ("plotly", "package_data"),
    "swagger-ui-bundle.js": ("swagger_ui", "static"),
    "swagger-ui.css": ("swagger_ui", "static"),
}
"""Files of others, with the installed package that has them and where in it; the packages are not imported."""
ICON: Final = "icon.svg"
GZIPPED_BYTES: Final = 1024
"""From which size on a file is worth being compressed."""
_LONG: Final = "public, max-age=31536000, immutable"


class File(NamedTuple):
    """A file as browsers get it."""

    content: bytes
    gzipped: bytes | None
    type: str
    digest: str


@cache
def names() -> frozenset[str]:
    """The files that there are."""
    return frozenset({*PACKAGED, *(file.name for file in _directory().iterdir() if file.is_file())})


@cache
def digest_of(name: str) -> str:
    """What stands in a file's address: it changes with its content."""
    return hashlib.sha256(_path(name).read_bytes()).hexdigest()[:16]


def address_of(name: str) -> str:
    """Where browsers find a file."""
    return f"/static/{digest_of(name)}/{name}"


async def _file(_on: Services, call: Call) -> web.Response:
    digest, name = call.ids
    if name not in names():
        raise ApiError(Case.NOT_FOUND, "There is no such file.")
    file = await asyncio.to_thread(_loaded, name)
    headers = {
        "Content-Type": file.type,
        "Cache-Control": _LONG if digest == file.digest else "no-cache",
        "X-Content-Type-Options": "nosniff",
        "Vary": "Accept-Encoding",
    }
    if file.gzipped is not None and "gzip" in call.request.headers.get("Accept-Encoding", ""):
        return web.Response(body=file.gzipped, headers={**headers, "Content-Encoding": "gzip"})
    return web.Response(body=file.content, headers=headers)


async def _icon(_on: Services, _call: Call) -> web.Response:
    """What browsers and other programs look for without having been told."""
    file = await asyncio.to_thread(_loaded, ICON)
    return web.Response(
        body=file.content, headers={"Content-Type": file.type, "Cache-Control": "public, max-age=86400"}
    )


@cache
def _loaded(name: str) -> File:
    content = _path(name).read_bytes()
    type_ = mimetypes.guess_type(name)[0] or "application/octet-stream"
    text = type_.startswith("text/") or type_.endswith(("javascript", "+xml"))
    return File(
        content,
        gzip.compress(content, 6) if len(content) > GZIPPED_BYTES else None,
        f"{type_}; charset=utf-8" if text else type_,
        digest_of(name),
    )


def _path(name: str) -> Path:
    if name not in PACKAGED:
        return _directory() / name
    package, directory = PACKAGED[name]
    found = find_spec(package)
    assert found is not None, "it is a dependency"
    assert found.submodule_search_locations is not None, "it is a package"
    return Path(found.submodule_search_locations[0], directory, name)


def _directory() -> Path:
    return Path(__file__).with_name("static")


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="GET",
        path="/static/{digest}/{name}",
        permission=Permission.OPEN,
        endpoint=_file,
        summary="/static/{digest}/{name}",
        is_page=True,
        is_file=True,
    ),
    Route(
        method="GET",
        path="/favicon.ico",
        permission=Permission.OPEN,
        endpoint=_icon,
        summary="/favicon.ico",
        is_page=True,
        is_file=True,
    ),
)
