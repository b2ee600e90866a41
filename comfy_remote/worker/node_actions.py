"""Jobs about the node packs of a worker: ``install_nodes``, ``nodes``, ``rollback_nodes``."""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Mapping

from pydantic import JsonValue

from ..errors import ConfigurationError
from ..wire.nodes import NodesAnswer, NodesRequest
from .engine import Engine
from .nodes.requirements import find_uv
from .nodes.sets import NodeSets
from .nodes.steps import said_again
from .progress import ProgressReporter, Report
from .settings import WorkerSettings

__all__ = ["act_on_nodes", "nodes_of", "why_no_nodes"]


def nodes_of(
    settings: WorkerSettings, environ: Mapping[str, str] = os.environ, name: str = ""
) -> NodeSets | None:
    """The node packs that jobs bring to a worker.

    Args:
        name: The worker's, where its settings have none.
    """
    if settings.nodes is None:
        return None
    name = settings.worker or name or platform.node() or "another worker"
    return NodeSets(settings.nodes, worker=name, environ=environ)


def why_no_nodes(engine: Engine) -> str:
    """Why jobs can bring no node packs to a started engine; empty if they can. Blocking."""
    choice = engine.choice
    if choice is None or choice.program is None:
        if choice is not None and choice.command:
            return "its engine is the sandbox, which has nodes of its own and imports no packs"
        return "its ComfyUI was started by somebody else, so the worker cannot start it again"
    if engine.nodes is None:
        return "its node packs belong to its image"
    if not engine.nodes.settings.allow:
        return engine.nodes.settings.why_not or (
            "the worker's owner has not allowed it: a pack is code (ALLOW_NODE_INSTALL=true allows "
            "it)"
        )
    if find_uv() is None:
        return "uv, which installs what packs require, is missing beside it: pip install uv"
    return ""


async def act_on_nodes(engine: Engine, payload: JsonValue, report: Report) -> NodesAnswer:
    """Do what a job about node packs asks for. After a change, the engine is started again.

    Raises:
        WorkflowInvalid: The request is not valid. Nothing was done.
        ConfigurationError: No packs can be installed here, or may not.
        NodesUnavailable: A pack cannot be had, or ComfyUI does not work with it.
        LocalStorageError: The disk is full, or cannot be written to.
    """
    request = NodesRequest.parse(payload)
    await engine.ready()
    why = await asyncio.to_thread(why_no_nodes, engine)
    choice, sets = engine.choice, engine.nodes
    if request.action == "nodes":
        if sets is None or choice is None or choice.program is None:
            return NodesAnswer(notes=[f"No node packs can be brought here: {why}."])
        return await asyncio.to_thread(sets.answer)
    if why or sets is None or choice is None or choice.program is None:
        raise ConfigurationError(
            f"This worker installs no node packs: {why}.",
            advice="The worker's owner can change that, or installs the packs.",
        )

    async with (
        ProgressReporter(report) as reporter,
        said_again(reporter.say) as say,
    ):

        async def start() -> None:
            say("Starting ComfyUI with its node packs")
            await asyncio.to_thread(engine.stop)
            try:
                await engine.ready(as_it_is=True)
            except BaseException:
                await asyncio.to_thread(engine.stop)
                raise

        if request.action == "rollback_nodes":
            built = await sets.roll_back(say, start)
        else:
            built = await sets.build(request.packs, choice.program, say, start)
    return await asyncio.to_thread(sets.answer, built)
