"""``python -m comfy_remote.deploy.modal FOLDER RESULT``: see `deployment`.

Writes ``{"url": …}`` or ``{"error": …}`` into the file RESULT. Modal's output goes to standard
output.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import traceback
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import CodeType, ModuleType

import modal

from ...advice import Hint
from ...errors import (
    ComfyRemoteError,
    ConfigurationError,
    DeploymentFailed,
    TargetUnreachable,
)
from ...targets.modal import first_line
from .project import WORKFLOW_FILE, template

__all__ = ["main"]

# The first that has all that is used of it: `App.stop`, `stop_fetching_inputs` as a coroutine.
_OLDEST = (1, 6, 4)


def main() -> int:
    """Deploy, and write the result."""
    parser = argparse.ArgumentParser(prog="comfy_remote.deploy.modal")
    parser.add_argument("folder", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--stop-first", action="store_true")
    parser.add_argument("--only-ours", action="store_true")
    given = parser.parse_args()
    try:
        answer: dict[str, object] = {
            "url": _deploy(
                given.folder.absolute(), stop_first=given.stop_first, only_ours=given.only_ours
            )
        }
    except ComfyRemoteError as error:
        answer = {"error": error.to_json()}
    given.result.write_text(json.dumps(answer), encoding="utf-8")
    return 0 if "url" in answer else 1


def _deploy(folder: Path, *, stop_first: bool, only_ours: bool) -> str:
    _check_version(modal.__version__)
    project = _imported(folder, only_ours=only_ours)
    app, front = getattr(project, "app", None), getattr(project, "front", None)
    if not isinstance(app, modal.App) or not isinstance(front, modal.Function):
        raise DeploymentFailed(
            f"{folder / WORKFLOW_FILE} has no app or no front.",
            advice=Hint.PROJECT_PARTS_MISSING(),
        )
    try:
        for one in getattr(project, "secrets", []):
            _check_secret(one)  # before minutes of building
        if stop_first and app.name:
            _stop(app.name)
        with modal.enable_output():
            app.deploy()
        url = front.get_web_url()
    except modal.exception.AuthError as error:
        raise ConfigurationError(
            f"Modal does not know who you are: {first_line(error)}",
            advice="Log in with `modal setup`, or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET.",
        ) from error
    except modal.exception.ConnectionError as error:
        raise TargetUnreachable(
            f"Modal cannot be reached: {first_line(error)}",
            advice="Check the network, and https://status.modal.com.",
        ) from error
    except (modal.exception.Error, OSError) as error:
        raise DeploymentFailed(
            f"Modal did not deploy it: {type(error).__name__}: {first_line(error)}",
            advice="The log says more. A package that cannot be installed is the usual reason.",
        ) from error
    if url is None:
        raise DeploymentFailed(
            "It was deployed, but its front has no address.",
            advice="The function `front` in workflow.py needs @modal.web_server.",
        )
    return str(url)


def _check_secret(secret: modal.Secret) -> None:
    try:
        secret.hydrate()
    except modal.exception.NotFoundError as error:
        raise ConfigurationError(
            f"Your Modal account has no Secret {secret.name!r}.",
            advice="`modal secret list` shows those that it has. Make it with `modal secret create "
            f"{secret.name} HF_TOKEN=…`, or remove it from secrets in modal_config.json.",
        ) from error


def _check_version(version: str) -> None:
    """Refuse an SDK that is too old; the containers would have it as well."""
    oldest = ".".join(map(str, _OLDEST))
    if tuple(map(int, re.findall(r"\d+", version)[:3])) < _OLDEST:
        raise ConfigurationError(
            f"Modal's SDK here is {version}; {oldest} or later is needed.",
            advice=f'Update it: "{sys.executable}" -m pip install --upgrade modal',
        )


class _Source(SourceFileLoader):
    """Loads the text that was checked, and not a compiled copy beside it."""

    def __init__(self, name: str, path: Path, source: bytes) -> None:
        super().__init__(name, str(path))
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        """The code of the text."""
        code: CodeType = self.source_to_code(self._source, self.path)
        return code


def _imported(folder: Path, *, only_ours: bool) -> ModuleType:
    path = folder / WORKFLOW_FILE
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error}.") from error
    if source.replace(b"\r\n", b"\n") != template().encode():
        if only_ours:
            raise ConfigurationError(
                f"{path} was edited, and anyone who reaches ComfyUI may write to that folder: it "
                "is not run from here.",
                advice=f"Deploy it by hand (modal deploy {path}), or have the project elsewhere "
                "(working_directory), or written again (clean_build).",
            )
        # What a person imports from beside it. At the end: nothing there stands in for a library.
        sys.path.append(str(folder))
    # Called `workflow` in the container, too: Modal takes the name of the module.
    loader = _Source(path.stem, path, source)
    spec = spec_from_loader(path.stem, loader)
    assert spec is not None  # noqa: S101 - a loader was given
    module = sys.modules[path.stem] = module_from_spec(spec)
    try:
        loader.exec_module(module)
    except ComfyRemoteError:
        raise
    # A person may have written anything into it.
    except Exception as error:
        traceback.print_exc(file=sys.stdout)
        raise DeploymentFailed(
            f"{path} cannot be imported: {type(error).__name__}: {first_line(error)}",
            advice=Hint.PROJECT_FILE_UNUSABLE(),
        ) from error
    return module


def _stop(app_name: str) -> None:
    try:
        modal.App.lookup(app_name).stop()
    except modal.exception.NotFoundError:
        return


if __name__ == "__main__":
    sys.exit(main())
