"""Real rows without a download: the running interpreter's own documentation as questions and answers."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import warnings
from collections.abc import Iterator

_MODULES = """
argparse array ast base64 bisect calendar collections colorsys configparser contextlib copy csv datetime decimal
difflib email.message enum fileinput fnmatch fractions functools getpass gettext glob graphlib gzip hashlib heapq hmac
html http.client imaplib inspect io ipaddress itertools json keyword linecache locale logging mailbox math mimetypes
netrc numbers operator os pathlib pickle pkgutil platform plistlib poplib pprint queue quopri random re reprlib sched
secrets selectors shelve shlex shutil signal smtplib socket socketserver sqlite3 ssl stat statistics string stringprep
struct subprocess symtable sys tarfile tempfile textwrap threading time timeit token tokenize trace traceback types
typing unicodedata unittest.mock urllib.parse urllib.request uuid warnings wave weakref webbrowser xml.dom.minidom
xml.etree.ElementTree zipfile zlib
""".split()
_LENGTHS = range(25, 131)  # characters of an answer
_SYSTEM = "You know Python."


def rows() -> list[dict[str, object]]:
    """Return one chat row for each documented name, in an order that looks random and is the same every time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of names that are only read
        found = {
            question: answer
            for module in _MODULES
            for name, answer in _documented(module)
            for question in [f"What does `{module}.{name}` do in Python?"]
        }
    ordered = sorted(found.items(), key=lambda item: hashlib.sha256(item[0].encode()).digest())
    return [
        {
            "messages": [
                {"role": "system", "content": _SYSTEM},
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
        }
        for question, answer in ordered
    ]


def to_jsonl(some: list[dict[str, object]]) -> bytes:
    """Return *some* rows as JSON lines."""
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in some)


def _documented(module: str) -> Iterator[tuple[str, str]]:
    try:
        members = inspect.getmembers(importlib.import_module(module))
    except ImportError:  # a build of Python without this module
        return
    for name, member in members:
        if name.startswith("_") or not (inspect.isroutine(member) or inspect.isclass(member)):
            continue
        text = " ".join((inspect.getdoc(member) or "").split("\n\n")[0].split())
        if len(text) in _LENGTHS and text.endswith("."):
            yield name, text
