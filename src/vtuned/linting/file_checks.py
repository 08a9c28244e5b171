"""Which rules a file breaks as a whole: by its kind, names, size, first bytes and number of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vtuned.containers import Source, streams
from vtuned.files import BOM
from vtuned.linting.rules import Kind, Rule


@dataclass(frozen=True, slots=True)
class SeenFile:
    """
    What there is to know of the files of a data set. *container* is as in `Source.name`.

    *n_bytes* is the size of the largest file, *n_text_bytes* that of all texts; *n_links* shards are symbolic links.
    """

    container: str
    suffixes: frozenset[str]
    n_files: int
    n_links: int
    n_bytes: int
    n_text_bytes: int
    n_rows: int
    has_bom: bool

    @property
    def n_tokens(self) -> int:
        """About how many tokens the texts take."""
        return self.n_text_bytes // 3


def seen_file(source: Source, n_rows: int, n_text_bytes: int) -> SeenFile:
    """Return what there is to know of *source*. Raises DatasetError where a file cannot be read."""
    paths = source.paths
    return SeenFile(
        container=source.name.removesuffix(" shards"),
        suffixes=frozenset(path.suffix for path in paths),
        n_files=len(paths),
        n_links=sum(path.is_symlink() for path in paths) if source.is_folder else 0,
        n_bytes=max(streams.size_of(path) for path in paths),
        n_text_bytes=n_text_bytes,
        n_rows=n_rows,
        has_bom=_starts_with_mark(paths[0]),
    )


def _starts_with_mark(path: Path) -> bool:
    with streams.reading(path, "") as opened:
        return opened.file.read(len(BOM)) == BOM


# Where a file breaks the rule.
FILE_CHECKS: Mapping[Kind, Callable[[SeenFile, Rule], bool]] = {
    "containers": lambda file, rule: file.container not in rule.words,
    "suffixes": lambda file, rule: not file.suffixes <= set(rule.words),
    "max_files": lambda file, rule: file.n_files > rule.number,
    "max_shard_links": lambda file, rule: file.n_links > rule.number,
    "bom": lambda file, rule: file.has_bom != (rule.value == "required"),
    "max_bytes": lambda file, rule: file.n_bytes > rule.number,
    "min_rows": lambda file, rule: file.n_rows < rule.number,
    "max_rows": lambda file, rule: file.n_rows > rule.number,
    "max_job_tokens": lambda file, rule: file.n_tokens > rule.number,
    "advice": lambda file, rule: True,
}
