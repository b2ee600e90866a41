"""Targets that somebody adds, changes and removes in the page, and their keys.

A key comes once, from the page; it is stored by `config.stored_secrets` and given to nobody. All of
this changes the owner's own files only.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from ..clean import cleaned_json
from ..config.own_file import OwnFile
from ..config.settings import Configuration
from ..config.stored_secrets import (
    check_not_set_elsewhere,
    forget_secret,
    is_variable_of_a_server,
    store_secret,
)
from ..errors import ComfyRemoteError, ConfigurationError
from ..jobs.doctor import Finding, examine
from ..secrets import SECRETS
from ..targets.kinds import members_of, secret_variables
from ..targets.opening import open_target
from ..targets.runpod.account_targets import account_targets
from ..targets.runpod.kind import API_KEY_VARIABLE
from ..types import JsonValue
from .advice import for_page
from .known_targets import known_targets
from .target_form import FilledIn, TargetForm

if TYPE_CHECKING:
    from pydantic import SecretStr

    from ..config.target_settings import TargetSettings
    from .target_pool import TargetPool

__all__ = ["OwnTargets"]

_P = ParamSpec("_P")
_Answer = TypeVar("_Answer")

_OF_THE_TARGET = frozenset(
    {
        *("target", "key", "runpod", "pod", "modal", "connection", "comfyui", "device"),
        *("latency", "socket", "workers", "queue"),
    }
)
"""Those of `doctor`'s checks that are about the target, not about this machine."""


_NOT_GIVEN = "not-given-yet"
"""Instead of a key that somebody will give later."""


class OwnTargets:
    """What the page may do with the owner's targets. One change at a time."""

    def __init__(self, pool: TargetPool) -> None:
        self._pool = pool
        self._changing = asyncio.Lock()

    async def account(self, key: SecretStr | None) -> dict[str, JsonValue]:
        """What a RunPod account has, to choose from. A key that RunPod takes is stored.

        Args:
            key: One that was typed; the one that is known by default.

        Raises:
            ConfigurationError: There is no key, or it cannot be stored.
            AuthenticationError: RunPod refuses it: it is not stored.
            TargetError: RunPod cannot be asked.
        """
        found, where = await self.asked(key, account_targets)
        targets: list[JsonValue] = [
            {"address": one.address, "name": one.name, "text": one.text} for one in found
        ]
        return cleaned_json({"targets": targets, "stored": where})

    async def asked(
        self, key: SecretStr | None, ask: Callable[[Mapping[str, str]], Awaitable[_Answer]]
    ) -> tuple[_Answer, str | None]:
        """What a RunPod account answers, and where the key is stored that was sent along.

        Args:
            key: One that was typed, which is stored if the account answers.
            ask: Called with an environment that has the key.

        Raises:
            ConfigurationError: The key cannot be stored.
            ComfyRemoteError: What ``ask`` raises; then it is not stored.
        """
        typed = None if key is None else key.get_secret_value().strip()
        keys = {API_KEY_VARIABLE: typed} if typed else {}
        for variable, value in keys.items():
            await asyncio.to_thread(check_not_set_elsewhere, variable, value)
        with SECRETS.holding(keys):
            found = await ask({**os.environ, **keys})
        where = None
        for variable, value in keys.items():
            where = await self.changed(_store, variable, value)
        return found, where

    async def changed(
        self, change: Callable[_P, _Answer], *args: _P.args, **kwargs: _P.kwargs
    ) -> _Answer:
        """Make a change of the owner's files in a thread, when no other one is being made."""
        async with self._changing:
            answer = await asyncio.to_thread(change, *args, **kwargs)
            self._pool.renew()
        return answer

    async def put(self, form: TargetForm) -> AsyncGenerator[dict[str, JsonValue], None]:
        """Try a target, line by line, and write it if no check found a problem.

        Yields:
            ``{"finding": …}`` for each check, as `Finding.to_json`; at last ``{"added": NAME}``,
            or ``{"refused": SENTENCE}`` if nothing was written.

        Raises:
            ConfigurationError: It cannot be added as it is.
            LocalStorageError: It cannot be written.
        """
        own = await asyncio.to_thread(OwnFile)
        configuration = await asyncio.to_thread(Configuration.load)
        before = None
        if form.replaces is not None:
            own.check_has(form.replaces)
            before = configuration.targets.get(form.replaces)
        new = FilledIn.of(form, before)
        _check_members(new, configuration)
        if new.name in own.targets and new.name != form.replaces:
            raise ConfigurationError(
                f"You have a target {new.name!r} already.", advice="Choose another name."
            )
        own.put(new.name, new.settings)  # checks the name, before anything is asked
        for variable, value in new.keys.items():
            await asyncio.to_thread(check_not_set_elsewhere, variable, value)
        if not form.test:
            await asyncio.to_thread(
                _check_usable, new, configuration.with_own(new.name, new.settings, own.path)
            )
        else:
            problems = False
            with SECRETS.holding({name: value for name, value in new.keys.items() if value}):
                found = examine(
                    new.name,
                    environment={**os.environ, **new.keys},
                    configuration=configuration.with_own(new.name, new.settings, own.path),
                )
                async with aclosing(found):
                    async for finding in found:
                        if finding.check in _OF_THE_TARGET and not _is_known_key(finding):
                            problems = problems or finding.status == "problem"
                            yield {"finding": _shown(finding)}
            if problems:
                yield {"refused": "Nothing was written."}
                return
        await self.changed(_write, new, form.replaces, before)
        yield {"added": new.name}

    async def remove(self, name: str) -> None:
        """Remove a target, and its server's key, unless another target has the same.

        Raises:
            ConfigurationError: The owner's file has none of that name.
            LocalStorageError: It cannot be written.
        """
        await self.changed(_remove, name)


def _check_members(new: FilledIn, configuration: Configuration) -> None:
    """See that a route chooses among targets that are listed, and nothing else.

    Raises:
        ConfigurationError: It names something else, or itself.
    """
    listed = {one.name for one in known_targets(configuration, os.environ)} - {new.name}
    for member in members_of(new.settings):
        if member not in listed:
            raise ConfigurationError(
                f"{member!r} is not one of your targets.", advice="Add it first."
            )


def _check_usable(new: FilledIn, configuration: Configuration) -> None:
    """See that it could be opened, once its key is there. Nothing is asked.

    Raises:
        ConfigurationError: It could not.
    """
    variables = dict.fromkeys(secret_variables(new.settings), _NOT_GIVEN)
    with SECRETS.holding({name: value for name, value in new.keys.items() if value}):
        open_target(new.name, configuration, {**variables, **os.environ, **new.keys})


def _write(new: FilledIn, replaces: str | None, before: TargetSettings | None) -> None:
    """Write what was tried, unless the file has changed meanwhile in what it is about."""
    _check_unchanged(OwnFile(), new, replaces, before)  # before its key is stored
    for variable, value in new.keys.items():
        _store(variable, value)
    try:
        _put(new, replaces, before)
    except ComfyRemoteError:
        _forget_unused(new.settings)
        raise
    _forget_unused(before)


def _check_unchanged(
    own: OwnFile, new: FilledIn, replaces: str | None, before: TargetSettings | None
) -> None:
    """See that no other tab, command or editor has changed the same target during the test."""
    if new.name in own.targets and new.name != replaces:
        raise ConfigurationError(
            f"You have a target {new.name!r} by now. Nothing was written.",
            advice="Choose another name.",
        )
    if replaces is not None and Configuration.load().targets.get(replaces) != before:
        raise ConfigurationError(
            f"{replaces} was changed meanwhile, in another tab or in the file. Nothing was "
            "written.",
            advice="Close this form, and look at it again.",
        )


def _put(new: FilledIn, replaces: str | None, before: TargetSettings | None) -> None:
    with OwnFile.changing() as own:
        _check_unchanged(own, new, replaces, before)
        usual = own.default
        if replaces is not None and replaces != new.name:
            own.change_name(replaces, new.name)
        own.put(new.name, new.settings)
        if usual is None or usual == replaces:
            own.make_default(new.name)


def _remove(name: str) -> None:
    before = Configuration.load().targets.get(name)
    with OwnFile.changing() as own:
        if routes := own.routes_with(name):
            raise ConfigurationError(
                f"{name} is in the route {routes[0]}.", advice="Take it out of the route first."
            )
        own.remove(name)
    _forget_unused(before)


def _forget_unused(settings: TargetSettings | None) -> None:
    """Forget what was stored for a server that no target has any more."""
    if settings is None:
        return
    for variable in Configuration.load().unused_secrets(settings):
        if is_variable_of_a_server(variable):
            forget_secret(variable)
            os.environ.pop(variable, None)


def _store(variable: str, value: str) -> str:
    where = store_secret(variable, value)
    # As `load_env_files` will at the next start; one in the key ring is read there.
    if variable in os.environ or where != "the key ring":
        os.environ[variable] = value.strip()
    return where


def _is_known_key(finding: Finding) -> bool:
    """Whether it only says that a variable is set, whose name nobody has chosen."""
    return finding.check == "key" and finding.status == "ok"


def _shown(finding: Finding) -> dict[str, JsonValue]:
    advice = for_page(finding.advice)
    if finding.check == "key":
        advice = f"Type it into the form. {advice}"
    return {**finding.to_json(), "advice": advice}
