"""What the page shows of a job on the public worker-comfyui, which gives names and no nodes."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

pytest.importorskip("playwright", reason="skipped: no playwright (pip install -e '.[dev]')")

from comfy_page import ComfyPage
from page_server import PackServer
from PIL import Image
from playwright.sync_api import expect

pytest_plugins = ["page_fixtures"]

INVERT = Path(__file__).resolve().parent / "invert.json"
IMAGES = "node.imgs?.length > 0 && node.imgs[0].naturalWidth > 0"


def _file(name: str, side: int) -> dict[str, str]:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "teal").save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"filename": name, "type": "base64", "data": data}


class _Endpoint(BaseHTTPRequestHandler):
    """Answers each workflow at once, as that worker does; a job of another kind it refuses."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        job_id = "run" if "workflow" in body["input"] else "other"
        self._answer({"id": job_id, "status": "IN_QUEUE"})

    def do_GET(self) -> None:
        status: dict[str, Any] = {"jobs": {}, "workers": {"idle": 1, "running": 0}}
        if "/status/" in self.path:
            job_id = self.path.rpartition("/")[2]
            images = [
                _file("x_00001_.png", 16),
                _file("x_00001_.png", 24),
                _file("y_00001_.png", 8),
            ]
            output: Any = {"images": images}
            if job_id == "other":
                output = {"error": "Missing 'workflow' parameter"}
            status = {"id": job_id, "status": "COMPLETED", "output": output}
        self._answer(status)

    def _answer(self, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def home(home: Path) -> Iterator[Path]:
    """The page's targets, ``there`` being such an endpoint."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Endpoint) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        (home / "comfy-remote.toml").write_text(
            'default = "there"\n[targets.there]\ntarget = "runpod:public"\n'
            f'base_url = "http://127.0.0.1:{server.server_port}/v2"\n'
        )
        yield home
        server.shutdown()
        thread.join()


def _workflow(folder: Path) -> Path:
    """LoadImage 1 → ImageInvert 3 → SaveImage 4, 5 and 6: ``colA/x``, ``colB/x`` and ``y``."""
    document = json.loads(INVERT.read_text())
    invert, save = (node for node in document["nodes"] if node["id"] in (3, 4))
    save["widgets_values"] = ["colA/x"]
    for node_id, link_id, prefix in ((5, 11, "colB/x"), (6, 12, "y")):
        copy = json.loads(json.dumps(save))
        copy |= {"id": node_id, "order": node_id, "widgets_values": [prefix]}
        copy["pos"][1] += 400 * (node_id - 4)
        copy["inputs"][0]["link"] = link_id
        document["nodes"].append(copy)
        invert["outputs"][0]["links"].append(link_id)
        document["links"].append([link_id, 3, 0, node_id, 0, "IMAGE"])
    document |= {"last_node_id": 6, "last_link_id": 12}
    path = folder / "workflow.json"
    path.write_text(json.dumps(document))
    return path


def test_files_of_one_name_are_in_the_queue_and_on_no_node(
    page: ComfyPage, server: PackServer, tmp_path: Path
) -> None:
    page.switch_on()
    page.load(_workflow(tmp_path))
    page.run()
    [entry] = page.wait_for_history(1)
    assert entry["status"]["status_str"] == "success"
    page.wait_for_node(6, IMAGES)
    assert not page.node(4, IMAGES)
    assert not page.node(5, IMAGES)
    expect(page.window.get_by_text("shown on no node").last).to_be_visible()
    page.picture("warning")
    assert len(list((server.directory / "output").rglob("*_0000?_.png"))) == 3
    pictures = page.open_history()
    expect(pictures.last).to_be_visible()
    page.picture("history")
    listed = {
        found[0]
        for i in range(pictures.count())
        if (found := re.search(r"[xy]_\d+_\.png", str(pictures.nth(i).get_attribute("src"))))
    }
    assert listed
    assert listed <= {"x_00001_.png", "x_00002_.png", "y_00001_.png"}
    assert not page.complaints
