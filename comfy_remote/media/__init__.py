"""Bytes: files written safely, formats read, pictures decoded, values as files.

```
files          names, atomic writes, hashes       receive          streams from and to the network
partial        what has arrived so far            temporary        folders that do not outlive us
disk_space     limits, and making room            received_inputs  an input folder that is sent to
content_names  portrait_9f86d081884c.png          verify           whether a file is whole
images         pictures as arrays                 remote_values    value files in a ComfyUI
file_changes   rename, link, remove: patiently

formats/  one module a file format                values/  what nodes pass on, as one file
```
"""
