"""What is said of a rule that a file breaks. Pure: text from a rule and what was found, no word of any row."""

from __future__ import annotations

from collections.abc import Mapping

from vtuned.linting.findings import Finding
from vtuned.linting.rules import Effect, Kind, Rule

# What the file is, or its rows are, and what to do about it. {value} is the rule's, {found} what was found.
_TEXTS: Mapping[Kind, tuple[str, str]] = {
    "containers": ("this is a {found} file, and {value} is taken", "write the rows as {value}"),
    "suffixes": ("a file is called {found}, and names must end in {value}", "rename it"),
    "max_files": ("files: {found}, and at most {value} is taken", "join them to one, before planting"),
    "max_shard_links": ("symbolic links among the shards: {found}", "put the files themselves there"),
    "bom": ("a byte order mark at the start of the file is {value}", "{bom}"),
    "max_bytes": ("bytes in one file: {found}, and at most {value} are taken", "send less, or as the note says"),
    "min_rows": ("rows: {found}, and at least {value} are wanted", "give more rows"),
    "max_rows": ("rows: {found}, and at most {value} are taken", "send fewer rows"),
    "max_job_tokens": (
        "tokens an epoch: about {found} (one for 3 bytes), and at most {value} a job are taken",
        "send less",
    ),
    "formats": ("rows of another format than {value}", "convert them first"),
    "one_format": ("rows that could be of two formats", "leave one of them in each row"),
    "fields": ("rows with other keys than {value}", "leave those keys out"),
    "roles": ("rows with other roles than {value}", "rename the roles, or leave those turns out"),
    "first_role": ("rows that do not start with {value}", "let every conversation start so"),
    "last_role": ("rows that do not end with {value}", "end every conversation with the answer to train on"),
    "alternating": ("rows in which {value} do not take turns", "join turns of one role that follow each other"),
    "content": ("rows with content in parts, and {value} is taken", "join the parts to one text"),
    "max_row_tokens": ("rows of more than {value} tokens", "shorten these rows, or leave them out"),
    "deduplicates": ("rows that are copies of rows before them", "leave the copies out yourself"),
    "moderation": ("rows that hold a word of the provider's list", "leave these rows out"),
    "advice": ("{value}", ""),
}
_DOES: Mapping[Effect, str] = {
    "refuses": "refused",
    "may refuse": "may be refused",
    "cuts": "cut there",
    "drops": "dropped",
    "tells": "",
}
_BOM = {
    "required": "write the file with a mark (Python's utf-8-sig); `vtuned plant` keeps it",
    "refused": "write the file without one (Python's utf-8)",
}


def finding_of(rule: Rule, found: str = "") -> Finding:
    """Return what is said where *rule* is broken; *found* is what stands in the way of it."""
    text, hint = _TEXTS[rule.kind]
    if rule.kind == "moderation" and not rule.words:
        text = "every row goes through moderation"
    value = _value(rule)
    does = _DOES[rule.effect]
    parts = [text.format(value=value, found=found) + (f": {does}" if does else ""), rule.note]
    return Finding(
        code=rule.kind,
        severity=rule.severity,
        message="; ".join(part for part in parts if part),
        hint=hint.format(value=value, bom=_BOM.get(str(rule.value), "")) if rule.effect != "tells" else "",
        source=rule.source,
        seen=rule.seen,
    )


def _value(rule: Rule) -> str:
    if isinstance(rule.value, int):
        return f"{rule.value:,}"
    return rule.value if isinstance(rule.value, str) else " or ".join(rule.value)
