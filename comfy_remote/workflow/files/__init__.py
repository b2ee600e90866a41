"""The files that a prompt loads: which inputs name them, and where they are on this machine.

```
names   which names may be looked up here at all
uses    which inputs of a prompt name a file
search  where such a file is; and the error where it is not, or may not be taken
```
"""

from .names import file_below, may_look_up, names_another_machine
from .search import (
    FileSearch,
    missing_file,
    possible_uses,
    refuse_files_elsewhere,
    under_plain_name,
)
from .uses import ANNOTATION, FileUse, every_file_use, file_uses, rename_files, with_names

__all__ = [
    "ANNOTATION",
    "FileSearch",
    "FileUse",
    "every_file_use",
    "file_below",
    "file_uses",
    "may_look_up",
    "missing_file",
    "names_another_machine",
    "possible_uses",
    "refuse_files_elsewhere",
    "rename_files",
    "under_plain_name",
    "with_names",
]
