"""A call for a node, of a service or of a workflow on a target: which values go, which is given.

Knows nothing of ComfyUI.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...calls.rest import RestClient
from ...calls.service import ServiceCall, enveloped
from ...calls.target import TargetCall
from ...calls.values import ValueForm, check_result
from ...calls.workflow import CallableWorkflow
from ...errors import WorkflowInvalid
from ...jobs.client import Client
from ...media.values import DecodedValue
from ...wire.call import RESULT
from ...workflow.interface import ANY
from .watched import NodeRun

__all__ = ["MOST_DECLARED", "RemoteCall", "chosen_key", "named_values"]

MOST_DECLARED = 16
"""Inputs that the node declares; further ones are taken as well."""

# `input_0`; `input_0_$remote_inputs_ag$` and `remote_inputs.input_0`, as ComfyUI's growing
# inputs are or were called, so in workflows that others' versions of this node have saved.
_NUMBERED = re.compile(r"(?:remote_inputs\.)?input_(\d{1,6})(?:_\$remote_inputs_ag\$)?")


def named_values(
    inputs: Mapping[str, object], types: Mapping[str, str], keys: str
) -> dict[str, DecodedValue]:
    """What is connected, by the name that it is sent under, in the order of the inputs.

    Args:
        inputs: By the input's own name. ``None`` is not connected.
        types: ComfyUI's, by the input's own name.
        keys: Names for ``input_0``, ``input_1`` and so on, separated by commas or line breaks;
            where one is empty or missing, the input keeps its own.

    Raises:
        WorkflowInvalid: A name comes twice.
    """
    names = [name.strip() for name in re.split(r"[,\n]", keys)]
    numbered: list[tuple[int, str, DecodedValue]] = []
    for order, (own, value) in enumerate(inputs.items()):
        if value is None:
            continue
        found = _NUMBERED.fullmatch(own)
        number = int(found[1]) if found else 10**6 + order
        name = f"input_{number}" if found else own
        if found and number < len(names) and names[number]:
            name = names[number]
        numbered.append((number, name, DecodedValue(types.get(own, ANY), False, value)))
    sent: dict[str, DecodedValue] = {}
    for _, name, value in sorted(numbered, key=lambda one: one[0]):
        if name in sent:
            raise WorkflowInvalid(
                f"Two inputs of Remote API are called {name!r}.",
                advice="Give each a name of its own in `keys`.",
            )
        sent[name] = value
    return sent


def chosen_key(keys: Sequence[str], wanted: str) -> str:
    """Which of several results the node gives.

    Args:
        wanted: The node's ``output_key``; empty for the one called ``result``, or the only one.

    Raises:
        WorkflowInvalid: There is no such result, or several and none is chosen.
    """
    if wanted in keys:
        return wanted
    if not wanted and RESULT in keys:
        return RESULT
    if not wanted and len(keys) == 1:
        return keys[0]
    raise WorkflowInvalid(
        f"There is no result {wanted!r}." if wanted else "There are several results.",
        advice=f"Set output_key to one of: {', '.join(keys)}."
        if keys
        else "The answer has no results at all.",
        details={"keys": [*keys]},
    )


@dataclass
class RemoteCall(NodeRun):
    """One call.

    Args:
        form: How values are sent, and what the result becomes.
        output_type: What it has to be; ``*`` for any.
    """

    what = "The call"

    form: ValueForm = field(default_factory=lambda: ValueForm(tensors="torch"))
    output_key: str = ""
    output_type: str = ANY

    async def of_service(
        self, client: RestClient, values: Mapping[str, DecodedValue], folder: Path
    ) -> DecodedValue:
        """Call a service. If this ends early, the call is cancelled there."""
        inputs = await asyncio.to_thread(
            lambda: {name: enveloped(value, self.form) for name, value in values.items()}
        )
        call = ServiceCall(client, inputs, timeout=self.timeout)
        return await self._result(call, folder)

    async def of_workflow(
        self,
        client: Client,
        workflow: CallableWorkflow,
        values: Mapping[str, DecodedValue],
        folder: Path,
    ) -> DecodedValue:
        """Call a workflow on a target. If this ends early, its job is cancelled."""
        interface = workflow.interface
        arguments = await asyncio.to_thread(
            lambda: {
                key: self.form.argument(value, interface.input(key).type, folder / "sent")
                for key, value in values.items()
            }
        )
        call = TargetCall(client, workflow, arguments, timeout=self.timeout)
        chosen_key(call.keys, self.output_key)  # before a GPU works for it
        return await self._result(call, folder)

    async def _result(self, call: ServiceCall | TargetCall, folder: Path) -> DecodedValue:
        async def collected() -> DecodedValue:
            here = folder / "here"
            here.mkdir()
            finished = call.finished
            if finished is not None and finished.error is not None:
                raise finished.error
            key = chosen_key(call.keys, self.output_key)
            return (await call.results(here, self.form, only=[key]))[key]

        result = await self.whole(call, collected)
        check_result(result, self.output_type)
        await self.watcher.progress(1.0, 1.0)
        self.watcher.say(f"Done on {self.where} in {self.elapsed:.0f} s")
        return result
