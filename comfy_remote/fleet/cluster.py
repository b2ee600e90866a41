"""Ray: machines, actors, and what is asked of its autoscaler.

Facts: docs.ray.io 2.60. A detached actor with ``max_restarts=-1`` is made again by Ray wherever
there is room, with the arguments that it had; without task retries, no call is repeated. Each
machine has a label ``ray.io/node-id``, and the head a resource ``node:__internal_head__``.
`request_resources` holds until it is called again. By trying, 2.60: a cluster with
``RAY_AUTH_MODE=token`` answers nobody without the token; `ray.nodes` takes less than 1 ms.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..aio import within
from ..clean import one_line
from ..errors import ComfyRemoteError, ConfigurationError
from ..secrets import redact
from ..version import __version__

if TYPE_CHECKING:
    from .settings import FleetSettings

__all__ = ["HEAD", "Cluster", "Node", "Unanswered", "is_worker_of"]

_AUTHENTICATION = "RAY_AUTH_MODE"
_HOW_TO_AUTHENTICATE = (
    "Make a token once (ray get-auth-token --generate), copy ~/.ray/auth_token to each machine, "
    "and set RAY_AUTH_MODE=token there and here, before `ray start`. docs/fleet.md shows it."
)
HEAD = "head"
_WORKER = "worker-"
_HEAD_RESOURCE = "node:__internal_head__"
_NOT_MADE = "error raised in its creation task"  # so Ray's ActorDiedError says
_MACHINE = re.compile(r"\bip=([0-9A-Fa-f.:]+)")
_TRIES = 20
_TRY_AGAIN = 0.25
_PROBE_PATIENCE = 30.0
_ANSWER_PATIENCE = 5.0


class Unanswered(Exception):
    """An actor does not answer: it is not placed, starts again, or its machine is away."""


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster.

    Attributes:
        id: New whenever Ray is started there.
        gpus: As Ray counts them.
    """

    id: str
    host: str
    address: str
    gpus: float
    alive: bool


class Cluster:
    """A connection to a Ray cluster, and to one fleet in it.

    Only `connect` makes one; an actor of the fleet is connected already, and uses `here`.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._asked: dict[tuple[str, str], asyncio.Future[Any]] = {}
        self._made: dict[str, Future[Any]] = {}

    @classmethod
    def connect(
        cls, address: str, namespace: str, environ: Mapping[str, str] = os.environ
    ) -> Cluster:
        """Connect this process. Blocking.

        Args:
            address: ``auto`` for the cluster that this machine is in, or ``HOST:PORT`` of its head.

        Raises:
            ConfigurationError: Ray is not installed, there is no such cluster, it takes whoever
                comes, its token is another one, or its Ray or Python are other versions.
        """
        if environ.get(_AUTHENTICATION, "").strip().lower() != "token":
            raise ConfigurationError(
                "Ray's token authentication is not on (RAY_AUTH_MODE=token): without it, whoever "
                "reaches a machine of the cluster can run programs there.",
                advice=_HOW_TO_AUTHENTICATE,
            )
        try:
            import ray
            from ray.exceptions import RayError
        except ImportError as error:
            raise ConfigurationError(
                "Ray is not installed here.",
                advice='In Comfy Remote\'s folder: pip install ".[ray]".',
            ) from error
        _check_it_is_closed(address, environ)
        try:
            ray.init(
                address=address,
                namespace=namespace,
                log_to_driver=False,
                configure_logging=False,
            )
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            raise _no_cluster(address, " ".join(str(error).split())) from error
        return cls(namespace)

    @classmethod
    def here(cls) -> Cluster:
        """The cluster and the fleet of the actor that calls."""
        import ray

        return cls(str(ray.get_runtime_context().namespace))

    def close(self) -> None:
        """Disconnect. The fleet stays."""
        import ray

        ray.shutdown()

    def nodes(self) -> list[Node]:
        """The machines that are, or were, in the cluster. Blocking."""
        import ray

        return [
            Node(
                id=one["NodeID"],
                host=one.get("NodeManagerHostname") or one.get("NodeName") or "",
                address=one.get("NodeManagerAddress") or "",
                gpus=float(one.get("Resources", {}).get("GPU", 0)),
                alive=bool(one["Alive"]),
            )
            for one in ray.nodes()  # type: ignore[no-untyped-call]
        ]

    def own_node(self) -> str:
        """The id of the machine that the calling actor is on."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def own_id(self) -> str:
        """The id of the calling actor, which it keeps when Ray makes it again."""
        import ray

        return str(ray.get_runtime_context().get_actor_id())

    def own_gpus(self) -> list[str]:
        """Ids of the GPUs that the calling actor was given."""
        import ray

        return list(ray.get_runtime_context().get_accelerator_ids().get("GPU", []))

    def workers(self) -> list[str]:
        """Ids of the fleet's workers, placed or not. Blocking."""
        return [name for name in self._named() if name.startswith(_WORKER)]

    def has_head(self) -> bool:
        """Whether the fleet has a head. Blocking."""
        return HEAD in self._named()

    def start_worker(self, settings: FleetSettings, leaving: Collection[str] = ()) -> str:
        """Have one more worker, as soon as there is room; its id. Blocking, but for the room.

        Args:
            leaving: Ids of machines where it may not be.
        """
        import ray

        from .actors import WorkerActor

        name = f"{_WORKER}{settings.digest}-{uuid.uuid4().hex[:12]}"
        workers = settings.workers
        elsewhere = {"ray.io/node-id": f"!in({','.join(sorted(leaving))})"} if leaving else {}
        made: Any = (
            ray.remote(WorkerActor)
            .options(
                name=name,
                namespace=self._namespace,
                lifetime="detached",
                num_cpus=0,
                num_gpus=workers.gpus,
                resources=dict(workers.resources),
                label_selector=elsewhere,
                max_restarts=-1,
                max_task_retries=0,
                max_concurrency=4,
            )
            .remote(settings.model_dump_json(), __version__)
        )
        self._made[name] = made.status.remote().future()
        return name

    def unmade(self) -> dict[str, str]:
        """Workers that were started here and could not be made, with why: Ray drops those, where
        it makes one whose process dies again. Each is given once.
        """
        from ray.exceptions import ActorDiedError

        found = {}
        for name, made in list(self._made.items()):
            if made.done():
                del self._made[name]
                error = None if made.cancelled() else made.exception()
                if isinstance(error, ActorDiedError) and _NOT_MADE in str(error):
                    where = _MACHINE.search(str(error))
                    found[name] = f"{where[1]}: {_said(error)}" if where else _said(error)
        return found

    def start_head(self, settings: FleetSettings) -> None:
        """Have a head with these settings, in place of the one that there is. Blocking.

        Raises:
            ConfigurationError: Others do the same all the time.
        """
        for _ in range(_TRIES):
            self.end(HEAD)
            try:
                self._make_head(settings)
            except ValueError:  # somebody else has made one
                time.sleep(_TRY_AGAIN)
            else:
                return
        raise ConfigurationError(
            "Somebody else starts this fleet at the same time.",
            advice="Look at it (fleet status), then start it again if it is not what it should be.",
        )

    def _make_head(self, settings: FleetSettings) -> None:
        import ray

        from .actors import HeadActor

        ray.remote(HeadActor).options(
            name=HEAD,
            namespace=self._namespace,
            lifetime="detached",
            num_cpus=0,
            resources={_HEAD_RESOURCE: 0.001},
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=16,
        ).remote(settings.model_dump_json(), __version__)

    async def ask_head(self, method: str, *arguments: str, patience: float = 20.0) -> str:
        """What a method of the head's gives.

        Raises:
            Unanswered: It does not answer.
        """
        return await self.ask(HEAD, method, *arguments, patience=patience)

    async def ask(
        self, name: str, method: str, *arguments: str, patience: float = _ANSWER_PATIENCE
    ) -> str:
        """What a method of an actor's gives. A question that is on its way is not asked twice: who
        asks again gets the answer to the first.

        Raises:
            Unanswered: It does not answer.
        """
        import ray
        from ray.exceptions import RayError

        key = (name, method)
        waiting = self._asked.get(key)
        if waiting is None:
            try:
                actor = ray.get_actor(name, self._namespace)
            except ValueError as error:
                raise Unanswered(f"There is no {name}.") from error
            reference = getattr(actor, method).remote(*arguments)
            waiting = asyncio.wrap_future(reference.future())
            waiting.add_done_callback(_retrieved)
            self._asked[key] = waiting
        try:
            answer = await within(asyncio.shield(waiting), patience)
        except (asyncio.TimeoutError, RayError) as error:
            raise Unanswered(f"{name} does not answer: {_said(error)}.") from error
        finally:
            if waiting.done():
                self._asked.pop(key, None)
        return "" if answer is None else str(answer)

    def end(self, name: str) -> None:
        """End an actor for good; what it runs ends with it. Blocking."""
        import ray

        try:
            actor = ray.get_actor(name, self._namespace)
        except ValueError:
            return  # it has gone
        ray.kill(actor, no_restart=True)

    def request(self, workers: int, settings: FleetSettings) -> None:
        """Have Ray's autoscaler make room for so many workers; 0 for no more than is used."""
        from ray.autoscaler.sdk import request_resources

        own = settings.workers
        bundle = {**own.resources, **({"GPU": own.gpus} if own.gpus else {})}
        request_resources(bundles=[bundle] * workers if bundle else [])

    def _named(self) -> Sequence[str]:
        import ray

        found = ray.util.list_named_actors(all_namespaces=True)
        return [one["name"] for one in found if one["namespace"] == self._namespace]


def is_worker_of(settings: FleetSettings, name: str) -> bool:
    """Whether a worker of the fleet is what its settings say now."""
    return name.startswith(f"{_WORKER}{settings.digest}-")


def _retrieved(asked: asyncio.Future[Any]) -> None:
    """So that asyncio does not log an answer that nobody has waited for."""
    if not asked.cancelled():
        asked.exception()


def _said(error: BaseException) -> str:
    """What went wrong in an actor, without Ray's account of where; in one line."""
    from ray.exceptions import RayTaskError

    if isinstance(error, asyncio.TimeoutError):
        return "it takes too long"
    cause = error.cause if isinstance(error, RayTaskError) else None
    if isinstance(cause, ComfyRemoteError):
        return f"{cause.message} {cause.advice}".strip()
    lines = str(error).strip().splitlines()
    return one_line(redact(lines[-1] if lines else type(error).__name__))[:500].rstrip(".")


def _check_it_is_closed(address: str, environ: Mapping[str, str]) -> None:
    """Find out that a cluster answers whoever has the token, and nobody else. Blocking.

    Raises:
        ConfigurationError: It does not.
    """
    names = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
    nobody = {name: value for name, value in environ.items() if name not in names}
    with ThreadPoolExecutor(2) as threads:  # each takes seconds
        with_none = threads.submit(_asked, address, {**nobody, _AUTHENTICATION: "disabled"})
        with_ours = threads.submit(_asked, address, environ)
    if (refusal := with_none.result()) is None:
        raise ConfigurationError(
            "The Ray cluster was started without a token: whoever reaches one of its machines can "
            "run programs there.",
            advice=f"Stop it on each machine (ray stop). {_HOW_TO_AUTHENTICATE}",
        )
    if (said := with_ours.result()) is not None:
        raise _no_cluster(address, said)
    if not _is_refusal(refusal):  # it may take whoever comes
        raise _no_cluster(address, refusal)


def _asked(address: str, environ: Mapping[str, str]) -> str | None:
    """What Ray says where a cluster does not answer with such an environment. Blocking."""
    where = [] if address == "auto" else ["--address", address]
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--skip-version-check"]
    try:
        asked = subprocess.run(
            [*command, *where],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_PROBE_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it did not answer within {_PROBE_PATIENCE:.0f} s"
    return None if asked.returncode == 0 else asked.stdout[-4000:].decode(errors="replace")


def _is_refusal(said: str) -> bool:
    return "InvalidAuthToken" in said or "uthenticat" in said


def _no_cluster(address: str, said: str) -> ConfigurationError:
    """The error for what Ray says."""
    if "ersion mismatch" in said:
        return ConfigurationError(
            f"This machine and the Ray cluster have different versions: {said}",
            advice="Ray and Python have to be the same on all machines, to the last digit of Ray.",
        )
    if _is_refusal(said):
        return ConfigurationError(
            "The Ray cluster does not take this machine's token, or this machine has none.",
            advice=_HOW_TO_AUTHENTICATE,
        )
    where = "this machine is in" if address == "auto" else f"at {address}"
    words = said.strip().splitlines()
    return ConfigurationError(
        f"There is no Ray cluster {where}: {one_line(words[-1] if words else 'no answer')[:300]}",
        advice="Start one with `ray start` on its head, or give the address of its head.",
    )
