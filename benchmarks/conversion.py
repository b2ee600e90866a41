"""All official templates to prompts: ours against comfy-cli's ``convert_ui_to_api``.

Both get the same parsed files and the same ``/object_info``, and what they make is compared
with what ComfyUI's editor makes of those templates for which that is known. Measured is the
processor's time, which other programs disturb least; each run begins without old garbage.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import ROOT, comfy_cli, report

from comfy_remote.errors import WorkflowInvalid
from comfy_remote.workflow.convert import convert_workflow
from comfy_remote.workflow.schema import Schemas

sys.path.insert(0, str(ROOT / "tests"))

_RUNS = 5
_THEIRS = """
import copy, gc, json, logging, sys, time
from comfy_cli.workflow_to_api import convert_ui_to_api
logging.disable(logging.CRITICAL)
given = json.load(open(sys.argv[1], encoding="utf-8"))
for line in sys.stdin:
    workflows, made = copy.deepcopy(given["templates"]), {}
    gc.collect()
    began = time.process_time()
    for name, workflow in workflows.items():
        try:
            made[name] = convert_ui_to_api(workflow, given["object_info"])
        except Exception:
            made[name] = None
    seconds = time.process_time() - began
    print(json.dumps([seconds, made if line.strip() == "show" else None]), flush=True)
"""


def bench_conversion() -> None:
    """Processor seconds for all templates in turn, and how many prompts equal the editor's."""
    from official_templates import differences, load, templates

    expected, object_info = load("expected-0.33.0"), load("object_info-0.33.0")
    workflows = templates("0.33.0")
    if not workflows:
        print("conversion: skipped, comfyui-workflow-templates-json is not installed")
        return

    def exact(prompts: dict[str, Any]) -> int:
        return sum(
            prompts.get(name) is not None and not differences(theirs, prompts[name], object_info)
            for name, theirs in expected.items()
        )

    python = Path(comfy_cli()).parent / Path(sys.executable).name
    if not python.exists():
        python = python.with_name("python")
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "given.json"
        given.write_text(json.dumps({"templates": workflows, "object_info": object_info}))
        process = subprocess.Popen(
            [str(python), "-c", _THEIRS, str(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        ours, theirs = [], []
        prompts: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        for run in range(-1, _RUNS):  # one warm-up
            seconds, made = _convert_all(workflows, object_info)
            process.stdin.write("show\n" if run < 0 else "\n")
            process.stdin.flush()
            their_seconds, their_made = json.loads(process.stdout.readline())
            if run < 0:
                prompts = (made, their_made)
            else:
                ours.append(seconds)
                theirs.append(their_seconds)
        process.stdin.close()
        process.wait(timeout=60)
    report(f"conversion of {len(workflows)} templates", ours, theirs, "comfy-cli")
    print(
        f"conversion, equal to the editor's of {len(expected)}: {exact(prompts[0])}, "
        f"comfy-cli {exact(prompts[1])}"
    )


def _convert_all(
    workflows: dict[str, Any], object_info: dict[str, Any]
) -> tuple[float, dict[str, Any]]:
    made: dict[str, Any] = {}
    gc.collect()
    began = time.process_time()
    schemas = Schemas(object_info, "the benchmark")
    for name, workflow in workflows.items():
        try:
            made[name] = convert_workflow(workflow, schemas)
        except WorkflowInvalid:
            made[name] = None
    return time.process_time() - began, made
