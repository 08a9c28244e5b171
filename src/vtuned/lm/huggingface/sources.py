"""
What the name of a local model stands for: weights, and the adapters that go on top of them.

Knows paths and hub names; loads nothing.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

from vtuned.errors import UsageError

_HINT = "give a model folder, a GGUF file, or a hub name such as ORG/NAME"
_HUB_GGUF = re.compile(r"([\w.-]+/[\w.-]+)/(.+\.gguf)")


@dataclass(frozen=True, slots=True)
class Source:
    """
    Where a model comes from.

    *path* is a folder or a hub name, *gguf* a GGUF file in there ("" for plain weights), *adapters* are peft adapter
    folders or hub names, each trained on what stands before it.
    """

    path: str
    gguf: str = ""
    adapters: tuple[str, ...] = ()

    @property
    def base(self) -> Source:
        """The same weights without adapters."""
        return replace(self, adapters=())


def source_of(name: str) -> Source:
    """
    Return what `PATH_OR_ID[+ADAPTER[+ADAPTER…]]` stands for.

    A path may be a model folder, a GGUF file, or an adapter folder, whose adapter_config.json then says what to load
    first, full weights beside it or not. Raises UsageError for paths that are not there.
    """
    first, *adapters = parts(name)
    source = _weights(first)
    return replace(source, adapters=source.adapters + adapters_of("+".join(adapters)))


def adapters_of(names: str) -> tuple[str, ...]:
    """Return the adapters in `ADAPTER[+ADAPTER…]`. Raises UsageError for folders that hold none."""
    return tuple(_adapter(name) for name in parts(names)) if names else ()


def is_path(name: str) -> bool:
    """Tell whether *name* can only be a path: no hub name has such a form."""
    return name.startswith(("/", ".", "~")) or "\\" in name or name.count("/") > 1 or Path(name).is_absolute()


def parts(name: str) -> list[str]:
    """Cut *name* at plus signs, save where they stand in the name of something that is there."""
    pieces, found = name.split("+"), []
    while pieces:
        n = next((n for n in range(len(pieces), 1, -1) if _there("+".join(pieces[:n]))), 1)
        found.append("+".join(pieces[:n]))
        pieces = pieces[n:]
    return found


def _there(name: str) -> bool:
    return bool(name) and Path(name).expanduser().exists()


def _weights(name: str) -> Source:
    path = Path(name).expanduser()
    if not _there(name):
        on_hub = _HUB_GGUF.fullmatch(name)
        if on_hub and not name.startswith("."):
            return Source(on_hub.group(1), gguf=on_hub.group(2))
        if not name or is_path(name) or name.endswith(".gguf"):
            raise UsageError(f"{name or 'no name'}: no such model folder or file", hint=_HINT)
        return Source(name)
    path = path.resolve()  # an adapter trained on it keeps this path, wherever it is used from
    if path.is_file():
        if path.suffix != ".gguf":
            raise UsageError(f"{name}: a file, and not a GGUF file", hint=_HINT)
        return Source(str(path.parent), gguf=path.name)
    return _below(path) if (path / "adapter_config.json").is_file() else Source(str(path))


def _below(folder: Path) -> Source:
    """Return the adapter in *folder* on the base model that it names."""
    hint = f"say the base model: hf:BASE+{folder}"
    try:
        base = json.loads((folder / "adapter_config.json").read_bytes())["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        base = None
    if not isinstance(base, str) or not base:
        raise UsageError(f"{folder}: this adapter does not say its base model", hint=hint)
    candidates = [Path(base).expanduser(), folder / base]
    found = next((path for path in candidates if path.exists() and path.resolve() != folder), None)
    if found is None and (is_path(base) or any(path.exists() for path in candidates)):
        raise UsageError(f"{folder}: the base model of this adapter, {base}, is not there", hint=hint)
    source = _weights(base if found is None else str(found))
    return replace(source, adapters=(*source.adapters, str(folder)))


def _adapter(name: str) -> str:
    path = Path(name).expanduser()
    if not _there(name):
        if not name or is_path(name) or "/" not in name:
            raise UsageError(f"{name or 'no name'}: no such adapter folder", hint="give MODEL+FOLDER")
        return name
    if not (path / "adapter_config.json").is_file():
        raise UsageError(f"{name}: not a peft adapter folder (no adapter_config.json)", hint="give MODEL+FOLDER")
    return str(path.resolve())
