"""Whether a prompt can run on a target, and what it could cost less. No network.

```
validation  ComfyUI's own checks and words       rules       what they must know of a class
literals    values and types of single inputs    node_rules  rules from a ComfyUI's schemas
structure   classes, links, circles              graph       links that may be broken
limits      files, request, result               values      single inputs, and models
advice      what could cost less                 sizes       how many pictures of what size
checking    all of it together                   report      what comes of it all
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
