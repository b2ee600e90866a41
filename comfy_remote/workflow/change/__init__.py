"""What a user changes in a workflow before it runs.

```
prepare    all changes, in order            settings    NODE.input=value, node ids by name
texts      positive and negative            numbers     seeds, width, height, batch size
file_names folders and %date% of outputs    variables   ${NAME} in the file
values     a typed text as an input's value sources     where a linked input's value comes from
settable   which inputs can be set
```
"""
