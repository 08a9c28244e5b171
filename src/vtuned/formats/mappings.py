"""
A codec from the configuration of a trainer: Axolotl's YAML or LLaMA-Factory's dataset_info.json.

Knows how those name columns and roles. Reads nothing but the configuration.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import yaml

from vtuned import files
from vtuned.errors import DatasetError, UsageError
from vtuned.formats.axolotl import axolotl_codec
from vtuned.formats.base import Codec
from vtuned.formats.llama_factory import llama_factory_codec


def codec_from_config(path: Path, data_name: str | None) -> Codec:
    """
    Return the codec that the configuration at *path* describes for the data set *data_name*, a file or entry name.

    Without a name, or where no entry is of that name, the only entry is meant. Raises DatasetError if the file cannot
    be read, UsageError if it has no such entry or describes what vtuned does not read.
    """
    config = _parsed(path)
    if isinstance(config.get("datasets"), list):
        entries = [(_names_of(entry), entry) for entry in config["datasets"] if isinstance(entry, Mapping)]
        return axolotl_codec(_chosen(path, entries, data_name)[1], is_preference=bool(config.get("rl")))
    entries = [((str(name), *_names_of(entry)), entry) for name, entry in config.items() if isinstance(entry, Mapping)]
    names, entry = _chosen(path, entries, data_name)
    return llama_factory_codec(names[0], entry)


def _parsed(path: Path) -> Mapping[str, Any]:
    raw = b"".join(line.raw for line in files.read_lines(path))
    try:
        text = raw.decode("utf-8-sig")
        # YAML reads JSON too, but no tabs, and slowly.
        config = json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
    except (UnicodeDecodeError, yaml.YAMLError, json.JSONDecodeError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it is nested too deeply"
        raise DatasetError(f"{path}: neither YAML nor JSON: {reason}", hint=_HINT) from error
    if not isinstance(config, Mapping):
        raise UsageError(f"{path}: no configuration of a trainer", hint=_HINT)
    return config


def _names_of(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a data set is called: the paths and names in its entry."""
    names: list[object] = [entry.get(key) for key in ("path", "file_name", "hf_hub_url", "name")]
    data_files = entry.get("data_files")
    names.extend(data_files if isinstance(data_files, list) else [data_files])
    return tuple(name for name in names if isinstance(name, str))


def _chosen(
    path: Path, entries: list[tuple[tuple[str, ...], Mapping[str, Any]]], data_name: str | None
) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    """Return the entry of that name, or the only one."""
    wanted = {data_name, PurePath(data_name).name, PurePath(data_name).stem} if data_name else set()
    found = [
        entry for entry in entries if any(name in wanted or PurePath(name).name in wanted for name in entry[0])
    ] or entries
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(f"{path}: no data set in this configuration", hint=_HINT)
    known = ", ".join(names[0] for names, _ in found[:8] if names)
    asked = f"none or several for {data_name}" if data_name else "several data sets"
    raise UsageError(
        f"{path}: {asked} in this configuration", hint=f"rename the data or keep one entry; it has: {known}"
    )


_HINT = "give an Axolotl YAML file with `datasets:`, or LLaMA-Factory's dataset_info.json"
