"""Which addresses a page or a workflow may name: nobody else decides where pictures are sent.

A workflow may come from anybody. Where it names an address (a mark, a part, Remote API, a target
in what is posted to ``/prompt``), nothing is sent there, not even a question, before the owner
of this machine has named it in their configuration or confirmed it in ComfyUI's page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from yarl import URL

from ..config.folders import CONFIG_NAME, home, owner_folders
from ..config.settings import Configuration
from ..config.target_settings import TargetSettings
from ..config.trust import TrustStore, origin_of
from ..errors import ConfigurationError, NotTrusted, WorkflowInvalid
from ..net.address import is_loopback, shown
from ..targets.base import ChoosesAmong, OneEngine, Target
from ..targets.kinds import kind_of, members_of, typed_target
from ..types import JsonValue
from ..workflow.interface import REMOTE_PART
from .part_document import PartDocument

__all__ = [
    "CONFIRM_EVENT",
    "SENDING_NODES",
    "NamedAddress",
    "SendingNode",
    "addresses_in",
    "check_addresses",
    "check_target",
    "confirm",
    "refuse_own_address",
    "unconfirmed_address",
]

_Inputs = Mapping[str, "JsonValue"]


@dataclass(frozen=True, slots=True)
class SendingNode:
    """One class of nodes.

    Attributes:
        title: What the page calls it.
        input: The input that names an address, or a target; empty where none does.
        named: Reads that name from a node's inputs; ``None`` where they name nothing.
    """

    title: str
    input: str = ""
    named: Callable[[_Inputs], JsonValue] = lambda _inputs: None


def _target_of_part(inputs: _Inputs) -> str | None:
    text = inputs.get("part")
    try:
        return PartDocument.parse(text).name if isinstance(text, str) else None
    except WorkflowInvalid:
        return None  # the node says so


def _target_if_remote(inputs: _Inputs) -> JsonValue:
    return None if inputs.get("enable_remote") is False else inputs.get("target")


SENDING_NODES: Mapping[str, SendingNode] = {
    "ComfyRemoteNode": SendingNode("Remote API", "url", lambda inputs: inputs.get("url")),
    "RunPodRemoteExecute": SendingNode("RunPod Remote Execute", "target", _target_if_remote),
    REMOTE_PART: SendingNode("Remote part", "part", _target_of_part),
    # Deploys to the owner's own Modal account.
    "ComfyRemoteModalDeployment": SendingNode("Modal Deployment"),
}
"""By class. Each is looked for in what a page posts, before any of it runs."""


CONFIRM_EVENT = "comfy_remote.confirm"
"""The message that has a page ask its user, with `NotTrusted.page_asks`."""


@dataclass(frozen=True, slots=True)
class NamedAddress:
    """An address, or a target's name, in a node of a workflow.

    Attributes:
        name: What the node has, as `targets.kinds.typed_target` gives it.
        title: What the page calls the node.
        where: The input that has it, or ``mark``.
    """

    name: str
    node_id: str
    title: str
    class_type: str = ""
    where: str = ""

    @classmethod
    def of(cls, name: str, node_id: str, node: Mapping[str, object], where: str) -> NamedAddress:
        """The name in a node of a prompt in API format."""
        class_type, meta = str(node.get("class_type")), node.get("_meta")
        title = meta.get("title") if isinstance(meta, dict) else None
        if not isinstance(title, str) or not title:
            sending = SENDING_NODES.get(class_type)
            title = class_type if sending is None else sending.title
        return cls(typed_target(name), node_id, title, class_type, where)


def unconfirmed_address(name: str, configuration: Configuration | None = None) -> str | None:
    """The origin that a name stands for, if its owner has not named or confirmed it.

    ``None`` where they have: it is a configured name, or an address that only its owner can use
    (``sandbox``, ``pod:auto``, ``runpod:ENDPOINT``: see `Kind.public_url`).

    Args:
        name: A target's or service's name or address. One that means nothing gives ``None``, too:
            opening it raises the error.

    Raises:
        NotTrusted: Only a folder's file has the name, and it is not trusted.
    """
    name = typed_target(name)
    for member in members_of(TargetSettings(name)):
        if (address := unconfirmed_address(member, configuration)) is not None:
            return address
    kind = kind_of(name)
    url = None if kind is None else kind.public_url(name)
    if kind is not None and url is None:
        return None
    configuration = configuration or Configuration.load()
    if configuration.settings_of(name) is not None or name == configuration.default:
        return None
    if url is None or configuration.allows_address(url):
        return None
    return origin_of(url) or shown(url)


def check_target(name: str) -> None:
    """Check that a page or a workflow names a target or service of this machine's owner.

    Raises:
        NotTrusted: It is an address that they have neither named nor confirmed. ``details`` has it
            as ``address``.
    """
    address = unconfirmed_address(name)
    if address is not None:
        raise _unconfirmed(
            f"{address} is an address that you have not confirmed. Nothing was sent there.",
            address,
        )


def check_addresses(named: Iterable[NamedAddress]) -> None:
    """Check the same for all that the nodes of a workflow name.

    Raises:
        NotTrusted: Of the first that is not confirmed. ``details`` has it as ``address``, all of
            them as ``nodes`` (``node_id``, ``title``, ``address``), and ComfyUI's ``node_errors``.
    """
    all_named = list(named)
    configuration = Configuration.load() if all_named else None
    found = [
        (one, address)
        for one in all_named
        if (address := unconfirmed_address(one.name, configuration)) is not None
    ]
    if not found:
        return
    first, address = found[0]
    raise _unconfirmed(
        f"{first.title} (node {first.node_id}) names {address}, an address that you have not "
        "confirmed. Nothing was sent there.",
        address,
        found,
    )


def addresses_in(prompt: Mapping[str, JsonValue]) -> Iterator[NamedAddress]:
    """What the nodes of a prompt name. An input that is linked is not known before it runs."""
    for node_id, node in prompt.items():
        inputs = node.get("inputs") if isinstance(node, dict) else None
        if not isinstance(node, dict) or not isinstance(inputs, dict):
            continue
        sending = SENDING_NODES.get(str(node.get("class_type")))
        name = None if sending is None else sending.named(inputs)
        if sending is not None and isinstance(name, str):
            yield NamedAddress.of(name, node_id, node, sending.input)


def confirm(target: str) -> str | None:
    """Trust a target's address, and return its origin; ``None`` if it needs none.

    Raises:
        ConfigurationError: It is not an address.
        LocalStorageError: It cannot be stored.
    """
    target = typed_target(target)
    for member in members_of(TargetSettings(target)):
        if (origin := confirm(member)) is not None:
            return origin  # the others are asked for next
    kind = kind_of(target)
    url = None if kind is None else kind.public_url(target)
    if url is None or unconfirmed_address(target) is None:
        return None
    return TrustStore(home()).confirm_address(url)


def _unconfirmed(
    message: str, address: str, found: Sequence[tuple[NamedAddress, str]] = ()
) -> NotTrusted:
    """Args:
    found: The nodes that name such an address, each with that.
    """
    nodes: list[JsonValue] = [
        {"node_id": one.node_id, "title": one.title, "address": where} for one, where in found
    ]
    asked: dict[str, JsonValue] = {"address": address, "nodes": nodes}
    problems: dict[str, JsonValue] = {one.node_id: _node_error(one, where) for one, where in found}
    error = NotTrusted(message, advice=_advice(address), details={**asked, "node_errors": problems})
    error.page_asks = asked
    return error


def _node_error(named: NamedAddress, address: str) -> JsonValue:
    return {
        "class_type": named.class_type,
        "dependent_outputs": [],
        "errors": [
            {
                # One of ComfyUI's own: newer pages show the words of no other.
                "type": "custom_validation_failed",
                "message": f"{address} is not confirmed",
                "details": f"{address} is not confirmed. Nothing was sent there.",
                "extra_info": {"input_name": named.where},
            }
        ],
    }


def _advice(address: str) -> str:
    file = owner_folders()[0] / CONFIG_NAME
    return (
        "ComfyUI's page asks you whether it may be used. Without the page: add the line "
        f'allowed_addresses = ["{address}"] to {file}, or give the address a name there. So nobody '
        "else's workflow can choose where your pictures are sent."
    )


def refuse_own_address(target: Target, port: int | None) -> None:
    """Check that a node does not wait for the very server that runs it.

    Args:
        port: That the server listens on; ``None`` if it is not known.
    """
    for one in target.among if isinstance(target, ChoosesAmong) else ():
        refuse_own_address(one, port)
    if not isinstance(target, OneEngine):
        return
    address = URL(target.url)
    if is_loopback(address.host) and address.port == port:
        raise ConfigurationError(
            f"{target.url} is this ComfyUI, which runs one prompt at a time: what should run there "
            "would wait for this node, which waits for it.",
            advice="Name another target, or let those nodes run here.",
        )
