"""Providers and their keys, for operators: a secret goes in and is never shown again."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from aiohttp import web

from meterproxy.control import forms, provider_endpoints
from meterproxy.control.access import Permission
from meterproxy.control.call import Call, Services
from meterproxy.control.provider_bodies import ChangedProvider, ChangedProviderKey, NewProvider, NewProviderKey
from meterproxy.control.provider_endpoints import StoredProvider
from meterproxy.dashboard.pages import page, page_route, redirect
from meterproxy.errors import ApiError

PATH: Final = "/operate/providers"


async def _providers(
    on: Services, call: Call, error: ApiError | None = None, changing: str | None = None
) -> web.Response:
    """All of them; `changing` is the id of the one whose form could not be done as it was filled in.

    A private key that was pasted among certificates is not written back: a page is no place for it.
    """
    filled = {name: text for name, text in call.form.items() if "PRIVATE KEY" not in text}
    keys = (await provider_endpoints.keys(on, call)).data
    listed = await provider_endpoints.listed(on, call)
    rows = [
        (
            one,
            [key for key in keys if key.provider_id == one.id],
            {**_fields(one), **(filled if str(one.id) == changing else {})},
        )
        for one in listed.data
    ]
    shadowed = {one.name for one in listed.configured}
    return await page(
        on,
        replace(call, form={} if changing else filled),  # what changes one is not for the form that adds one
        "operate_providers.html",
        error=error,
        providers=rows,
        configured=listed.configured,
        shadowed=shadowed,
        changing=changing,
    )


def _fields(provider: StoredProvider) -> dict[str, str]:
    """A provider as its form has it; headers are set there, and never shown."""
    waits = {f"timeouts.{name}": str(seconds).removesuffix(".0") for name, seconds in provider.timeouts}
    return {
        "base_url": provider.base_url,
        "models": ", ".join(provider.models),
        "prices": provider.prices,
        "tls_ca": provider.tls_ca or "",
        **waits,
    }


async def _added(on: Services, call: Call) -> web.Response:
    try:
        await provider_endpoints.added(on, call.asking(body=forms.read(NewProvider, call.form)))
    except ApiError as error:
        return await _providers(on, call, error)
    return redirect(PATH, done="provider")


async def _changed(on: Services, call: Call) -> web.Response:
    try:
        wish = forms.read(ChangedProvider, call.form)
        if call.form.get("tls_ca") == "":  # emptied: the system's authorities again
            wish = wish.model_copy(update={"tls_ca": None})
        await provider_endpoints.changed(on, call.asking(body=wish))
    except ApiError as error:
        return await _providers(on, call, error, changing=call.ids[0])
    return redirect(PATH, done="provider-changed")


async def _removed(on: Services, call: Call) -> web.Response:
    await provider_endpoints.removed(on, call)
    return redirect(PATH, done="provider-removed")


def _tested(form: Mapping[str, str]) -> dict[str, str]:
    """A key's form as the API reads it: there a switch says that it is to be tried, here one that it is not."""
    given = {name: text for name, text in form.items() if name != "untested"}
    return {**given, "test": "0" if form.get("untested") else "1"}


async def _key_added(on: Services, call: Call) -> web.Response:
    try:
        body = forms.read(NewProviderKey, {**_tested(call.form), "provider_id": call.ids[0]})
        await provider_endpoints.key_added(on, call.asking(body=body))
    except ApiError as error:
        return await _providers(on, call, error)
    return redirect(PATH, done="provider-key" if body.test else "provider-key-untested")


async def _key_rotated(on: Services, call: Call) -> web.Response:
    try:
        body = forms.read(ChangedProviderKey, _tested(call.form))
        await provider_endpoints.key_rotated(on, call.asking(body=body))
    except ApiError as error:
        return await _providers(on, call, error)
    return redirect(PATH, done="provider-key" if body.test else "provider-key-untested")


async def _key_removed(on: Services, call: Call) -> web.Response:
    await provider_endpoints.key_removed(on, call)
    return redirect(PATH, done="provider-key-removed")


ROUTES: Final = (
    page_route("GET", PATH, Permission.OPERATE, _providers),
    page_route("POST", PATH, Permission.OPERATE, _added),
    page_route("POST", "/operate/providers/{id}", Permission.OPERATE, _changed),
    page_route("POST", "/operate/providers/{id}/remove", Permission.OPERATE, _removed),
    page_route("POST", "/operate/providers/{id}/keys", Permission.OPERATE, _key_added),
    page_route("POST", "/operate/provider-keys/{id}/rotate", Permission.OPERATE, _key_rotated),
    page_route("POST", "/operate/provider-keys/{id}/remove", Permission.OPERATE, _key_removed),
)
