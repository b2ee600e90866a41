"""What workflows need, by their own words: node classes, the packs that they name, models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..types import JsonValue
from ..workflow.graph import needed_nodes, output_nodes
from ..workflow.models import Model, ModelSource, find_models
from ..workflow.packs import CORE, find_packs
from ..workflow.prompt import Prompt
from ..workflow.schema import Schemas

__all__ = ["Needs", "needs_of"]


@dataclass(slots=True)
class Needs:
    """What some workflows need.

    Attributes:
        workflows: Their names.
        classes: The node classes that are not ComfyUI's own, each with the pack that a workflow
            names for it (its id in the registry, or ``owner/name`` on GitHub) and its version.
        folders: The folder of a class's pack in ``custom_nodes``, as the schemas say.
        models: By name and folder, each with all that the workflows say of where it can be had.
    """

    workflows: list[str] = field(default_factory=list)
    classes: dict[str, tuple[str, str | None] | None] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)
    models: dict[tuple[str, str | None], list[ModelSource]] = field(default_factory=dict)

    def add(
        self,
        name: str,
        prompt: Prompt,
        workflow: Mapping[str, JsonValue] | None,
        schemas: Schemas,
    ) -> None:
        """Add one workflow.

        Args:
            name: Of its file; may be empty.
            prompt: API format; nodes whose class is unknown are left in.
            workflow: The same in UI format, which says more.
            schemas: What it was read by.
        """
        if name:
            self.workflows.append(name)
        live = _live(prompt, schemas)
        for pack in find_packs(live, schemas=schemas, workflow=workflow):
            if pack.name != CORE:
                for one in pack.classes:
                    folder = _folder(one, schemas)
                    if folder is not None:
                        self.folders[one] = folder
                    # What only the schemas say is a folder's name, and no pack's id.
                    by_schemas = pack.version is None and pack.name == folder
                    self._add_class(one, None if by_schemas else pack.name, pack.version)
        for model in find_models(live, workflow):
            self._add_model(model)

    def _add_class(self, name: str, pack: str | None, version: str | None) -> None:
        known = self.classes.get(name)
        if pack is None:
            self.classes.setdefault(name, None)
        elif known is None or known[1] is None:
            self.classes[name] = (pack, version)

    def _add_model(self, model: Model) -> None:
        sources = self.models.setdefault((model.name.replace("\\", "/"), model.folder), [])
        if model.source is not None and model.source not in sources:
            sources.append(model.source)


def needs_of(
    workflows: Iterable[tuple[str, Prompt, Mapping[str, JsonValue] | None, Schemas]],
) -> Needs:
    """What all of some workflows need together: name, prompt, UI format and schemas of each."""
    needs = Needs()
    for workflow in workflows:
        needs.add(*workflow)
    return needs


def _folder(class_type: str, schemas: Schemas) -> str | None:
    schema = schemas.get(class_type)
    module = (schema.python_module if schema is not None else None) or ""
    place, _, rest = module.partition(".")
    return rest.partition(".")[0] or None if place == "custom_nodes" else None


def _live(prompt: Prompt, schemas: Schemas) -> Prompt:
    """The nodes that run. One whose class is unknown may be an output."""
    outputs = output_nodes(prompt, schemas)
    unknown = [node_id for node_id, node in prompt.items() if node["class_type"] not in schemas]
    wanted = needed_nodes(prompt, [*outputs, *unknown])
    return {node_id: prompt[node_id] for node_id in prompt if node_id in set(wanted)} or prompt
