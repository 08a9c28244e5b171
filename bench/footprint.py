"""
How large and how fast the core is: `pip install .` without extras in a new environment.

Prints the size of everything installed, the largest packages, and the median time to import and to start.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
N_RUNS = 7
MIB = 2**20


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "venv"
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        python = environment / "bin" / "python"
        constraints = ROOT / "constraints.txt"
        subprocess.run([python, "-m", "pip", "install", "-q", "-c", constraints, ROOT], check=True)
        packages = next(environment.glob("lib/python3*/site-packages"))
        sizes = {entry.name: size_of(entry) for entry in packages.iterdir()}
        own = {
            name: size for name, size in sizes.items() if not name.startswith(("pip", "setuptools", "pkg_resources"))
        }
        print(f"Python {platform.python_version()}, {platform.machine()}, {N_RUNS} runs each")
        print(f"installed            {sum(own.values()) / MIB:6.1f} MiB (without pip)")
        for name, size in sorted(own.items(), key=lambda item: -item[1])[:6]:
            print(f"  {name:18} {size / MIB:6.1f} MiB")
        print(f"python -c pass       {median_seconds(python, '-c', 'pass'):6.2f} s")
        print(f"import vtuned        {median_seconds(python, '-c', 'import vtuned'):6.2f} s")
        print(f"vtuned --version     {median_seconds(environment / 'bin' / 'vtuned', '--version'):6.2f} s")


def size_of(path: Path) -> int:
    if path.is_dir():
        return sum(child.stat().st_size for child in path.rglob("*") if child.is_file() and not child.is_symlink())
    return path.stat().st_size


def median_seconds(*command: object) -> float:
    taken = []
    for _ in range(N_RUNS + 1):
        started = time.perf_counter()
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


if __name__ == "__main__":
    main()
