"""Whether a prompt can run on a target, and what it could cost less. No network.

```
validation  ComfyUI's own checks and words       rules       what they must know of a class
literals    values and types of single inputs    node_rules  rules from a ComfyUI's schemas
inputs      dynamic inputs                       graph       links that may be broken
structure   classes, links, circles              values      single inputs, and models
limits      files, request, result               sizes       how many pictures of what size
advice      what could cost less                 report      what comes of it all
checking    all of it together
```
"""

from .checking import check_prompt, validate_for
from .limits import Limits
from .report import Advice, Problem, Report
from .rules import NodeRules
from .validation import Validated, full_type_name, validate_prompt

__all__ = [
    "Advice",
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
