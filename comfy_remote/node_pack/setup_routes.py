"""The routes by which the page sets up targets: see docs/routes.md.

Only ComfyUI's own page may use them. A key is taken only where nobody on the way can read it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, JsonValue, SecretStr

from ..config.environment import load_env_files, untrusted_files
from ..config.folders import ENV_NAME, home
from ..config.own_file import own_path
from ..config.settings import Configuration
from ..config.trust import TrustStore
from ..errors import NotTrusted
from ..net.address import is_loopback
from ..secrets import secret
from .deploying import under_way
from .host import Host
from .json_route import body_of, json_route, lines_route
from .own_targets import OwnTargets
from .spending import CapsForm, set_caps, spending
from .switch import Switch
from .target_form import ACCOUNT_KEY, TargetForm
from .target_pool import TargetPool

__all__ = ["add_setup_routes", "check_keys", "check_owner", "is_owners", "setup_state"]


class _AccountRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: Annotated[SecretStr, Field(max_length=8192)] | None = None


class _OverCapRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    client_id: Annotated[str, Field(min_length=1, max_length=200)]


class _TrustRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    path: str
    named: list[str]


def add_setup_routes(
    table: web.RouteTableDef, host: Host, own: OwnTargets, pool: TargetPool, switch: Switch
) -> None:
    """Add them to the table of the pack's routes."""

    @table.post("/remote/account")
    @json_route
    async def account(request: web.Request) -> JsonValue:
        check_owner(request, host)
        wanted = await body_of(request, _AccountRequest)
        check_keys(request, [wanted.key])
        return await own.account(wanted.key)

    @table.post("/remote/targets")
    @lines_route
    async def put(request: web.Request) -> AsyncIterator[JsonValue]:
        check_owner(request, host)
        form = await body_of(request, TargetForm)
        check_keys(request, [form.key, form.secret])
        async for line in own.put(form):
            yield line

    @table.delete("/remote/targets/{name:.+}")
    @json_route
    async def remove(request: web.Request) -> JsonValue:
        check_owner(request, host)
        name = request.match_info["name"]
        await own.remove(name)
        return {"removed": name}

    @table.post("/remote/trust")
    @json_route
    async def trust(request: web.Request) -> JsonValue:
        check_owner(request, host)
        wanted = await body_of(request, _TrustRequest)
        await asyncio.to_thread(_trust, Path(wanted.path), wanted.named)
        pool.renew()
        return {"trusted": wanted.path}

    @table.get("/remote/spending")
    @json_route
    async def spent(_request: web.Request) -> JsonValue:
        if host.several_users:
            raise NotTrusted("Where several people share a ComfyUI, its record is not shown.")
        return await spending(pool.record)

    @table.put("/remote/spending/caps")
    @json_route
    async def put_caps(request: web.Request) -> JsonValue:
        check_owner(request, host)
        await asyncio.to_thread(set_caps, await body_of(request, CapsForm))
        return await spending(pool.record)

    @table.post("/remote/spending/over")
    @json_route
    async def over_cap(request: web.Request) -> JsonValue:
        check_owner(request, host)
        wanted = await body_of(request, _OverCapRequest)
        switch.let_over_cap(wanted.client_id)
        return {"client_id": wanted.client_id}


def setup_state(host: Host, request: web.Request) -> dict[str, JsonValue]:
    """Where what is set up goes, for the page. Blocking."""
    shared = host.several_users and not _is_here(request.headers.get("Host", ""))
    return {
        "file": str(own_path()),
        "keys": str(home() / ENV_NAME),
        "default": bool(Configuration.load().usual()[1]),
        "account": secret(ACCOUNT_KEY, os.environ) is not None,
        "refused": _SHARED if shared else None,
        "deploying": [] if host.several_users else [*under_way()],
        "untrusted": [{"path": str(path), "named": [*named]} for path, named in untrusted_files()],
    }


_FORWARDED = ("Forwarded", "Via", "X-Forwarded-For", "X-Real-IP")
"""What a proxy adds: behind one on this machine, everybody comes from here."""

_SHARED = (
    "Several people use this ComfyUI (--multi-user): only its owner sets up targets, in a browser "
    "on the machine that it runs on (http://127.0.0.1), or with comfy-remote in a terminal there."
)


def check_owner(
    request: web.Request,
    host: Host,
    does: str = "set up targets",
    command: str = "targets add",
) -> None:
    """See that a page asks, and, where several people share the server, that of its owner.

    Args:
        does: What it asks for, for people.
        command: Of ours that does the same in a terminal.

    Raises:
        NotTrusted: It is a program, or somebody else.
    """
    origin = request.headers.get("Origin")
    if origin is None:
        raise NotTrusted(
            f"Only ComfyUI's page can {does} here.",
            advice=f"Without the page: comfy-remote {command}, in a terminal.",
        )
    if not (_may_be_owner(request, host) and (_is_here(origin) or not host.several_users)):
        raise NotTrusted(_SHARED)


def is_owners(request: web.Request, host: Host) -> bool:
    """Whether a page that only looks is its owner's, or everybody's."""
    return _may_be_owner(request, host) and (
        not host.several_users or _is_here(request.headers.get("Host", ""))
    )


def _may_be_owner(request: web.Request, host: Host) -> bool:
    forwarded = any(name in request.headers for name in _FORWARDED)
    return not host.several_users or (is_loopback(request.remote) and not forwarded)


def check_keys(request: web.Request, keys: Sequence[SecretStr | None]) -> None:
    """See that a key was not sent where others can read it.

    Raises:
        NotTrusted: The page was opened by http from another machine.
    """
    if not any(key is not None and key.get_secret_value().strip() for key in keys):
        return
    origin = request.headers.get("Origin", "")
    if not origin.startswith("https://") and not _is_here(origin):
        raise NotTrusted(
            "A key cannot be typed into a page that was opened by http from another machine, since "
            "others can read it on its way. It was not stored.",
            advice=f"Put it into {home() / ENV_NAME} on the machine that ComfyUI runs on, or open "
            "this page there, or by https. Replace a key that was sent this way.",
        )


def _is_here(address: str) -> bool:
    """Whether an origin, or a host and port, is this machine."""
    try:
        return is_loopback(urlsplit(address if "://" in address else f"//{address}").hostname)
    except ValueError:
        return False


def _trust(path: Path, named: Sequence[str]) -> None:
    """Trust what a folder's file names, if that is what its user was shown."""
    for found, missing in untrusted_files():
        if found == path and sorted(missing) == sorted(named):
            TrustStore(home()).trust(found, missing)
            load_env_files(os.environ)
            return
    raise NotTrusted(
        f"{path} does not name that now. Nothing was trusted.", advice="Look at it again."
    )
