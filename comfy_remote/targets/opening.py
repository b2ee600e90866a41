"""From a name or an address to a target that can be opened; see `kinds` for what it may be."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ..config.environment import withheld
from ..config.folders import CONFIG_NAME
from ..config.settings import Configuration
from ..config.target_settings import TargetSettings
from ..errors import ConfigurationError, NotTrusted
from ..net.address import shown
from ..workflow.change.values import did_you_mean
from .kinds import (
    Choose,
    Kind,
    forms,
    kind_of,
    kinds,
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
    settings = configuration.settings_of(wanted)
    if settings is None and kind_of(wanted) is not None:
        settings = TargetSettings(wanted)
    if settings is not None:
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
    kind = kind_of(wanted)
    if kind is not None and (target := kind.reopen(wanted, details, look=look)) is not None:
        return target
    today = Configuration.load(folder, file=config).settings_of(wanted) or TargetSettings(wanted)
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
