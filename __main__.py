"""``python FOLDER``, with the folder of this file: ``comfy-remote`` where only the pack is.

Every Python of a ComfyUI with the pack runs it, the portable release's isolated one too.
"""

from comfy_remote.cli.main import main

if __name__ == "__main__":
    main()
