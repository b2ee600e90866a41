"""UI-format workflows to prompts, equal to what ComfyUI's own editor makes of them.

```
prompt       the graphs to a prompt            loading          a document to its graphs
document     the file as saved                 graph            nodes and links, subgraphs
node         a node after loading: slots, widgets, values
widgets      widgets of the editor             pack_scripts     … and of packs' scripts
autogrow     lists of inputs that grow         promotion        widgets that older files promoted
primitives   values that primitives write      resolve          where an input comes from
everywhere   Anything Everywhere               virtual          nodes that only the editor has
group_type   what a group node looks like      group_node       its instances, as subgraphs
unknown_classes  nodes without a schema        dynamic_prompts  choices in texts: {a|b}
doubts       what is not certain, and the error where nothing can be done
```
"""

from .doubts import Doubt
from .prompt import Converted, convert, convert_workflow

__all__ = ["Converted", "Doubt", "convert", "convert_workflow"]
