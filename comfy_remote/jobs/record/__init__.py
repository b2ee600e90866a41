"""The record of every job, in one SQLite file in the user's data folder.

```
entries   what is read: one job, its outputs, how long past runs took
schema    the tables, how each version of the file becomes the next, and prompts stored once
record    reading and writing, from this thread or from an event loop
```
"""

from .entries import JobEntry, PastRun, SavedOutput
from .record import Record

__all__ = ["JobEntry", "PastRun", "Record", "SavedOutput"]
