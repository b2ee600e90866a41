"""Options that several commands share."""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ..ready.lock import Lock
    from ..workflow.load import LoadedWorkflow
    from .reporter import Reporter

_Command = TypeVar("_Command", bound=Callable[..., object])

__all__ = [
    "DOLLARS",
    "EXAMPLE",
    "SECONDS",
    "USUAL_TARGET",
    "WORKFLOW",
    "batch_cap_options",
    "cache_option",
    "cap_options",
    "change_options",
    "complete_job",
    "complete_target",
    "config_option",
    "download_option",
    "dry_run_option",
    "endpoint_option",
    "engine_options",
    "inputs_option",
    "is_example",
    "json_option",
    "json_schema_option",
    "load_typed",
    "lock_named",
    "lock_option",
    "make_reporter",
    "no_wait_option",
    "notify_option",
    "open_option",
    "output_option",
    "own_folder",
    "own_folder_by_default",
    "packed_lock",
    "preview_option",
    "quiet_option",
    "refuse_both_caps",
    "target_option",
    "timeout_option",
    "typed_name",
    "var_option",
    "workflow_argument",
]


class _Seconds(click.FloatRange):
    """A length of time above 0. Python takes "inf" and "nan" for numbers, and so does click."""

    name = "number of seconds"

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.ParamType`."""
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value} is not a number of seconds.", param, ctx)
        return seconds


SECONDS = _Seconds()


class _Dollars(click.FloatRange):
    """An amount of money, 0 or more: ``2``, ``0.50``, ``$0.50``."""

    name = "amount in dollars"

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.ParamType`."""
        if isinstance(value, str):
            value = value.removeprefix("$")
        amount = super().convert(value, param, ctx)
        if not math.isfinite(amount):
            self.fail(f"{value} is not an amount of money.", param, ctx)
        return amount


DOLLARS = _Dollars()

timeout_option = click.option(
    "--timeout",
    metavar="SECONDS",
    type=SECONDS,
    help="Stop after this long, including fetching the outputs. The job continues, and can be "
    "resumed.",
)
preview_option = click.option(
    "--preview/--no-preview", default=True, help="Show pictures in the terminal."
)
download_option = click.option(
    "--download/--no-download",
    default=True,
    help="Fetch the outputs, or only print their addresses.",
)
cache_option = click.option(
    "--cache",
    metavar="use|refresh|off",
    type=click.Choice(("use", "refresh", "off")),  # `CACHE_MODES`, without its imports
    help="use: take the stored result of an earlier run, and store new ones; refresh: only store; "
    "off: neither. Default: what cache in comfy-remote.toml says, else off.",
)
open_option = click.option(
    "--open", "open_it", is_flag=True, help="Open the first output with its default program."
)
json_option = click.option(
    "--json", "json_lines", is_flag=True, help="Print JSON, one object a line."
)


def _print_schema(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from importlib.resources import files

        schema = files(__package__).joinpath("json_lines.schema.json")
        click.echo(schema.read_text(encoding="utf-8"), nl=False)
        context.exit()


json_schema_option = click.option(
    "--json-schema",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_schema,
    help="Print the JSON schema of these lines, and do nothing else.",
)
quiet_option = click.option(
    *("-q", "--quiet"),
    is_flag=True,
    help="Print the outputs' paths, warnings and errors, and nothing else.",
)
dry_run_option = click.option(
    "--dry-run",
    "dry",
    is_flag=True,
    help="Send nothing. Print the prompt as it would be sent; say which files go with it, what "
    "would keep it from running, and about how long it takes and what it costs.",
)
no_wait_option = click.option(
    "--no-wait",
    "wait",
    is_flag=True,
    flag_value=False,
    default=True,
    help="End once the target has the job, and print its id alone. `jobs resume` fetches the "
    "outputs later.",
)
_OVER_CAP = click.option(
    "--over-cap", is_flag=True, help="Go over every cap on spending, this once."
)


def _cap(text: str) -> Callable[[_Command], _Command]:
    said = f"{text} The caps in comfy-remote.toml count as well."
    return click.option("--cap", metavar="DOLLARS", type=DOLLARS, help=said)


def cap_options(command: _Command) -> _Command:
    """``--cap`` and ``--over-cap`` of one run; see `refuse_both_caps`."""
    return _cap("Do not send it if it may cost more than this.")(_OVER_CAP(command))


def batch_cap_options(command: _Command) -> _Command:
    """``--cap`` and ``--over-cap`` of a batch; see `refuse_both_caps`."""
    text = "Pause before all of its runs together may have cost more than this."
    return _cap(text)(_OVER_CAP(command))


def refuse_both_caps(cap: float | None, *, over_cap: bool) -> None:
    """Refuse a cap that is not to count."""
    if cap is not None and over_cap:
        raise click.UsageError("--cap and --over-cap contradict each other.")


notify_option = click.option(
    "--notify",
    multiple=True,
    metavar="desktop|COMMAND|URL",
    help="Say at the end how it ended: on the desktop, by a command (as in 'ntfy publish me "
    "{message}'), or to a webhook. May be repeated.",
)

endpoint_option = click.option(
    "--endpoint",
    metavar="ID",
    default="local",
    show_default=True,
    help="The gateway's endpoint, as in runpod:ID.",
)

_ENGINE_OPTIONS = (
    click.option(
        "--engine",
        metavar="auto|sandbox|URL",
        multiple=True,
        help="What runs the workflows: a ComfyUI found here or else the sandbox (auto, the "
        "default); the sandbox; a ComfyUI that runs already. Several, each with this option, work "
        "side by side.",
    ),
    click.option(
        "--comfyui",
        metavar="DIR",
        type=click.Path(path_type=Path),
        help="Start the ComfyUI in this folder instead.",
    ),
    click.option(
        "--gpus",
        metavar="all|0,2",
        help="Start that ComfyUI once for each of these GPUs: a worker each (gpu0, gpu2), with "
        "folders of its own.",
    ),
)


def engine_options(command: _Command) -> _Command:
    """``--engine``, ``--comfyui`` and ``--gpus``; see `serving.engine_choices`."""
    for option in reversed(_ENGINE_OPTIONS):
        command = option(command)
    return command


USUAL_TARGET = (
    "Default: the configured target, else the endpoint in RUNPOD_ENDPOINT_ID, else the server in "
    "COMFY_BASE_URL, else sandbox."
)
"""In the help of what runs something: see `Configuration.usual`."""


def target_option(help: str, name: str = "--on") -> Callable[[_Command], _Command]:  # noqa: A002
    """An option that names a target."""
    return click.option(name, metavar="TARGET", shell_complete=complete_target, help=help)


def output_option(help: str) -> Callable[[_Command], _Command]:  # noqa: A002
    """``-o``, by default the folder ``output`` of the current one."""
    return click.option(
        *("-o", "--output"),
        metavar="DIR",
        type=click.Path(path_type=Path),
        default=Path("output"),
        callback=own_folder_by_default,
        show_default=True,
        help=help,
    )


EXAMPLE = "example:"
"""What the name of a workflow begins with that comes with this package."""


class _Workflow(click.Path):
    """A file, or ``example:NAME``."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, allow_dash=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.ParamType`."""
        if not isinstance(value, str) or not value.startswith(EXAMPLE):
            return _opened(Path(str(super().convert(value, param, ctx))))
        # A file of the package, which is a folder: its pictures are beside it.
        path = _EXAMPLES / f"{value.removeprefix(EXAMPLE)}.json"
        if path.parent != _EXAMPLES or not path.is_file():
            known = ", ".join(sorted(f"{EXAMPLE}{one.stem}" for one in _EXAMPLES.glob("*.json")))
            self.fail(f"there is no example {value!r}. There are: {known}.", param, ctx)
        return path

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Files, and the examples once ``e`` is typed."""
        from click.shell_completion import CompletionItem

        found = super().shell_complete(ctx, param, incomplete)
        if not incomplete or not (EXAMPLE.startswith(incomplete) or incomplete.startswith(EXAMPLE)):
            return found
        names = sorted(f"{EXAMPLE}{path.stem}" for path in _EXAMPLES.glob("*.json"))
        found += [CompletionItem(name) for name in names if name.startswith(incomplete)]
        return found


def _opened(path: Path) -> Path:
    """The same, or of a packed workflow, what it was opened to."""
    from ..workflow.load import is_packed

    if not path.is_file() or not is_packed(path):  # nothing is read ahead of a pipe
        return path
    from ..jobs.unpacked import unpacked
    from .console import printable_line, say

    opened = unpacked(path)
    if opened.untrusted:
        say(
            printable_line(
                f"{path} is packed, and names addresses of models that you have not trusted: they "
                f"are left out. To see and trust them: comfy-remote trust {path}"
            )
        )
    return opened.workflow


_EXAMPLES = Path(__file__).parents[1] / "examples"


def is_example(workflow: Path) -> bool:
    """Whether a workflow came with this package: ``example:NAME`` was typed."""
    return workflow.parent == _EXAMPLES


def typed_name(workflow: Path) -> str:
    """What was typed for a workflow: a path, or ``example:NAME``."""
    if is_example(workflow):
        return f"{EXAMPLE}{workflow.stem}"
    return _packed_as(workflow) or str(workflow)


def load_typed(workflow: Path, variables: Mapping[str, str] | None = None) -> LoadedWorkflow:
    """`workflow.load.load_workflow`; messages name the file as it was typed."""
    from dataclasses import replace

    from ..workflow.load import load_workflow

    loaded = load_workflow(workflow, variables=variables)
    typed = typed_name(workflow)
    return loaded if typed == str(workflow) else replace(loaded, source=typed)


_OWN_LOCK = Path(":own:")  # no file's name


def lock_option(
    name: str,
    help: str,  # noqa: A002
    *,
    own: bool = False,
) -> Callable[[_Command], _Command]:
    """An option that names a lock, as `lock_file`.

    Args:
        own: Whether it may be without a file, for the lock that comes with the workflow; see
            `lock_named`.
    """
    kind = click.Path(path_type=Path, dir_okay=False)
    if not own:
        return click.option(name, "lock_file", metavar="FILE", type=kind, help=help)
    help = f"{help} Without FILE: the workflow's own, in its packed file or beside it."  # noqa: A001
    return click.option(
        name,
        "lock_file",
        metavar="[FILE]",
        type=kind,
        is_flag=False,
        flag_value=str(_OWN_LOCK),
        help=help,
    )


def lock_named(lock_file: Path | None, workflow: Path) -> Path | None:
    """The lock that an option with ``own`` means for a workflow.

    Raises:
        click.UsageError: The workflow has none of its own.
    """
    if lock_file != _OWN_LOCK:
        return lock_file
    from ..ready.lock import LOCK_NAME

    packed = _packed_as(workflow)
    if packed is not None:
        return Path(packed)
    beside = workflow.parent / LOCK_NAME
    if str(workflow) == "-" or not beside.is_file():
        raise click.UsageError(
            f"{typed_name(workflow)} has no lock of its own: it is not packed, and there is no "
            f"{LOCK_NAME} beside it. Name one, or make one with `comfy-remote lock`."
        )
    return beside


def packed_lock(workflow: Path) -> Lock | None:
    """The lock in the packed file that a workflow was opened from, if there is one."""
    packed = _packed_as(workflow)
    if packed is None:
        return None
    from ..ready.lock import LOCK_NAME, read_lock

    inside = workflow.parent / LOCK_NAME  # as it was packed
    return read_lock(inside) if inside.is_file() else None


def _packed_as(workflow: Path) -> str | None:
    if workflow.parent.parent.name != "packed":
        return None
    from ..jobs.unpacked import packed_source

    return packed_source(workflow)


WORKFLOW = _Workflow()
workflow_argument = click.argument("workflow", metavar="WORKFLOW", type=WORKFLOW)
inputs_option = click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A file that a Load node names, if it is not in the folder of the workflow, in the "
    "current one, or below these. May be repeated.",
)


def _use_config(_context: click.Context, _option: click.Parameter, path: Path | None) -> None:
    """Use that file as the configuration, also in child processes."""
    if path is not None:
        from ..config.folders import CONFIG_VARIABLE

        os.environ[CONFIG_VARIABLE] = str(path.absolute())


config_option = click.option(
    "--config",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    expose_value=False,
    is_eager=True,  # before names of targets are completed
    callback=_use_config,
    help="Read the targets from this comfy-remote.toml, and none of the current folder's files.",
)


def _variables(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    """``NAME=value``, or ``NAME`` for the environment variable of that name."""
    given: dict[str, str] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not name.isidentifier() or not name.isascii():
            raise click.BadParameter(f"{name!r} is not a name. Write NAME=VALUE, or NAME.")
        if not equals and name not in os.environ:
            raise click.BadParameter(f"there is no environment variable {name}.")
        given[name] = text if equals else os.environ[name]
    return given


var_option = click.option(
    "--var",
    "variables",
    multiple=True,
    metavar="NAME[=VALUE]",
    callback=_variables,
    help="Fill in ${NAME} in a JSON file; without a value, from the environment variable of that "
    "name. May be repeated.",
)


def own_folder(folder: Path, advice: str) -> Path:
    """A folder below the current one that a command writes to by default.

    Refused, with ``advice``, if a link leads it out: the link may have come with a workflow.
    """
    from ..errors import ConfigurationError
    from ..media.files import leads_out

    if leads_out(folder, Path.cwd()):
        raise ConfigurationError(
            f"{folder} is a link that leads out of the current folder.", advice=advice
        )
    return folder


def own_folder_by_default(ctx: click.Context, option: click.Parameter, folder: Path) -> Path:
    """For an option with a default. A folder that the user names may be anywhere."""
    named = ctx.get_parameter_source(option.name or "") is not ParameterSource.DEFAULT
    if named or ctx.resilient_parsing:
        return folder
    return own_folder(folder, f"If that is meant, say so: {option.opts[-1]} {folder}")


def complete_target(
    _context: click.Context, _option: click.Parameter, incomplete: str
) -> list[str]:
    """The names of ``comfy-remote.toml``, and the addresses that need nothing filled in."""
    from ..config.settings import Configuration
    from ..errors import ComfyRemoteError
    from ..targets.kinds import kinds

    try:
        ready = [address for kind in kinds() for address in kind.ready]
        names = [*Configuration.load().targets, *ready]
    except ComfyRemoteError:
        return []  # the command itself reports it
    return [name for name in names if name.startswith(incomplete)]


def complete_job(_context: click.Context, _option: click.Parameter, incomplete: str) -> list[str]:
    """The ids of recent jobs."""
    from ..errors import ComfyRemoteError
    from ..jobs.record import Record

    try:
        with Record() as record:
            return [one.id for one in record.newest(50) if one.id.startswith(incomplete)]
    except ComfyRemoteError:
        return []


def _seed(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    from ..errors import WorkflowInvalid
    from ..workflow.change.numbers import parse_seed

    try:
        return parse_seed(value)
    except WorkflowInvalid as error:
        raise click.BadParameter(str(error)) from None


def _settings(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    """Of the form ``NODE.input=value``; whether there is such a node, the workflow decides."""
    for value in values:
        name, equals, _ = value.partition("=")
        if not equals or not all(name.rpartition(".")[::2]):
            raise click.BadParameter(
                f"{value!r} is not of the form NODE.input=value. For example: 3.seed=42, or "
                "KSampler.steps=20."
            )
    return values


_CHANGE_OPTIONS = (
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="NODE.input=value",
        callback=_settings,
        help="Change an input; NODE is an id, a title or a class. May be repeated.",
    ),
    click.option("--prompt", "prompt", metavar="TEXT", help="The positive text."),
    click.option(
        "--prompt-node",
        "prompt_nodes",
        multiple=True,
        metavar="NODE",
        help="The node that has this text, if the samplers do not lead to it. May be repeated.",
    ),
    click.option("--negative", metavar="TEXT", help="The negative text."),
    click.option("--seed", metavar="N|random", callback=_seed, help="Set all seeds."),
    click.option(
        "--width",
        type=click.IntRange(min=1),
        help="Width in pixels of what the samplers start from.",
    ),
    click.option("--height", type=click.IntRange(min=1), help="Its height in pixels."),
    click.option("--batch", type=click.IntRange(min=1), help="How many images at once."),
    var_option,
)
_CHANGES = (
    *("settings", "prompt", "prompt_nodes", "negative"),
    *("seed", "width", "height", "batch"),
)


def change_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that change a workflow; the command gets them as one ``changes``.

    For a function below ``click.command``; ``changes`` is a `workflow.change.prepare.Changes`.
    """

    @functools.wraps(command)
    def with_changes(**given: Any) -> None:  # click gives whatever the options are
        from ..workflow.change.prepare import Changes

        variables = given.pop("variables")
        changes = Changes(**{name: given.pop(name) for name in _CHANGES}, given=variables)
        if changes.prompt_nodes and changes.prompt is None:
            raise click.UsageError(
                "--prompt-node says where the text goes: give --prompt TEXT, too."
            )
        command(changes=changes, **given)

    for option in reversed(_CHANGE_OPTIONS):
        option(with_changes)
    return with_changes


def make_reporter(
    *, json_lines: bool, preview: bool, quiet: bool = False, notify: Sequence[str] = ()
) -> Reporter:
    """JSON if it is wanted, a live display at a terminal, else plain lines.

    Args:
        quiet: Only what came of it, in any of these.
        notify: The values of ``--notify``.

    Raises:
        ConfigurationError: One of them cannot work.
    """
    if notify:
        from .notify import NotifyingReporter, way_of

        ways = [way_of(text) for text in notify]
        inner = make_reporter(json_lines=json_lines, preview=preview, quiet=quiet)
        return NotifyingReporter(inner, ways)
    import logging

    from .console import is_interactive

    if json_lines:
        from .reporter import JsonReporter

        return JsonReporter(previews=preview, quiet=quiet)
    if quiet:
        from .reporter import QuietReporter

        return QuietReporter()
    # Log lines would break a live display.
    if is_interactive(sys.stderr) and not logging.getLogger(__name__).isEnabledFor(logging.DEBUG):
        from .live import LiveReporter

        return LiveReporter(pictures=preview)
    from .reporter import PlainReporter

    return PlainReporter()
