"""As much of a ComfyUI's start as installing node packs needs, on any Python, in milliseconds.

What it says of packs in its log, and how it finds them, is ComfyUI's (``main.py``, ``nodes.py``,
``utils/extra_config.py`` of 0.3.64 and 0.33.0); tests/e2e/test_nodes_real.py holds both to it.
"""

import argparse
import importlib.util
import json
import sys
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path

parser = argparse.ArgumentParser()
for one in ("--listen", "--output-directory", "--input-directory", "--temp-directory"):
    parser.add_argument(one)
for one in ("--user-directory", "--database-url", "--preview-method"):
    parser.add_argument(one)
parser.add_argument("--port", type=int)
parser.add_argument("--disable-auto-launch", action="store_true")
parser.add_argument("--cpu", action="store_true")
parser.add_argument("--extra-model-paths-config", nargs="+", action="append", default=[])
args = parser.parse_args()

folders = [Path(__file__).resolve().parent / "custom_nodes"]
for config in map(Path, chain(*args.extra_model_paths_config)):
    for section in json.loads(config.read_text()).values():
        folders += [config.parent / line for line in section["custom_nodes"].split("\n")]


def load(path):
    name = str(path).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, path / "__init__.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def log(text):
    print(text, file=sys.stderr, flush=True)


nodes, times = {}, []
for path in chain(*(sorted(folder.iterdir()) for folder in folders)):
    if not path.is_dir() or path.suffix == ".disabled" or path.name == "__pycache__":
        continue
    try:
        for known in load(path).NODE_CLASS_MAPPINGS:
            nodes[known] = {
                "input": {"required": {}},
                "output": [],
                "output_node": True,
                "python_module": f"custom_nodes.{path.name}",
            }
        times.append((path, ""))
    except Exception as error:  # noqa: BLE001
        log(traceback.format_exc())
        log(f"Cannot import {path} module for custom nodes: {error}")
        times.append((path, " (IMPORT FAILED)"))
log("\nImport times for custom nodes:")
for path, said in times:
    log(f"   0.0 seconds{said}: {path}")

system = {
    "argv": sys.argv,
    "comfyui_version": "0.33.0",
    "python_version": sys.version,
    "pytorch_version": "2.9.1",
}
answers = {
    "/system_stats": {"system": system, "devices": [{"name": "cpu", "type": "cpu"}]},
    "/object_info": nodes,
    "/models": [],
}


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        known = answers.get(self.path.partition("?")[0].removeprefix("/api"))
        content = json.dumps(known).encode()
        self.send_response(404 if known is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_words):
        pass


ThreadingHTTPServer(("127.0.0.1", args.port), Answers).serve_forever()
