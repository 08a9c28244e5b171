"""The order of the rooms: lower never imports upper, and starting up is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "vtuned"

# From the bottom up; a module may import from its own layer and from those before it.
LAYERS = (
    ("_version", "errors", "documents", "stats", "prf"),
    ("conversation", "files"),
    ("containers", "language"),
    ("formats",),
    ("lm.base", "lm.scripted", "lm.options", "lm.setup", "lm.background"),
    (
        "lm.addresses",
        "lm.endpoint_access",
        "lm.endpoint_pace",
        "lm.endpoint_replies",
        "lm.endpoint",
        "lm.endpoint_scores",
    ),
    ("facts", "generation", "matching", "lm.huggingface", "lm.openai", "lm.words", "lm.codebook"),
    ("lm.embedded", "lm.tokens", "probes", "receipt", "rewriters"),
    (
        "lm.recorded",
        "lm",
        "dataset",
        "tally",
        "ladder",
        "transcript",
        "traffic",
        "exposure",
        "heldout",
        "scoring",
        "ledger",
        "calibration",
        "preference",
        "wordings",
    ),
    ("linting",),
    ("context", "layout", "measuring", "phrases", "fresh", "verdict", "providers", "doctor", "jobs"),
    ("demo.interpreter_docs", "attacks"),
    ("rewording", "comparing"),
    ("rewriting",),
    ("stealth", "planting", "verification", "watching", "unplanting", "captured"),
    ("attacking",),
    ("prospects",),
    ("capacity",),
    ("planning",),
    ("server",),
    ("gauntlet",),
    ("demo",),
    ("report",),
    ("cli",),
)
PURE = (
    "stats",
    "conversation",
    "language",
    "generation",
    "matching",
    "tally",
    "verdict",
    "ladder",
    "layout",
    "context",
    "calibration",
    "prospects",
    "planning",
    "traffic",
    "exposure",
    "heldout",
    "preference",
    "wordings",
    "prf",
    "facts",
    "gauntlet.table",
    "attacks.search",
    "captured",
    "stealth",
)
WORLD = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "openai",
    "requests",
    "socket",
    "subprocess",
    "os",
    "io",
    "time",
    "tempfile",
)


def module_of(path: Path) -> str:
    """Return `lm.base` for src/vtuned/lm/base.py."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> int:
    """Return the number of the layer of *module*: that of its longest known prefix."""
    known = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    while module not in known:
        module = module.rpartition(".")[0]
        assert module, "a module without a layer"
    return known[module]


def imports_of(path: Path) -> set[str]:
    """Return every module that *path* imports, at the top or in a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in names if (SOURCE / Path(*name.split(".")[1:])).with_suffix(".py").is_file()}
            packages = {name for name in names if (SOURCE / Path(*name.split(".")[1:]) / "__init__.py").is_file()}
            found.update(modules | packages or {node.module})
    return found


MODULES = sorted(path for path in SOURCE.rglob("*.py") if path.name != "__main__.py" and path.parent != SOURCE.parent)


@pytest.mark.parametrize("path", [p for p in MODULES if p != SOURCE / "__init__.py"], ids=module_of)
def test_lower_never_imports_upper(path):
    """A module imports only from its own layer and lower ones."""
    own = layer_of(module_of(path))
    upper = [
        name for name in imports_of(path) if name.startswith("vtuned.") and layer_of(name.removeprefix("vtuned.")) > own
    ]

    assert [] == upper


@pytest.mark.parametrize("name", PURE)
def test_the_core_is_pure(name):
    """No module of the pure core touches a model library, the network, the clock or the operating system."""
    place = SOURCE.joinpath(*name.split("."))
    paths = [place.with_suffix(".py")] if place.with_suffix(".py").is_file() else sorted(place.glob("*.py"))

    assert paths
    assert [] == [w for path in paths for w in imports_of(path) if w.split(".")[0] in WORLD]


@pytest.mark.parametrize("module", ["vtuned", "vtuned.cli.app"])
def test_starting_up_is_light(module):
    """Neither the library nor the command line loads a model library, a client or a data engine to start."""
    heavy = (
        "torch",
        "transformers",
        "peft",
        "trl",
        "datasets",
        "openai",
        "duckdb",
        "scipy",
        "pandas",
        "tokenizers",
        "fastapi",
        "uvicorn",
    )
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert "[]" == out.strip()


def test_only_the_command_line_prints():
    """`print` and the terminal belong to `cli`; the converter's own entry point is the exception."""
    printing = [
        module_of(path)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    ]

    assert {"lm.embedded"} == set(printing)
