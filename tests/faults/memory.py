"""How much memory something takes, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

MIB = 1024 * 1024

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads ru_maxrss")


def peak_of(code: str, *arguments: str) -> int:
    """Bytes that running ``code`` takes at most, beyond what its imports do.

    Args:
        code: Defines ``main()``, which is measured; ``sys.argv`` has the arguments.
    """
    program = f"""
import resource, sys
{code}
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
main()
print(peak() - before)
"""
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return int(result.stdout.splitlines()[-1])
