"""Removes what a live test makes at RunPod, once that test's process has ended, however it did.

    live_remover.py NAME SECONDS       its standard input ends with the test

It lives in a process of its own, out of reach of Ctrl-C, and removes with the command that users
have. A command that was making something when the test was killed may still be at it, so then it
looks again for two minutes (or four times ``SECONDS``).
"""

from __future__ import annotations

import subprocess
import sys
import time

NOTHING = "nothing that Comfy Remote made"
_TRIES = 40


def remove(name: str, seconds: float) -> int:
    """Wait for the end, and remove; the exit status."""
    orderly = sys.stdin.read().strip() == "ended"
    command = [sys.executable, "-m", "comfy_remote", "deploy", "runpod", "--name", name]
    command += ["--remove", "--with-volume", "--yes"]
    looks = 1 if orderly else 4
    for _ in range(_TRIES):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if NOTHING in " ".join(done.stderr.split()):
            looks -= 1
            if looks == 0:
                print(f"Nothing of {name} is left in the RunPod account.", flush=True)
                return 0
        else:
            print(done.stdout, done.stderr, flush=True)
        if done.returncode != 0:
            time.sleep(seconds)
    print(f"{name} COULD NOT BE REMOVED, and may cost money. Run: {' '.join(command[2:])}")
    return 1


if __name__ == "__main__":
    sys.exit(remove(sys.argv[1], float(sys.argv[2])))
