"""What the commands of `vtuned provider` share: the packages that a server needs, and base models by name."""

from __future__ import annotations

from importlib import util

from vtuned.errors import MissingExtra, UsageError

_PACKAGES = ("fastapi", "uvicorn", "python_multipart", "torch", "peft")


def require_packages(feature: str) -> None:
    """Raise MissingExtra, in the name of *feature*, unless all that a server needs is installed."""
    if any(util.find_spec(package) is None for package in _PACKAGES):
        raise MissingExtra(feature, "pip install 'vtuned[local,server]'")


def models_of(given: list[str]) -> dict[str, str]:
    """Return base models by name. Raises UsageError for one that is not NAME=SPEC, and for a name that comes twice."""
    found: dict[str, str] = {}
    for text in given:
        name, separator, spec = text.partition("=")
        if not separator:
            spec = name
        if not name or not all(c.isascii() and (c.isalnum() or c in "._-/") for c in name) or not spec:
            raise UsageError(f"--model {text}: not NAME=SPEC", hint="such as tiny=hf:path/to/model")
        if name in found:
            raise UsageError(f"--model {name} is given twice", hint="give each model its own name")
        found[name] = spec
    return found
