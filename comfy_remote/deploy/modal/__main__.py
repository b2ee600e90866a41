"""``python -m comfy_remote.deploy.modal FOLDER RESULT``: see `deployment`.

Writes ``{"url": …}`` or ``{"error": …}`` into the file RESULT. What Modal says goes to standard
output.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import traceback
from pathlib import Path

import modal

from ...errors import (
    ComfyRemoteError,
    ConfigurationError,
    DeploymentFailed,
    TargetUnreachable,
)
from .project import WORKFLOW_FILE

__all__ = ["main"]


def main() -> int:
    """Deploy, and write the result."""
    parser = argparse.ArgumentParser(prog="comfy_remote.deploy.modal")
    parser.add_argument("folder", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--stop-first", action="store_true")
    given = parser.parse_args()
    try:
        answer: dict[str, object] = {
            "url": _deploy(given.folder.absolute(), stop_first=given.stop_first)
        }
    except ComfyRemoteError as error:
        answer = {"error": error.to_json()}
    given.result.write_text(json.dumps(answer), encoding="utf-8")
    return 0 if "url" in answer else 1


def _deploy(folder: Path, *, stop_first: bool) -> str:
    project = _imported(folder)
    app, front = getattr(project, "app", None), getattr(project, "front", None)
    if not isinstance(app, modal.App) or not isinstance(front, modal.Function):
        raise DeploymentFailed(
            f"{folder / WORKFLOW_FILE} has no app and no front.",
            advice="They are what is deployed, and what answers: keep their names, or make the "
            "file anew with --force.",
        )
    try:
        if stop_first and app.name:
            _stop(app.name)
        with modal.enable_output():
            app.deploy()
        url = front.get_web_url()
    except modal.exception.AuthError as error:
        raise ConfigurationError(
            f"Modal does not know who you are: {_first_line(error)}",
            advice="Log in with `modal setup`, or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET.",
        ) from error
    except modal.exception.ConnectionError as error:
        raise TargetUnreachable(
            f"Modal cannot be reached: {_first_line(error)}",
            advice="Check the network, and https://status.modal.com.",
        ) from error
    except (modal.exception.Error, OSError) as error:
        raise DeploymentFailed(
            f"Modal did not deploy it: {type(error).__name__}: {_first_line(error)}",
            advice="The log says more. A package that cannot be installed, a Secret that does "
            "not exist (`modal secret list`) and a GPU type that is none are the usual reasons.",
        ) from error
    if url is None:
        raise DeploymentFailed(
            "It was deployed, but its front has no address.",
            advice="The function `front` in workflow.py needs @modal.web_server.",
        )
    return str(url)


def _imported(folder: Path) -> object:
    # Called `workflow` in the container, too: Modal takes the name of the module.
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(Path(WORKFLOW_FILE).stem)
    except ComfyRemoteError:
        raise
    # A person may have written anything into it.
    except Exception as error:
        traceback.print_exc(file=sys.stdout)
        raise DeploymentFailed(
            f"{folder / WORKFLOW_FILE} cannot be imported: {type(error).__name__}: "
            f"{_first_line(error)}",
            advice="Mend it, or make it anew with --force.",
        ) from error


def _stop(app_name: str) -> None:
    try:
        modal.App.lookup(app_name).stop()
    except modal.exception.NotFoundError:
        return


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no reason was given"])[0]


if __name__ == "__main__":
    sys.exit(main())
