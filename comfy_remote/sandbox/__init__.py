"""A ComfyUI-compatible engine in one process, to try workflows without a ComfyUI.

It answers ComfyUI's HTTP and WebSocket API (modelled on 0.33.0) for the core nodes that
need no model, gives the same pixels as ComfyUI on a CPU, and has a few nodes of its own to
watch progress and provoke faults. Run it with ``python -m comfy_remote.sandbox``, or inside
a process with `server.SandboxServer`.

Where to look:

- ``server.py`` starts and stops it; ``prompt_routes.py``, ``file_routes.py`` and ``job_routes.py``
  answer HTTP, ``sockets.py`` the WebSocket; ``shown_picture.py`` makes smaller pictures.
- ``validation.py`` checks a prompt, ``prompt_queue.py`` has the queue and the history,
  ``executor.py`` runs prompts, ``graph.py`` says in what order and what need not run again,
  ``report.py`` what is sent and what the history has of a run.
- ``nodes/`` has the nodes by subject, ``resize.py`` the filters that resize images,
  ``folders.py`` the input, output and temp folders, ``engine.py`` what routes and others can use.

ComfyUI's page on it is not part of the package: ``tools/sandbox_page``.
"""
