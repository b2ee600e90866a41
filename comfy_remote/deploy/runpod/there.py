"""What an account has, and which of it is a deployment's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from ...aio import Background
from ...errors import AuthenticationError, ConfigurationError, TargetError
from ...targets.runpod.account import RunPodAccount
from ...wire.runpod_endpoints import RestEndpoint
from ...wire.runpod_prices import RestGpu
from ...wire.runpod_registries import RestRegistry
from ...wire.runpod_volumes import RestDataCenter, RestVolume
from .mark import MARK_VARIABLE, Mark
from .record import Made

__all__ = ["Ours", "There", "endpoints_named", "look", "mark_of", "volumes_named"]


@dataclass(frozen=True, slots=True)
class There:
    """What an account has, and what RunPod has for it.

    Attributes:
        registries: Logins for image registries; ``None`` where they are not shown.
    """

    endpoints: Sequence[RestEndpoint] = ()
    volumes: Sequence[RestVolume] = ()
    gpus: Sequence[RestGpu] = ()
    centers: Sequence[RestDataCenter] = ()
    registries: Sequence[RestRegistry] | None = None

    def registry(self, called: str) -> RestRegistry:
        """The login for image registries of that name, or with that id.

        Raises:
            ConfigurationError: The account has none, or several.
        """
        if self.registries is None:
            raise ConfigurationError(
                "RunPod does not show this account's logins for image registries.",
                advice="The key has to be one that may read them.",
            )
        found = [one for one in self.registries if called in (one.id, one.name)]
        if len(found) == 1:
            return found[0]
        there = ", ".join(f"{one.name} ({one.id})" for one in found or self.registries)
        raise ConfigurationError(
            f"This RunPod account has {'several logins' if found else 'no login'} {called!r} for "
            "image registries.",
            advice=f"It has {there}."
            if there
            else "Make one in RunPod's console (Settings > Container Registry Auth), with the "
            "registry's user name and a token that may pull.",
        )


@dataclass(frozen=True, slots=True)
class Ours:
    """What of it is one deployment's.

    Attributes:
        doubles: Others that carry its name: copied in the console, or made by two machines at
            once.
    """

    endpoint: RestEndpoint | None
    volume: RestVolume | None
    doubles: tuple[str, ...] = ()

    @classmethod
    def among(cls, there: There, name: str, made: Made | None) -> Ours:
        """What carries a deployment's mark.

        Of several endpoints, it is the one that was made from here, else the oldest; of several
        volumes, the one that this endpoint has, else the one that was made from here.

        Args:
            made: What this machine's record says.
        """
        endpoints = endpoints_named(there.endpoints, name)
        if made is not None:
            # Made from here; its mark cannot be read, but may be there.
            hidden = (one for one in there.endpoints if one.id == made.endpoint)
            endpoints += [one for one in hidden if _hides_its_mark(one)]
        volumes = volumes_named(there.volumes, name)
        recorded = [one for one in endpoints if made is not None and one.id == made.endpoint]
        endpoint = next(iter([*recorded, *endpoints]), None)
        attached = [one for one in volumes if endpoint and one.id in (endpoint.volumes or [])]
        recorded_volumes = [one for one in volumes if made is not None and one.id == made.volume]
        volume = next(iter([*attached, *recorded_volumes, *volumes]), None)
        others = [
            *(f"the endpoint {one.id}" for one in endpoints if one is not endpoint),
            *(f"the volume {one.id} in {one.center}" for one in volumes if one is not volume),
        ]
        return cls(endpoint, volume, tuple(others))


async def look(account: RunPodAccount, made: Made | None = None) -> There:
    """All of it, asked side by side. Raises as the account.

    Args:
        made: What this machine's record says. A list may be a moment behind: what is on record and
            not in it is asked for by itself, so that it is not made a second time.
    """
    asking = Background()
    try:
        endpoints, volumes, gpus, centers, registries = await asyncio.gather(
            asking.start(account.endpoints()),
            asking.start(account.volumes()),
            asking.start(account.gpus()),
            asking.start(account.data_centers()),
            asking.start(_registries(account)),
        )
    finally:
        await asking.stop()  # one has failed: the others must not outlive the account's session
    recorded = made or Made(name="", nonce="")
    if recorded.endpoint and all(one.id != recorded.endpoint for one in endpoints):
        endpoint = await account.endpoint(recorded.endpoint)
        endpoints += [endpoint] if endpoint is not None else []
    if recorded.volume and all(one.id != recorded.volume for one in volumes):
        volume = await account.volume(recorded.volume)
        volumes += [volume] if volume is not None else []
    return There(endpoints, volumes, gpus, centers, registries)


async def _registries(account: RunPodAccount) -> list[RestRegistry] | None:
    """Few have any, and a key need not be allowed to see them."""
    try:
        return await account.registries()
    except (AuthenticationError, TargetError):
        return None


def mark_of(endpoint: RestEndpoint) -> Mark | None:
    """The mark that an endpoint carries."""
    return Mark.parse((endpoint.env or {}).get(MARK_VARIABLE, ""))


def _hides_its_mark(endpoint: RestEndpoint) -> bool:
    """Whether RunPod does not show what the variables of an endpoint are, or this one of them."""
    return endpoint.env is None or "***" in endpoint.env.get(MARK_VARIABLE, "")


def endpoints_named(endpoints: Sequence[RestEndpoint], name: str) -> list[RestEndpoint]:
    """Those of a deployment, the oldest first."""
    found = [one for one in endpoints if (mark := mark_of(one)) is not None and mark.name == name]
    return sorted(found, key=lambda one: (one.created, one.id))


def volumes_named(volumes: Sequence[RestVolume], name: str) -> list[RestVolume]:
    """Those of a deployment, by id."""
    found = [
        one
        for one in volumes
        if (mark := Mark.of_volume(one.name)) is not None and mark.name == name
    ]
    return sorted(found, key=lambda one: one.id)
