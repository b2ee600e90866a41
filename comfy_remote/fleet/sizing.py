"""How many workers a fleet should have, which of them end, and who is surely gone. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from .settings import WorkersSettings

__all__ = ["Decision", "GatewayView", "GatewayWorker", "Member", "decide", "lost"]


@dataclass(frozen=True, slots=True)
class GatewayWorker:
    """What the gateway says of a worker.

    Attributes:
        state: As in ``comfy-remote workers list``: ``idle``, ``running``, ``silent``, …
        seconds: How long it has been in that state; ``None`` if that is not known.
    """

    state: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class GatewayView:
    """What the gateway says of its queue.

    Attributes:
        waiting: Jobs that wait.
        running: Jobs that run, on any worker.
        workers: All of them, by name.
    """

    waiting: int
    running: int
    workers: Mapping[str, GatewayWorker] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Member:
    """A worker of the fleet.

    Attributes:
        id: Of its actor.
        name: At the gateway; empty before it has one.
        node: The id of its machine in the cluster; empty before it is placed.
        state: As in `worker.WorkerStatus`; ``unplaced`` before it has said anything.
        is_current: Whether it is what the settings say.
    """

    id: str
    name: str = ""
    node: str = ""
    state: str = "unplaced"
    is_current: bool = True

    @property
    def stays(self) -> bool:
        """Whether it takes jobs, or will."""
        return self.state not in ("draining", "ended")


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done.

    Attributes:
        wanted: How many workers there should be.
        start: How many to create.
        drain: Ids of those that take no further job, and end.
        remove: Ids of those that run nothing: ended, or not placed and not needed.
    """

    wanted: int
    start: int = 0
    drain: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


def decide(
    settings: WorkersSettings,
    members: Sequence[Member],
    view: GatewayView | None,
    *,
    leaving: Collection[str] = (),
) -> Decision:
    """What is to be done about the number of workers.

    Args:
        view: ``None`` where the gateway does not answer: then nothing is started or ended for its
            queue.
        leaving: Ids of machines that are to have no workers.
    """
    ended = tuple(one.id for one in members if one.state == "ended")
    stays = [one for one in members if one.stays and one.node not in leaving]
    drain = [one.id for one in members if one.stays and one.node and one.node in leaving]
    if view is None:
        wanted = max(settings.min, min(len(stays), settings.max))
    else:
        wanted = max(settings.min, min(view.waiting + view.running, settings.max))
    surplus = len(stays) - wanted
    remove: list[str] = []
    if surplus > 0:
        unplaced = [one.id for one in stays if one.state == "unplaced"]
        remove = unplaced[:surplus]
        surplus -= len(remove)
    if surplus > 0 and view is not None:
        drain += [one.id for one in _idlest(stays, view, settings.idle)[:surplus]]
    if not drain and not any(one.state == "draining" for one in members):
        drain += _next_to_replace(stays, view)
    left = [one for one in stays if one.id not in remove and one.id not in drain]
    return Decision(wanted, max(0, wanted - len(left)), tuple(drain), (*ended, *remove))


def _idlest(members: Sequence[Member], view: GatewayView, idle: float) -> list[Member]:
    """Those without a job for so long, the longest first; at the head, those that cannot work."""
    found: list[tuple[float, Member]] = []
    for one in members:
        at_gateway = view.workers.get(one.name)
        if one.state == "failed":
            found.append((float("inf"), one))
        elif at_gateway is not None and at_gateway.state == "idle":
            found.append((at_gateway.seconds or 0.0, one))
    long_enough = [each for each in found if each[0] >= idle]
    return [one for _, one in sorted(long_enough, key=lambda each: -each[0])]


def _next_to_replace(members: Sequence[Member], view: GatewayView | None) -> list[str]:
    """One that is not what the settings say, machine by machine; those without a job first."""
    workers = {} if view is None else view.workers

    def busy(one: Member) -> bool:
        at_gateway = workers.get(one.name)
        return at_gateway is not None and at_gateway.state == "running"

    old = [one for one in members if not one.is_current and one.state != "unplaced"]
    return [one.id for one in sorted(old, key=lambda one: (busy(one), one.node, one.id))[:1]]


def lost(
    view: GatewayView,
    members: Sequence[Member],
    nodes: Collection[str],
    prefix: str,
    known: Collection[str] = (),
) -> set[str]:
    """The names of the fleet's workers at the gateway that no machine of the cluster has.

    One whose machine is out of the cluster ends by itself (`membership`): who has been here for as
    long as that takes is gone for certain.

    Args:
        nodes: Ids of the machines that are in the cluster.
        prefix: What the names of the fleet's workers begin with.
        known: Names that workers of the fleet have had. Another with that prefix may be somebody's
            who has started it by hand: the gateway has to miss it as well.
    """
    claimed = {one.name for one in members if one.node in nodes}
    return {
        name
        for name, one in view.workers.items()
        if ((one.state == "silent" and name.startswith(prefix)) or name in known)
        and name not in claimed
    }
