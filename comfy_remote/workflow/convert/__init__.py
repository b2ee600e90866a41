"""UI-format workflows to prompts, equal to what ComfyUI's own editor makes of them.

```
document    the file as saved
node        a node as the editor has it after loading: slots, widgets, values
autogrow    lists of its inputs that grow
graph       nodes and links, subgraphs and their instances
loading     a document to its graphs       promotion   widgets promoted by older files
primitives  values written by primitives   resolve     where an input comes from
group_type  what a group node looks like    group_node   its instances, as subgraphs
prompt      the graphs to a prompt              foreign    nodes of classes that are unknown here
```
"""

from .prompt import convert_workflow

__all__ = ["convert_workflow"]
