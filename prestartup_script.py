"""ComfyUI runs this before it imports packs: those that were brought here are among them then."""


def _run() -> None:
    import importlib.util
    from pathlib import Path

    import folder_paths

    # By its path: the package is imported later, by ComfyUI and under a name of ComfyUI's.
    path = Path(__file__).absolute().parent / "comfy_remote/worker/nodes/at_start.py"
    spec = importlib.util.spec_from_file_location("comfy_remote_at_start", path)
    at_start = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(at_start)
    at_start.add_packs(
        Path(folder_paths.base_path),
        lambda folder: folder_paths.add_model_folder_path("custom_nodes", folder),
    )


_run()
