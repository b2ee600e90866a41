"""What a worker's engine has, as a gateway wants to know it for the choice of its jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..targets.comfyui.target import ComfyUITarget
from ..wire.joined import HELLO_LIMIT, LONGEST_NAME, MOST_NAMES, Report
from ..workflow.paid_nodes import is_paid
from ..workflow.schema import Schemas
from .engine import Engine
from .model_actions import models_listed

__all__ = ["EngineReport"]


class EngineReport:
    """Asks an engine. Called, it gives a `Report`.

    Args:
        labels: What its owner says of the worker.
        fetches_models: Whether it may fetch models for a job.
    """

    def __init__(
        self,
        engine: Engine,
        labels: Sequence[str] = (),
        *,
        fetches_models: bool = False,
        connect: Callable[[str], ComfyUITarget] = ComfyUITarget,
    ) -> None:
        self._engine = engine
        self._labels = sorted(set(labels))
        self._fetches_models = fetches_models
        self._connect = connect

    async def __call__(self) -> Report:
        """What it has now, once it runs. What it does not say stays unknown.

        Raises:
            ComfyRemoteError: It cannot be asked.
        """
        async with self._connect(await self._engine.ready()) as target:
            found = await target.describe()
            models = await models_listed(target)
        device = found.device or ""
        on_gpu = not device.lower().startswith("cpu")
        nodes = found.nodes or {}
        schemas = Schemas(nodes, "the worker's engine")
        names = [f"{folder}/{name}" for folder, some in models.items() for name in some]
        return Report(
            engine=found.engine or "",
            device=device,
            nodes=_names(nodes) if nodes else None,
            models=_names(names) if models else None,
            # On a CPU, ComfyUI says there how much main memory there is.
            memory=found.memory_total if on_gpu else 0,
            labels=self._labels,
            fetches_models=self._fetches_models,
            paid=_names(name for name in nodes if is_paid(schemas, name)) or [],
        )


def _names(found: Iterable[str]) -> list[str] | None:
    """Names for a report; ``None`` if they are more than it may have: part of them would say that
    the rest is not there.
    """
    names = sorted({name for name in found if 0 < len(name) <= LONGEST_NAME})
    too_many = len(names) > MOST_NAMES or sum(map(len, names)) > HELLO_LIMIT // 4
    return None if too_many else names
