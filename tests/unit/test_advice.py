"""Advice has a code and facts, and each face says it in its own words."""

from __future__ import annotations

import ast
import json
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

import click
import pytest

import comfy_remote
from comfy_remote import errors
from comfy_remote.advice import Hint, advice_from_json
from comfy_remote.clean import cleaned_error
from comfy_remote.cli import advice as cli_advice
from comfy_remote.cli.main import cli
from comfy_remote.cli.run_remote import run_remote
from comfy_remote.errors import ComfyRemoteError, LocalStorageError, error_from_json
from comfy_remote.node_pack import advice as page_advice

_PACKAGE = Path(comfy_remote.__file__).parent
_TABLES = {"advice.py", "cli/advice.py", "node_pack/advice.py"}
# Faces, and programs with options of their own that only we start.
_FACES = ("cli/", "node_pack/", "mcp/")
_OWN_PROGRAMS = {
    "deploy/modal/__main__.py",
    "sandbox/__main__.py",
    "worker/local_test.py",
    "worker/runpod_entry.py",
}
# Lines of a Dockerfile.
_SCRIPTS = {"deploy/dockerfile.py", "deploy/modal/image.py"}
# A project's files are its owner's to read and edit; they name the command that wrote them.
_FOR_PEOPLE = {"deploy/modal/template/workflow.py"}
_OTHER_PROGRAMS = re.compile(
    r"^(uv|git|pip|python -m pip|comfy node|modal|ssh|curl)\b|^Send PCM: `ffmpeg"
)
_COMMAND = re.compile(r"`comfy-(?:run-)?remote\b|comfy-remote +(?:[a-z-]+ [A-Z…-]|jobs|models)")
_FLAG = re.compile(r"(?<![\w-])--?[a-z][a-z-]*\b")


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(_PACKAGE.rglob("*.py")):
        yield path.relative_to(_PACKAGE).as_posix(), ast.parse(path.read_text("utf-8"))


def _uses() -> Iterator[tuple[str, ast.Call]]:
    for name, tree in _modules():
        if name in _TABLES:
            continue
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="Hint"), attr=attr)):
                    yield attr, node


def _fields(words: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(words) if name}


def test_every_code_is_given_somewhere_with_its_facts() -> None:
    used = dict[str, list[set[str | None]]]()
    for name, call in _uses():
        assert not call.args, ast.unparse(call)
        used.setdefault(name, []).append({one.arg for one in call.keywords})
    assert set(used) == {hint.name for hint in Hint}
    for hint in Hint:
        tables = (cli_advice.WORDS, page_advice.WORDS)
        needed = hint.facts.union(*(_fields(words.get(hint, "")) for words in tables))
        assert all(facts == needed for facts in used[hint.name]), hint


def test_every_code_is_worded_by_a_face() -> None:
    """Advice that every face says in the same words needs no code."""
    assert cli_advice.WORDS.keys() | page_advice.WORDS.keys() == set(Hint)
    for table in (cli_advice.WORDS, page_advice.WORDS):
        for hint, words in table.items():
            assert words != hint.value, hint


def _flags(command: click.Command) -> Iterator[str]:
    for option in command.params:
        yield from (*option.opts, *option.secondary_opts)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from _flags(found)


def _sentences(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Strings with more than one word in them, but for docstrings."""
    documentation = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    inside = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if part is not node
    }
    for node in ast.walk(tree):
        if id(node) in documentation or id(node) in inside:
            continue
        if isinstance(node, ast.JoinedStr):
            text = "".join(
                part.value if isinstance(part, ast.Constant) else "…" for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        if " " in text.strip():
            yield node.lineno, text


def test_nothing_below_the_faces_names_a_flag_or_a_command() -> None:
    flags = {flag for one in (cli, run_remote) for flag in _flags(one)} - {"--cpu", "--listen"}
    found = list[str]()
    for name, tree in _modules():
        if name.startswith(_FACES) or name in _OWN_PROGRAMS | _SCRIPTS | _FOR_PEOPLE:
            continue
        for line, text in _sentences(tree):
            if _OTHER_PROGRAMS.match(text):
                continue
            if _COMMAND.search(text) or any(one in flags for one in _FLAG.findall(text)):
                found.append(f"{name}:{line}: {text}")
    assert not found, "\n".join(found)


def test_each_face_has_its_words() -> None:
    advice = Hint.LINK_OUT_OF_FOLDER()
    error = LocalStorageError("It was not written.", advice=advice)
    assert error.advice == "Remove that link, or choose another folder."
    assert "-o" in cli_advice.for_terminal(error.advice)
    assert page_advice.shown_error(error).advice == "Remove that link."


def test_code_and_facts_survive_json_cleaning_and_pickle() -> None:
    error = LocalStorageError("Lost.", advice=Hint.FIND_JOB(job_id="4e\x1b[31m"))
    for one in (error_from_json(json.loads(json.dumps(error.to_json()))), error):
        cleaned = cleaned_error(one).advice
        assert "\x1b" not in cleaned
        assert "comfy-remote jobs resume " in cli_advice.for_terminal(cleaned)
    assert pickle.loads(pickle.dumps(Hint.OTHER_FOLDER())).hint is Hint.OTHER_FOLDER


@pytest.mark.parametrize(
    "hint",
    [
        None,
        "find_job",
        {"code": "of a later version", "facts": {}},
        {"code": "find_job"},
        {"code": "find_job", "facts": {}},
        {"code": "find_job", "facts": {"job_id": ["x"]}},
    ],
)
def test_a_hint_that_is_not_known_leaves_the_words(hint: object) -> None:
    advice = advice_from_json(hint, "Try again.")  # type: ignore[arg-type]
    assert type(advice) is str
    assert cli_advice.for_terminal(advice) == "Try again."


@pytest.mark.parametrize("name", ["self", "hint", "facts", "cls"])
def test_facts_from_elsewhere_may_have_any_name_and_text(name: str) -> None:
    facts = {name: "x", "job_id": "{name} {0.__class__} %s " + "y" * 100_000}
    advice = advice_from_json({"code": "find_job", "facts": facts}, "Try again.")
    for words in (advice, cli_advice.for_terminal(advice), page_advice.for_page(advice)):
        assert str(facts["job_id"]).strip() in words


@pytest.mark.skipif(os.name == "nt", reason="the shell of Windows quotes in another way")
def test_facts_are_quoted_where_they_are_part_of_a_command() -> None:
    words = cli_advice.for_terminal(Hint.FIND_JOB(job_id="x; rm -rf ~"))
    assert "jobs resume 'x; rm -rf ~'" in words


def test_every_class_has_a_code_of_its_own_and_is_raised_somewhere() -> None:
    def family(kind: type[ComfyRemoteError]) -> Iterator[type[ComfyRemoteError]]:
        for child in kind.__subclasses__():
            yield child
            yield from family(child)

    kinds = [kind for kind in family(ComfyRemoteError) if kind.__module__ == errors.__name__]
    codes = [kind.code for kind in kinds]
    assert len(codes) == len(set(codes))
    assert all("code" in vars(kind) for kind in kinds)
    made = {
        node.func.id
        for name, tree in _modules()
        if name != "errors.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert {kind.__name__ for kind in kinds} <= made
