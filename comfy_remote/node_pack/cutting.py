"""Prompts of the page, cut where their workflows are marked."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from ..config.settings import Configuration
from ..jobs.loaded_pictures import loaded_pictures
from ..workflow.cut import Cut, cut, images_in, marked_nodes, marks_in
from ..workflow.prompt import Prompt
from .host import Host
from .input_files import InputFiles
from .known_targets import known_targets
from .own_address import refuse_own_address
from .switch import Switch
from .target_pool import TargetPool
from .trusted_targets import NamedAddress, check_addresses

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["Cutter"]


class Cutter:
    """Cuts prompts by the marks in their workflows and by what is installed on each side.

    Args:
        host: The server that runs what is not marked.
        switch: Knows the target of a mark without a name.
        pool: What the targets have.
    """

    def __init__(self, host: Host, switch: Switch, pool: TargetPool) -> None:
        self._host = host
        self._switch = switch
        self._pool = pool
        self._files = InputFiles(host)

    async def cut(
        self,
        prompt: Prompt,
        workflow: Mapping[str, JsonValue],
        client_id: str | None,
        targets: Collection[str] | None = None,
    ) -> Cut:
        """What would run where. Without marks there are no parts, and no target is asked.

        A part has the name of its target: a mark without one means the target that the client's
        switch is set to, or would be.

        Args:
            prompt: As the page posts it.
            workflow: The same in UI format, as it comes with the prompt.
            client_id: Of the page.
            targets: Output nodes to run it for (``partial_execution_targets``); all by default.

        Raises:
            CutImpossible: What is marked cannot run there.
            WorkflowInvalid: There is nothing to run.
            NotTrusted: A target is an address that the owner has neither named nor confirmed.
            ConfigurationError: A target means nothing, or its key is missing.
            TargetError: A target cannot be asked what it has.
        """
        marks = marked_nodes(prompt, marks_in(workflow))
        if "" in marks.values():
            usual = await asyncio.to_thread(self._usual_target, client_id)
            marks = {node_id: name or usual for node_id, name in marks.items()}
        named = [
            NamedAddress.of(name, node_id, prompt[node_id], "mark")
            for node_id, name in marks.items()
        ]
        await asyncio.to_thread(check_addresses, named)
        names = list(dict.fromkeys(marks.values()))
        answers = await asyncio.gather(*map(self._pool.schemas, names))
        remote = dict(zip(names, answers, strict=True))
        classes = {node["class_type"] for node in prompt.values()}

        def work() -> Cut:
            local = self._host.schemas(classes)
            loaded = loaded_pictures(prompt, self._files.find) if marks else {}
            images = images_in(workflow)
            return cut(prompt, marks, local, remote, targets=targets, loaded=loaded, images=images)

        return await asyncio.to_thread(work)

    async def check_elsewhere(self, name: str, port: int | None) -> None:
        """See that a target is not this server.

        Args:
            port: That this server listens on.

        Raises:
            ConfigurationError: It is.
        """
        refuse_own_address((await self._pool.client(name)).target, port)

    def _usual_target(self, client_id: str | None) -> str:
        chosen = self._switch.usual_target_of(client_id)
        if chosen is not None:
            return chosen
        known = list(known_targets(Configuration.load(), os.environ))
        return next(target.name for target in known if target.default)
