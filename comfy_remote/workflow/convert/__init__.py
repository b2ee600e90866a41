"""UI-format workflows to prompts, equal to what ComfyUI's own editor makes of them.

```
document    the file as saved
node        a node as the editor has it after loading: slots, widgets, values
pack_widgets  widgets of packs' own scripts      older_packs  values that older packs saved
restoring   saved values that do not fit their widgets    doubt  what is said about them
autogrow    lists of its inputs that grow
graph       nodes and links, subgraphs and their instances
loading     a document to its graphs       promotion   widgets promoted by older files
primitives  values written by primitives   resolve     where an input comes from
group_type  what a group node looks like    group_node   its instances, as subgraphs
prompt      the graphs to a prompt              foreign    nodes of classes that are unknown here
```
"""

from .doubt import Doubt
from .prompt import Converted, convert, convert_workflow

__all__ = ["Converted", "Doubt", "convert", "convert_workflow"]
