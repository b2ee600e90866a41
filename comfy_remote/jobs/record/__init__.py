"""The record of every job, in one SQLite file in the user's data folder.

```
entries   what is read: one job, its outputs, how long past runs took
batches   many runs of one workflow: what is known of each batch, and which of its runs have begun
ledger    what jobs cost: reserved before they are sent, settled when they have ended
routes    where routes have sent their jobs, and which members cool down
results   what runs gave, by the key that a cache finds it by
choosing  which jobs are listed, and which are forgotten
schema    the tables, how each version of the file becomes the next, and prompts stored once
access    how the parts read and write the file
record    reading and writing, from this thread or from an event loop
```
"""

from .batches import BatchEntry, Batches, BatchState, RunState, Wanted
from .choosing import JobFilter, Retention
from .entries import SAVED_BEFORE, JobEntry, JobLine, PastRun, Said, SavedOutput
from .record import Record

__all__ = [
    "SAVED_BEFORE",
    "BatchEntry",
    "BatchState",
    "Batches",
    "JobEntry",
    "JobFilter",
    "JobLine",
    "PastRun",
    "Record",
    "Retention",
    "RunState",
    "Said",
    "SavedOutput",
    "Wanted",
]
