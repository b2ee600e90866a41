"""The record's tables: how each version of the file becomes the next, and prompts stored once.

Prompts that differ in nothing but plain values (a seed, a text, a number of steps) share one row
of ``prompts``, found by the hash of what they have in common. A job has the values in which its
prompt differs from that row, so a thousand runs of one workflow store it once.

A program of an earlier version that has the file open while it is brought up to date can no longer
add jobs (``jobs`` has no column ``prompt`` for them), and says that the record cannot be used. The
jobs it has sent are recorded to their ends: the columns that it updates are still there.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from typing import cast

from ...database import MigrationStep
from ...types import JsonValue
from ...workflow.prompt import Prompt

__all__ = ["MIGRATIONS", "store_prompt", "whole_prompt"]

_PLAIN = (str, int, float, bool, type(None))


def store_prompt(connection: sqlite3.Connection, prompt: Prompt) -> tuple[int, str | None]:
    """The number of the prompt's row in ``prompts``, and its own values as JSON.

    Call it in a transaction that writes.
    """
    return _store(connection, json.dumps(prompt), prompt)


def whole_prompt(text: str, values: str | None) -> Prompt:
    """The inverse of `store_prompt`.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: They do not fit together.
    """
    prompt = json.loads(text)
    for node_id, inputs in json.loads(values or "{}").items():
        prompt[node_id]["inputs"].update(inputs)
    return cast("Prompt", prompt)


def _store(connection: sqlite3.Connection, text: str, prompt: object) -> tuple[int, str | None]:
    common = hashlib.sha256(json.dumps(_without_values(prompt)).encode()).hexdigest()
    connection.execute(
        "INSERT OR IGNORE INTO prompts (sha256, prompt) VALUES (?, ?)", (common, text)
    )
    number, stored = connection.execute(
        "SELECT number, prompt FROM prompts WHERE sha256 = ?", (common,)
    ).fetchone()
    if stored == text:
        return int(number), None
    own = _plain_values(prompt)
    shared = _plain_values(json.loads(stored))
    differing = {
        node_id: changed
        for node_id, inputs in own.items()
        if (
            changed := {
                # As text: 1, 1.0 and true are equal in Python, and not to a node.
                name: value
                for name, value in inputs.items()
                if json.dumps(value) != json.dumps(shared[node_id][name])
            }
        )
    }
    return int(number), json.dumps(differing)


def _plain_values(prompt: object) -> dict[str, dict[str, JsonValue]]:
    """The inputs that are neither links nor structures, by node."""
    return {
        str(node_id): {name: value for name, value in inputs.items() if isinstance(value, _PLAIN)}
        for node_id, node in (prompt.items() if isinstance(prompt, Mapping) else ())
        if isinstance(node, Mapping) and isinstance(inputs := node.get("inputs"), Mapping)
    }


def _without_values(prompt: object) -> object:
    """What prompts have in common that share a row: all but their plain values, in its order."""
    if not isinstance(prompt, Mapping):
        return prompt
    plain = _plain_values(prompt)
    return {
        node_id: {**node, "inputs": {**node["inputs"], **dict.fromkeys(plain[node_id])}}
        if node_id in plain
        else node
        for node_id, node in prompt.items()
    }


def _prompts_once(connection: sqlite3.Connection) -> None:
    """Move the prompts of all jobs into a table of their own."""
    rows = connection.execute("SELECT id, prompt FROM jobs").fetchall()
    for job_id, text in rows:
        try:
            number, values = _store(connection, text, json.loads(text))
        except (ValueError, TypeError):
            # Something else has changed the row. It is carried over as it is.
            number, values = _store(connection, text, text)
        connection.execute(
            "UPDATE jobs SET prompt_number = ?, prompt_values = ? WHERE id = ?",
            (number, values, job_id),
        )


MIGRATIONS: tuple[tuple[MigrationStep, ...], ...] = (
    (
        """
        CREATE TABLE jobs (
            id         TEXT PRIMARY KEY,
            created    REAL NOT NULL,
            updated    REAL NOT NULL,
            target     TEXT NOT NULL,
            source     TEXT NOT NULL,
            folder     TEXT,
            prompt     TEXT NOT NULL,
            state      TEXT NOT NULL,
            remote_id  TEXT,
            details    TEXT,
            progress   TEXT,
            error      TEXT,
            outputs    TEXT
        )
        """,
        "CREATE INDEX jobs_by_time ON jobs (created)",
    ),
    ("ALTER TABLE jobs ADD COLUMN page TEXT",),
    (
        "ALTER TABLE jobs ADD COLUMN started REAL",
        "ALTER TABLE jobs ADD COLUMN run_seconds REAL",
        "ALTER TABLE jobs ADD COLUMN shape TEXT",
        "ALTER TABLE jobs ADD COLUMN work REAL",
    ),
    (
        "ALTER TABLE jobs ADD COLUMN request TEXT",
        """
        CREATE TABLE kept_inputs (
            keeper     TEXT NOT NULL,
            sha256     TEXT NOT NULL,
            seen       REAL NOT NULL,
            PRIMARY KEY (keeper, sha256)
        )
        """,
    ),
    (
        """
        CREATE TABLE prompts (
            number     INTEGER PRIMARY KEY,
            sha256     TEXT NOT NULL UNIQUE,
            prompt     TEXT NOT NULL
        )
        """,
        "ALTER TABLE jobs ADD COLUMN prompt_number INTEGER",
        "ALTER TABLE jobs ADD COLUMN prompt_values TEXT",
        _prompts_once,
        # A new table, since SQLite before 3.35 cannot drop the column `prompt`.
        """
        CREATE TABLE new_jobs (
            id            TEXT PRIMARY KEY,
            created       REAL NOT NULL,
            updated       REAL NOT NULL,
            target        TEXT NOT NULL,
            source        TEXT NOT NULL,
            folder        TEXT,
            state         TEXT NOT NULL,
            remote_id     TEXT,
            details       TEXT,
            progress      TEXT,
            error         TEXT,
            outputs       TEXT,
            page          TEXT,
            started       REAL,
            run_seconds   REAL,
            shape         TEXT,
            work          REAL,
            request       TEXT,
            prompt_number INTEGER NOT NULL REFERENCES prompts (number),
            prompt_values TEXT,
            charge        TEXT,
            batch         TEXT
        )
        """,
        """
        INSERT INTO new_jobs
        SELECT
            id, created, updated, target, source, folder, state, remote_id, details,
            progress, error, outputs, page, started, run_seconds, shape, work, request,
            prompt_number, prompt_values, NULL, NULL
        FROM jobs
        """,
        "DROP TABLE jobs",
        "ALTER TABLE new_jobs RENAME TO jobs",
        "CREATE INDEX jobs_by_time ON jobs (created)",
        "CREATE INDEX jobs_by_prompt ON jobs (prompt_number)",
        "CREATE INDEX jobs_by_batch ON jobs (batch) WHERE batch IS NOT NULL",
        """
        CREATE TRIGGER prompts_of_no_job AFTER DELETE ON jobs
        WHEN NOT EXISTS (SELECT 1 FROM jobs WHERE prompt_number = OLD.prompt_number)
        BEGIN
            DELETE FROM prompts WHERE number = OLD.prompt_number;
        END
        """,
    ),
    (
        "ALTER TABLE jobs ADD COLUMN attempt INTEGER NOT NULL DEFAULT 1",
        "ALTER TABLE jobs ADD COLUMN first TEXT",
        "ALTER TABLE jobs ADD COLUMN sent TEXT",
        "ALTER TABLE jobs ADD COLUMN said TEXT",
        "CREATE INDEX jobs_by_first ON jobs (first) WHERE first IS NOT NULL",
    ),
    ("CREATE INDEX jobs_in_progress ON jobs (created) WHERE state IN ('queued', 'running')",),
    (
        """
        CREATE TABLE batches (
            id         TEXT PRIMARY KEY,
            name       TEXT NOT NULL,
            created    REAL NOT NULL,
            updated    REAL NOT NULL,
            target     TEXT NOT NULL,
            source     TEXT NOT NULL,
            folder     TEXT NOT NULL,
            count      INTEGER NOT NULL,
            state      TEXT NOT NULL,
            why        TEXT,
            wanted     TEXT NOT NULL,
            made_by    TEXT NOT NULL
        )
        """,
        "CREATE INDEX batches_by_time ON batches (created)",
        """
        CREATE TABLE batch_runs (
            batch      TEXT NOT NULL REFERENCES batches (id),
            row        INTEGER NOT NULL,
            attempt    INTEGER NOT NULL,
            state      TEXT NOT NULL,
            PRIMARY KEY (batch, row)
        ) WITHOUT ROWID
        """,
    ),
    (
        # Nothing writes the column `charge` of `jobs`: it stays for programs of earlier versions
        # that have the file open, which name it when they add a job.
        """
        CREATE TABLE charges (
            number       INTEGER PRIMARY KEY,
            job          TEXT NOT NULL,
            at           REAL NOT NULL,
            target       TEXT NOT NULL,
            workflow     TEXT NOT NULL,
            batch        TEXT,
            price        REAL,
            price_source TEXT,
            price_at     REAL,
            bound        REAL NOT NULL,
            why          TEXT NOT NULL,
            estimated    REAL,
            reserved     REAL,
            amount       REAL,
            seconds      REAL,
            booked       TEXT NOT NULL,
            by_hour      INTEGER NOT NULL
        )
        """,
        "CREATE INDEX charges_by_job ON charges (job)",
        # All that a cap asks for: then the table itself is not read.
        "CREATE INDEX charges_by_time ON charges (at, by_hour, target, amount)",
        "CREATE INDEX charges_by_batch ON charges (batch, by_hour, amount) WHERE batch IS NOT NULL",
    ),
    (
        "ALTER TABLE batches ADD COLUMN cap REAL",
        "ALTER TABLE batches ADD COLUMN over_cap INTEGER NOT NULL DEFAULT 0",
    ),
    (
        "ALTER TABLE jobs ADD COLUMN cached TEXT",
        """
        CREATE TABLE results (
            key         TEXT PRIMARY KEY,
            job         TEXT NOT NULL,
            created     REAL NOT NULL,
            used        REAL NOT NULL,
            hits        INTEGER NOT NULL DEFAULT 0,
            target      TEXT NOT NULL,
            source      TEXT NOT NULL,
            server      TEXT,
            run_seconds REAL,
            size        INTEGER NOT NULL,
            outputs     TEXT NOT NULL,
            shown       TEXT NOT NULL
        )
        """,
        "CREATE INDEX results_by_use ON results (used)",
        """
        CREATE TABLE result_files (
            sha256     TEXT NOT NULL,
            key        TEXT NOT NULL,
            PRIMARY KEY (sha256, key)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX result_files_by_key ON result_files (key)",
    ),
    (
        # What is spent and reserved in each quarter of an hour, so that no job that is added has to
        # wait for the sum of a month's. A day begins with a quarter of an hour everywhere.
        """
        CREATE TABLE spent (
            quarter    INTEGER NOT NULL,
            target     TEXT NOT NULL,
            amount     REAL NOT NULL,
            PRIMARY KEY (quarter, target)
        ) WITHOUT ROWID
        """,
        """
        INSERT INTO spent
        SELECT CAST(at / 900 AS INTEGER), target, TOTAL(amount)
        FROM charges WHERE by_hour = 0 GROUP BY 1, 2
        """,
        """
        CREATE TRIGGER charge_reserved AFTER INSERT ON charges
        WHEN NEW.by_hour = 0 AND NEW.amount IS NOT NULL
        BEGIN
            INSERT INTO spent VALUES (CAST(NEW.at / 900 AS INTEGER), NEW.target, NEW.amount)
            ON CONFLICT (quarter, target) DO UPDATE SET amount = amount + excluded.amount;
        END
        """,
        """
        CREATE TRIGGER charge_changed AFTER UPDATE OF amount ON charges
        WHEN NEW.by_hour = 0 AND NEW.amount IS NOT NULL AND OLD.amount IS NOT NULL
        BEGIN
            UPDATE spent SET amount = amount + NEW.amount - OLD.amount
            WHERE quarter = CAST(NEW.at / 900 AS INTEGER) AND target = NEW.target;
        END
        """,
        "DROP INDEX charges_by_time",
        "CREATE INDEX charges_by_time ON charges (at)",
    ),
    (
        "ALTER TABLE jobs ADD COLUMN placed TEXT",
        "ALTER TABLE jobs ADD COLUMN cancel_wanted REAL",
        """
        CREATE TABLE route_steps (
            job        TEXT NOT NULL,
            number     INTEGER NOT NULL,
            member     TEXT NOT NULL,
            at         REAL NOT NULL,
            state      TEXT NOT NULL,
            remote_id  TEXT,
            details    TEXT,
            why        TEXT NOT NULL,
            decision   TEXT NOT NULL,
            PRIMARY KEY (job, number)
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE route_members (
            name       TEXT PRIMARY KEY,
            failures   INTEGER NOT NULL,
            until      REAL NOT NULL
        ) WITHOUT ROWID
        """,
        """
        CREATE TRIGGER steps_of_no_job AFTER DELETE ON jobs
        BEGIN
            DELETE FROM route_steps WHERE job = OLD.id;
        END
        """,
    ),
    ("ALTER TABLE charges ADD COLUMN over_cap INTEGER NOT NULL DEFAULT 0",),
    (
        # What whoever started the job allows for it, wherever it is sent, and whoever follows it.
        "ALTER TABLE jobs ADD COLUMN cap REAL",
        "ALTER TABLE jobs ADD COLUMN over_cap INTEGER NOT NULL DEFAULT 0",
    ),
)
"""What leads from each version of the file to the next. Only ever added to."""
