"""What is said where the package `verifiers` is not installed."""

from __future__ import annotations

import subprocess
import sys


def test_without_verifiers_the_error_says_what_to_install():
    code = "import sys; sys.modules['verifiers'] = None; import spiral.integrations.verifiers"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'verifiers>=0.4,<0.5'" in found.stderr.splitlines()[-1]
