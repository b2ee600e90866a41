"""Whether a prompt can run on a target, and what it could cost less. No network.

```
checking    all of it together             report      what a check gives
validation  ComfyUI's own checks           rules       what they must know of a class
literals    types and values of inputs     structure   classes, links, cycles
values      single inputs, and models      limits      files, request, result
advice      what could cost less           sizes       how many pictures of what size
one_input   other values of one input
```
"""

from .checking import check_prompt, validate_for
from .limits import Limits
from .one_input import InputCheck
from .report import Advice, Problem, Report
from .rules import NodeRules
from .validation import Validated, full_type_name, validate_prompt

__all__ = [
    "Advice",
    "InputCheck",
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
