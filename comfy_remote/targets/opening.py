"""From a name or an address to a target that can be opened; see `kinds` for what it may be."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ..config.environment import withheld
from ..config.folders import CONFIG_NAME
from ..config.settings import Configuration
from ..config.target_settings import TargetSettings
from ..errors import ConfigurationError, NotTrusted
from ..net.address import shown
from ..workflow.change.values import did_you_mean
from .kinds import (
    MEMBER_KEY,
    Choose,
    Kind,
    Member,
    billing_of,
    forms,
    kind_of,
    kinds,
    members_of,
    secret_variables,
    sent_to,
    typed_target,
    whose_secret,
)

if TYPE_CHECKING:
    from pathlib import Path

    from .base import RemoteRef, Target

__all__ = ["needs_key", "open_target", "refuse_secret_elsewhere", "reopen"]


def open_target(
    wanted: str,
    configuration: Configuration | None = None,
    environment: Mapping[str, str] = os.environ,
    *,
    choose: Choose | None = None,
) -> Target:
    """The target that a name or an address means. Nothing is sent yet.

    Args:
        configuration: What the names mean; read from the files by default.
        choose: Asked which pod ``pod:auto`` is, if several run.

    Raises:
        ConfigurationError: It means nothing, or a key is missing.
        NotTrusted: It, or the key, is named by a folder's file that is not trusted.
    """
    configuration = configuration or Configuration.load()
    wanted = typed_target(wanted)
    settings = _settings_of(wanted, configuration)
    if settings is not None:
        members = _members(wanted, settings, configuration, environment, choose)
        kind = kind_of(settings.target)
        if kind is not None and members:
            return kind.open_among(wanted, settings, members)
        return _open(wanted, settings, environment, choose)
    known = ", ".join(sorted(configuration.targets)) or "none"
    near = did_you_mean(wanted, configuration.targets)
    hints = [hint for kind in kinds() if (hint := kind.hint(wanted))]
    raise ConfigurationError(
        f"There is no target {shown(wanted)!r} in {CONFIG_NAME}. Configured: {known}.{near}",
        advice=" ".join([*hints, f"Name it in {CONFIG_NAME}, or use one of: {forms()}."]),
    )


def needs_key(settings: TargetSettings, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a target cannot be used without its secrets."""
    kind = kind_of(settings.target)
    if kind is None:
        return bool(secret_variables(settings))
    return kind.needs_key(settings, environment)


def reopen(
    wanted: str,
    ref: RemoteRef | None,
    environment: Mapping[str, str] = os.environ,
    *,
    config: Path | str | None = None,
    folder: Path | None = None,
    look: bool = False,
) -> Target:
    """The target of a job in the record: where it was sent, whatever the name means today.

    The key that a name has today goes only to the address that the name has today.

    Args:
        ref: What the target said of it; ``None`` if it said nothing.
        config, folder: Where names are looked up: see `Configuration.load`.
        look: Only to see how the job stands: closing the target ends nothing.
    """
    details = ref.details if ref is not None else {}
    member, kind = details.get(MEMBER_KEY), kind_of(wanted)
    target = None
    if member is None and kind is not None:
        target = kind.reopen(wanted, details, look=look)
    if target is not None:
        return target
    configuration = Configuration.load(folder, file=config)
    if ref is not None and member is not None:
        plain = replace(ref, details={k: v for k, v in details.items() if k != MEMBER_KEY})
        there = reopen(member, plain, environment, config=config, folder=folder, look=look)
        try:
            route = _route(wanted, configuration, environment, {member: there}, look=look)
        except ConfigurationError:
            route = None  # it cannot go on to another, but the job is where it was sent
        return route or there
    if (route := _route(wanted, configuration, environment, {}, look=look)) is not None:
        return route
    today = configuration.settings_of(wanted) or TargetSettings(wanted)
    sent = sent_to(details) or today
    kind = kind_of(sent.target)
    if kind is not None and (target := kind.reopen(wanted, details, look=look)) is not None:
        return target
    named = kind_of(today.target) if secret_variables(today) or today.ca_file else None
    if named is not None and named.same_server(today, sent, environment):
        # What was sent by one kind may be found by another: a machine's address is a ComfyUI's.
        login = today if named is kind else named.with_variables(today)
        sent = replace(login, target=sent.target, base_url=sent.base_url)
    return _open(wanted, sent, environment)


def _settings_of(name: str, configuration: Configuration) -> TargetSettings | None:
    """The settings of a name or an address; ``None`` of what means nothing."""
    settings = configuration.settings_of(name)
    if settings is None and kind_of(name) is not None:
        return TargetSettings(name)
    return settings


def _route(
    wanted: str,
    configuration: Configuration,
    environment: Mapping[str, str],
    sent: Mapping[str, Target],
    *,
    look: bool,
) -> Target | None:
    """The target that chooses among others, for a job that it has sent; ``None`` if it is none."""
    settings = _settings_of(wanted, configuration)
    kind = None if settings is None else kind_of(settings.target)
    if settings is None or kind is None or not kind.members(settings):
        return None
    members = _members(wanted, settings, configuration, environment, None)
    return kind.open_among(
        wanted,
        settings,
        members,
        sent=sent,
        elsewhere=partial(open_target, configuration=configuration, environment=environment),
        look=look,
    )


def _members(
    name: str,
    settings: TargetSettings,
    configuration: Configuration,
    environment: Mapping[str, str],
    choose: Choose | None,
) -> list[Member]:
    """The targets that one chooses among; usually none.

    Raises:
        ConfigurationError: One means nothing, or chooses among others itself.
        NotTrusted: One is named by a folder's file that is not trusted.
    """
    path = configuration.origins.get(name)
    where = f" in {path}" if path is not None else ""
    members = []
    for member in members_of(settings):
        found = _settings_of(member, configuration)
        kind = None if found is None else kind_of(found.target)
        if found is None or kind is None:
            known = ", ".join(sorted(configuration.targets)) or "none"
            near = did_you_mean(member, configuration.targets)
            raise ConfigurationError(
                f"The route {shown(name)!r}{where} names {shown(member)!r}, which is not a target. "
                f"Configured: {known}.{near}",
                advice=f"Name it in {CONFIG_NAME}, or use one of: {forms()}.",
            )
        if kind.members(found):
            raise ConfigurationError(
                f"The route {shown(name)!r}{where} names {shown(member)!r}, which is a route "
                "itself.",
                advice="Name the targets of that route instead.",
            )
        billed = billing_of(found, environment) is not None
        opening = partial(_open, member, found, environment, choose)
        members.append(Member(member, found, kind, billed, opening))
    return members


def _open(
    name: str,
    settings: TargetSettings,
    environment: Mapping[str, str],
    choose: Choose | None = None,
) -> Target:
    kind = kind_of(settings.target)
    if kind is None:
        raise ConfigurationError(
            f"The target {name!r} points to {settings.target!r}, which is no target's address.",
            advice=f"Use one of: {forms()}.",
        )
    if refused := _withheld(kind, settings, environment):
        raise refused
    refuse_secret_elsewhere(name, settings, environment)
    return kind.open(name, settings, environment, choose)


def _withheld(
    kind: Kind, settings: TargetSettings, environment: Mapping[str, str]
) -> NotTrusted | None:
    """The error if what a target lacks is set in a ``.env`` that is not trusted."""
    lacking = kind.lacking(settings, environment)
    return withheld(lacking, environment) if lacking else None


def refuse_secret_elsewhere(
    name: str, settings: TargetSettings, environment: Mapping[str, str] = os.environ
) -> None:
    """See that no configuration file (it may be a stranger's) sends a provider's key elsewhere.

    Raises:
        ConfigurationError: It would.
    """
    kind = kind_of(settings.target)
    if kind is None:
        return
    for variable in secret_variables(settings):
        owner = whose_secret(variable)
        server = kind.server(settings, environment)
        if owner is None or (server is None and owner is kind):
            continue
        if server is None or not owner.is_own_server(server, environment):
            from yarl import URL

            where = URL(server).host if server is not None else settings.target
            raise ConfigurationError(
                f"The target {name!r} would send {variable} to {where}.",
                advice=owner.own_domain,
            )
