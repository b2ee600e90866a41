"""The RunPod serverless worker, at the root of the image: see `comfy_remote.worker`."""

from comfy_remote.worker.runpod_entry import main

if __name__ == "__main__":
    main()
