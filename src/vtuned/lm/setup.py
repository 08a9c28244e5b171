"""What decides how a model answers beside its name: for answers that must all come from one and the same model."""

from __future__ import annotations

import hashlib
from pathlib import Path

from vtuned.lm.options import LoadOptions


def setup_of(name: str, options: LoadOptions) -> str:
    """
    Return the SHA-256 (hex) of how the model called *name* is loaded, "" for one behind an address.

    Precision, chat template, and the files of folders that *name* holds, by name, size and time of change: an adapter
    that was trained anew in the same folder is another model.
    """
    kind, _, rest = name.partition(":")
    if kind == "openai":
        return ""
    digest = hashlib.sha256(f"{options.dtype} {options.bits} ".encode())
    if options.chat_template is not None and options.chat_template.is_file():
        digest.update(options.chat_template.read_bytes())
    for part in (rest or kind).split("+"):
        for path in _files_in(Path(part)):
            found = path.stat()
            digest.update(f"{path} {found.st_size} {found.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _files_in(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(entry for entry in path.iterdir() if entry.is_file())
    return [path] if path.is_file() else []
