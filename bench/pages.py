"""Put what a benchmark found into a page of the docs, between its marks."""

from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def put(page, kind, command, text):
    """Put *text* between the marks of *kind* in docs/*page*, which say that `python` *command* wrote it."""
    path = DOCS / page
    begin, end = f"<!-- {kind}: written by `python {command}` -->\n", f"<!-- /{kind} -->"
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"{path} has no place for it: {begin.rstrip()} … {end}")
    path.write_text(before + begin + text.rstrip("\n") + "\n" + end + after, encoding="utf-8")
