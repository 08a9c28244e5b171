"""
Several processes that train together, as `torchrun`, `accelerate launch` and `mpirun` start them.

Each has a rank; the first one (rank 0) alone writes, prints and decides, the others follow. A process that was started
by itself is the first of one. (`accelerate launch --cpu` starts one process, whatever --num_processes says, unless it
is given --use_mpirun; torchrun starts several on CPUs too.)
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

from vtuned.errors import VtunedError

_T = TypeVar("_T")

# What torchrun and accelerate, Intel's MPI, Open MPI and MVAPICH tell each process; accelerate reads the same.
_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_LOCAL_RANKS = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")


def size() -> int:
    """Return how many processes train together."""
    return _told(_SIZES, 1)


def is_first() -> bool:
    """Tell whether this is the process that writes and prints."""
    return size() == 1 or _told(_RANKS, 0) == 0


def device() -> str:
    """Return the device of this process, in torch's words; "auto" where nobody has said."""
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1", "yes"):
        return "cpu"
    if size() == 1:
        return "auto"
    import torch

    return f"cuda:{_told(_LOCAL_RANKS, 0)}" if torch.cuda.is_available() else "cpu"


def be_silent_unless_first() -> None:
    """Send what this process prints nowhere, unless it is the first or is being debugged (VTUNED_DEBUG)."""
    if not is_first() and not os.environ.get("VTUNED_DEBUG"):
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def join(*, on_cpu: bool) -> None:
    """Meet the other processes, if there are any; needed once before `from_first` and `wait_for_all`."""
    if size() > 1:
        from accelerate import PartialState

        met = PartialState(**({"cpu": True, "backend": "gloo"} if on_cpu else {}))
        # Threads that still talk when the interpreter is gone abort the process.
        atexit.register(met.destroy_process_group)


def wait_for_all() -> None:
    """Wait until every process is here, so that none leaves while another still needs its word."""
    if size() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def from_first(decide: Callable[[], _T]) -> _T:
    """Return what *decide* returns in the first process, in all of them. Its errors are raised in all of them."""
    if size() == 1:
        return decide()
    from accelerate.utils import broadcast_object_list

    told: list[Any] = [None, None]
    failure: VtunedError | None = None
    if is_first():
        try:
            told[0] = decide()
        except VtunedError as error:
            failure, told[1] = error, (str(error), error.hint)
    broadcast_object_list(told, from_process=0)
    if failure is not None:
        raise failure
    if told[1] is not None:
        message, hint = told[1]
        raise VtunedError(message, hint=hint)
    return cast(_T, told[0])


def _told(names: tuple[str, ...], otherwise: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), otherwise)
