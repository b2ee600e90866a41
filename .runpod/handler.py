"""The worker, under the name that RunPod's Hub looks for; the image runs serverless_worker.py."""

from comfy_remote.worker.runpod_entry import main

if __name__ == "__main__":
    main()
