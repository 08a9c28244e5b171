"""The vendors' own packages, installed beside vtuned in an environment of their own, as the extras say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.full
def test_the_extras_install_and_work(tmp_path):
    """`vtuned[together,fireworks]` resolves; both services pass their tests, none skipped."""
    # The package of Together wants an older rich than everybody else.
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("rich==", "filelock=="))]
    (tmp_path / "constraints.txt").write_text("\n".join(kept) + "\n")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    extras = f"{ROOT}[together,fireworks]"
    install = [python, "-m", "pip", "install", "-q", "-c", tmp_path / "constraints.txt", extras, "pytest", "hypothesis"]
    subprocess.run(install, check=True, capture_output=True)
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", ROOT / "tests" / "unit" / "test_vendor_jobs.py"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert 0 == ran.returncode, ran.stdout
    assert "5 passed" in ran.stdout
    assert "skipped" not in ran.stdout
