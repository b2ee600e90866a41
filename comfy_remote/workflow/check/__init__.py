"""Whether a prompt can run on a target, and what it could cost less. No network.

```
validation  ComfyUI's own rules and words        node_rules  the rules of its schemas' classes
inputs      dynamic inputs                       graph       links that may be broken
structure   classes, links, circles              values      single inputs, and models
limits      files, request, result               sizes       how many pictures of what size
advice      what could cost less                 report      what comes of it all
checking    all of it together
```
"""

from .checking import check_prompt, validate_for
from .limits import FileSearch, Limits
from .report import Advice, Problem, Report
from .validation import NodeRules, Validated, full_type_name, validate_prompt

__all__ = [
    "Advice",
    "FileSearch",
    "Limits",
    "NodeRules",
    "Problem",
    "Report",
    "Validated",
    "check_prompt",
    "full_type_name",
    "validate_for",
    "validate_prompt",
]
