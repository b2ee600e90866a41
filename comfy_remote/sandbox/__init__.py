"""A ComfyUI-compatible engine in one process, to try workflows without a ComfyUI.

It answers ComfyUI's HTTP and WebSocket API (modelled on 0.33.0) for the core nodes that
need no model, gives the same pixels as ComfyUI on a CPU, and has a few nodes of its own to
watch progress and provoke faults. Run it with ``python -m comfy_remote.sandbox``, or inside
a process with `server.SandboxServer`.

Where to look:

- ``server.py`` starts and stops it; ``prompt_routes.py`` and ``file_routes.py`` answer HTTP;
  ``origin.py`` refuses other sites' pages; ``sockets.py`` is the WebSocket side.
- ``page_routes.py`` and ``user_routes.py`` serve ComfyUI's own page, which ``frontend.py``
  finds, ``job_routes.py`` the list of jobs, ``shown_picture.py`` what ``/view`` shows of pictures.
- ``validation.py`` checks a prompt, ``prompt_queue.py`` keeps the queue and the history,
  ``executor.py`` runs prompts, ``cache.py`` knows what need not run again.
- ``nodes/`` holds the nodes by subject, ``resize.py`` the filters that resize images,
  ``folders.py`` the input, output and temp folders.
"""
