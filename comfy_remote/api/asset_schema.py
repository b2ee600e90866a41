"""The tables of a front's assets, and how each version of the file becomes the next."""

from __future__ import annotations

from ..database import MigrationStep

__all__ = ["MIGRATIONS"]

MIGRATIONS: tuple[tuple[MigrationStep, ...], ...] = (
    (
        # Times are seconds since the epoch. `stays`: for how long an upload is wanted each time
        # that it is used. `position`: of an output among its job's.
        """
        CREATE TABLE assets (
            id           TEXT PRIMARY KEY,
            blake3       TEXT NOT NULL,
            sha256       TEXT NOT NULL,
            size         INTEGER NOT NULL,
            content_type TEXT NOT NULL,
            file_path    TEXT NOT NULL,
            created      REAL NOT NULL,
            stays        REAL NOT NULL,
            expires      REAL NOT NULL,
            job          TEXT,
            position     INTEGER,
            node_id      TEXT,
            kind         TEXT,
            UNIQUE (job, position)
        )
        """,
        "CREATE INDEX assets_by_content ON assets (blake3)",
        "CREATE INDEX assets_by_expiry ON assets (expires)",
        """
        CREATE TABLE jobs (
            number       INTEGER PRIMARY KEY,
            id           TEXT NOT NULL UNIQUE,
            created      REAL NOT NULL,
            expires      REAL NOT NULL,
            labels       TEXT NOT NULL
        )
        """,
        "CREATE INDEX jobs_by_expiry ON jobs (expires)",
        """
        CREATE TABLE labels (
            name         TEXT NOT NULL,
            value        TEXT NOT NULL,
            job          INTEGER NOT NULL REFERENCES jobs (number) ON DELETE CASCADE,
            PRIMARY KEY (name, value, job)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX labels_by_job ON labels (job)",
        """
        CREATE TABLE uses (
            job          TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
            asset        TEXT NOT NULL REFERENCES assets (id) ON DELETE CASCADE,
            PRIMARY KEY (job, asset)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX uses_by_asset ON uses (asset)",
        "CREATE TABLE used_keys (key TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID",
    ),
)
"""What leads from each version of the file to the next. Only ever added to."""
