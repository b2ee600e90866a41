"""The target of a deployment, in the owner's own file: put there once it is made, taken out again.

Blocking.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...config.own_file import OwnFile
from ...config.settings import Configuration
from ...config.target_settings import TargetSettings
from .carrying import Deployed
from .steps import Plan

__all__ = ["OwnTarget", "forget_target", "remember_target"]


@dataclass(frozen=True, slots=True)
class OwnTarget:
    """What has become of a deployment's target.

    Attributes:
        name: By which it is chosen: the target's name, or the endpoint's address where the file
            has another target of that name; ``None`` if there is none, or none was removed.
        said: A sentence for people; empty if nothing has changed.
    """

    name: str | None = None
    said: str = ""


def remember_target(name: str, deployed: Deployed, *, first_is_default: bool = False) -> OwnTarget:
    """Write a deployment's endpoint into the owner's file.

    Args:
        first_is_default: Whether it becomes the default where the file has none.

    Raises:
        ConfigurationError: The file has a mistake.
        LocalStorageError: It cannot be written.
    """
    endpoint, volume = deployed.endpoint, deployed.volume
    if endpoint is None:
        return OwnTarget()
    address = f"runpod:{endpoint.id}"
    configuration = Configuration.load()
    with OwnFile.changing() as own:
        before = configuration.own_targets.get(name) if name in own.targets else None
        if name in own.targets and (before is None or before.target != address):
            said = f"{own.path} has another target {name}, which stays. The endpoint is {address}."
            return OwnTarget(address, said)
        settings = before or TargetSettings(address)
        if volume is not None and volume.id in (endpoint.volumes or []):
            called = f"{volume.id}@{volume.center}"
            if not (settings.volume or "").startswith(called):
                settings = replace(settings, volume=called)
        if settings == before:
            return OwnTarget(name)
        own.put(name, settings)
        if first_is_default and own.default is None:
            own.make_default(name)
    return OwnTarget(name, f"{own.path} has the target {name}.")


def forget_target(name: str, plan: Plan) -> OwnTarget:
    """Take a removed endpoint out of the owner's file, if it is there under that name.

    Args:
        plan: That was carried out.

    Raises: as `remember_target`.
    """
    kinds = ("endpoint", "target")
    gone = {f"runpod:{step.id}" for step in plan.changes if step.kind in kinds}
    settings = Configuration.load().own_targets.get(name)
    if settings is None or settings.target not in gone:
        return OwnTarget()
    with OwnFile.changing() as own:
        if name not in own.targets:
            return OwnTarget()
        if routes := own.routes_with(name):
            said = f"The target {name} stays in {own.path}: the route {routes[0]} names it."
            return OwnTarget(said=said)
        own.remove(name)
    return OwnTarget(name, f"The target {name} is removed from {own.path}.")
