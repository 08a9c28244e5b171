"""JSON as strictly as those who will train on it may read it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import NoReturn


def decode(data: bytes, unit: str = "row") -> object:
    """
    Return the JSON value in *data*, the bytes of one row. Raises ValueError if it is not UTF-8 or not JSON.

    Stricter than `json.loads`: JSON knows no NaN and no Infinity. Positions in reasons count from 1, in the row that
    *unit* names.
    """
    try:
        text = data.decode("utf-8")
        if text.startswith("\ufeff"):
            raise ValueError("a byte order mark may stand only at the start of the file")
        return _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start + 1} of the {unit})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} (column {error.pos + 1})") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def as_object(value: object) -> Mapping[str, object]:
    """Return *value* if it is a JSON object. Raises ValueError that says what it is otherwise."""
    if not isinstance(value, Mapping):
        raise ValueError(f"not a JSON object but {_KINDS.get(type(value), 'a number')}")
    return value


def _number(digits: str) -> int | float:
    """Read an integer of any length: beyond this threshold `int` may refuse, and only its being a number matters."""
    return int(digits) if len(digits) <= sys.int_info.str_digits_check_threshold else float(digits)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"not JSON: {name} is not a JSON value")


_DECODER = json.JSONDecoder(parse_int=_number, parse_constant=_no_constant)
_KINDS = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
