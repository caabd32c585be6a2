"""Finds tracebacks, and lines in which a program names a bug, in the logs of machines, and groups those that are alike.

A group is the logger and the last line of the traceback, the one with the exception, in which every number is a #.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.support.expected_logs import Expected

# What a program says only if something went wrong that it does not expect.
BUGS = re.compile(
    r"\bBUG\b|please report|is a bug\b|(should|must|can) ?(never|not) happen|internal error"
    r"|[Ss]egmentation fault|segfault|[Dd]umped core|core dumped|core-dump|[Aa]ssertion.* failed"
    r"|\bPANIC\b|[Kk]ernel panic|oom-kill|[Oo]ut of memory|No space left on device|[Tt]oo many open files"
    r"|deadlock detected|was never (awaited|retrieved)|\[critical *\]|\bCRITICAL\b|\[(crit|alert|emerg)\]"
    r"|CRASH REPORT|crasher"  # RabbitMQ's: a process of Erlang has ended by an error
)
TRACEBACK = re.compile(r"(Exception Group )?Traceback \(most recent call last\):$")
# The beginning of a message: a time or a level. Other lines go on with the message before.
RECORD = re.compile(r"\[?\d{4}[-/]\d\d[-/]\d\d[ T]\d\d:\d\d|(DEBUG|INFO|WARNING|ERROR|CRITICAL):\s|\{\"")
BAD = re.compile(r"\[(warning|error|exception|critical) *\]|: (WARNING|ERROR|CRITICAL)/|^(WARNING|ERROR|CRITICAL):")
LOGGER = re.compile(r"\s\[([A-Za-z_][\w.]*)\](\s+\w+=.*)?$")
GROUP = re.compile(r"^\s*\| ")  # before the lines of an exception group
VARIABLE = (
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d([.,]\d+)?([+-]\d\d:\d\d|Z)?"), "#"),
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "#"),
    (re.compile(r"\b0x[0-9a-f]+\b"), "#"),
    (re.compile(r"(?<![A-Za-z\d])\d+([.:,/-]\d+)*"), "#"),
)
LONGEST = 200  # lines of a message after its exception
SHOWN = 240  # characters of a line
WITHOUT = ("sudo",)  # who repeats the commands of the tests


@dataclass(frozen=True)
class Line:
    """A line of a log: `unit` is a systemd unit or a file, `process` tells those apart that log at the same time."""

    machine: str
    unit: str
    process: str
    moment: float  # of the machine's clock, in seconds since 1970
    text: str


@dataclass(frozen=True)
class Finding:
    """A traceback, or a line that names a bug: its logger, its last line without numbers, and all of it."""

    machine: str
    unit: str
    moment: float
    logger: str
    line: str
    text: str


@dataclass
class Group:
    """Findings that are alike."""

    logger: str
    line: str
    findings: list[Finding] = field(default_factory=list)

    @property
    def units(self) -> list[str]:
        return sorted({finding.unit for finding in self.findings})

    @property
    def machines(self) -> list[str]:
        return sorted({finding.machine for finding in self.findings})

    @property
    def first(self) -> Finding:
        return min(self.findings, key=lambda finding: finding.moment)


def constant(text: str) -> str:
    """Returns a line with a # for each time, identifier and number."""
    for pattern, mark in VARIABLE:
        text = pattern.sub(mark, text)
    return text.strip()[:SHOWN]


def unit_name(unit: str) -> str:
    """Returns the name of a unit without .service, and with a # for a worker's number and the like."""
    return re.sub(r"(?<=[@-])\d+(?=$|\.)", "#", unit.removesuffix(".service"))


# Reading


def journal(machine: str, lines: Iterable[str]) -> Iterator[Line]:
    """Returns the lines of `journalctl --output=json --all`; an entry may have several."""
    for line in lines:
        entry = json.loads(line)
        text = entry.get("MESSAGE") or ""
        if isinstance(text, list):  # bytes that are not UTF-8
            text = bytes(text).decode(errors="replace")
        sender = entry.get("SYSLOG_IDENTIFIER", "")
        if sender in WITHOUT:
            continue
        unit = unit_name(entry.get("UNIT") or entry.get("_SYSTEMD_UNIT") or sender or "kernel")
        moment = int(entry["__REALTIME_TIMESTAMP"]) / 1e6
        for one in str(text).splitlines():
            yield Line(machine, unit, f"{sender} {entry.get('_PID')}", moment, one)


def files(machine: str, lines: Iterable[str], since: float) -> Iterator[Line]:
    """Returns the lines of `tail --verbose` that were written after `since`; a line without a time has the last."""
    path, moment = "", 0.0
    for line in lines:
        if header := re.fullmatch(r"==> (.+) <==", line):
            path, moment = header[1], 0.0
            continue
        if date := re.search(r"(\d{4})[-/](\d\d)[-/](\d\d)[ T](\d\d):(\d\d):(\d\d)", line[:60]):
            moment = datetime(*map(int, date.groups()), tzinfo=UTC).timestamp()  # type: ignore[arg-type, misc]
        if moment >= since:
            yield Line(machine, path.rpartition("/")[2], path, moment, line)


# Finding


class Process:
    """What one process logs, line by line: yields what is found, a traceback when its last line has come."""

    def __init__(self) -> None:
        self.record: Line | None = None  # the last line that began a message
        self.block: list[Line] = []  # of the traceback that is being read
        self.last = ""  # its last line, once that is known: then the rest of the message follows
        self.logger = ""
        self.rest = 0

    def feed(self, line: Line) -> Iterator[Finding]:
        text = line.text.rstrip()
        if line.text.startswith('{"'):
            yield from self.close()
            yield from from_json(line)
        elif TRACEBACK.search(text):
            if not self.block and self.record and BAD.search(self.record.text):
                found = LOGGER.search(self.record.text)
                self.block, self.logger = [self.record], found[1] if found else ""
            self.block.append(line)
            self.last, self.rest = "", 0
        elif self.block and not self.last:
            if RECORD.match(text):  # of another process that writes to the same stream
                yield from self.message(line)
                return
            self.block.append(line)
            text = GROUP.sub("", text)
            if text and not text.startswith((" ", "\t")):
                self.last = text
        elif self.block and not RECORD.match(text) and self.rest < LONGEST:
            self.block.append(line)
            self.rest += 1
            if not self.logger and (found := LOGGER.match(text)):  # a message that has the traceback in it
                self.logger = found[1]
        else:
            yield from self.close()
            yield from self.message(line)
            if RECORD.match(text):
                self.record = line

    def message(self, line: Line) -> Iterator[Finding]:
        if BUGS.search(line.text):
            found = LOGGER.search(line.text)
            yield finding(line, found[1] if found else "", line.text, [line])

    def close(self) -> Iterator[Finding]:
        """Ends the traceback that is being read, if there is one."""
        if self.block:
            line = self.last or next(one.text for one in reversed(self.block) if one.text.strip())
            yield finding(self.block[0], self.logger, line, self.block)
        self.record, self.block, self.last, self.logger, self.rest = None, [], "", "", 0


def finding(first: Line, logger: str, line: str, block: list[Line]) -> Finding:
    text = "\n".join(one.text for one in block).rstrip()
    return Finding(first.machine, first.unit, first.moment, logger, constant(line), text)


def from_json(line: Line) -> Iterator[Finding]:
    """Finds the exception of a message in JSON, in which tasks and the DAG processor's children log."""
    try:
        message: dict[str, Any] = json.loads(line.text)
    except ValueError:
        return
    logger = str(message.get("logger", ""))
    if errors := message.get("error_detail"):
        last = f"{errors[0]['exc_type']}: {errors[0]['exc_value']}".splitlines()[0]
        yield finding(line, logger, last, [line])
    elif BUGS.search(str(message.get("event", ""))) or message.get("level") == "critical":
        yield finding(line, logger, str(message.get("event", "")), [line])


def findings(lines: Iterable[Line]) -> Iterator[Finding]:
    """Finds tracebacks, and lines that name a bug, in the lines of any number of machines and processes."""
    processes: dict[tuple[str, str, str], Process] = {}
    for line in lines:
        yield from processes.setdefault((line.machine, line.unit, line.process), Process()).feed(line)
    for process in processes.values():
        yield from process.close()


# Judging


@dataclass
class Search:
    """The groups that nobody expects, the most frequent first, and how often each expected line was logged."""

    unexpected: list[Group]
    expected: Counter[Expected]


def search(lines: Iterable[Line], expected: Iterable[Expected]) -> Search:
    """Searches lines for tracebacks and bugs, and tells those that are expected from the others."""
    expected = tuple(expected)
    groups: dict[tuple[str, str], Group] = {}
    times = Counter(dict.fromkeys(expected, 0))
    for found in findings(lines):
        if one := next((one for one in expected if one.matches(found.unit, found.line)), None):
            times[one] += 1
        else:
            group = groups.setdefault((found.logger, found.line), Group(found.logger, found.line))
            group.findings.append(found)
    return Search(sorted(groups.values(), key=lambda group: -len(group.findings)), times)


def describe(group: Group, test_at: Callable[[float], str]) -> str:
    """Returns what a group is, when it began, and the line that would expect it."""
    first = group.first
    moment = datetime.fromtimestamp(first.moment, UTC)
    where = f"{', '.join(group.machines)}: {', '.join(group.units)}"
    lines = [
        f"{len(group.findings)} x {where} [{group.logger or 'no logger'}]",
        f"    {group.line}",
        f"    first at {moment:%H:%M:%S} UTC on {first.machine}, during {test_at(first.moment) or 'no test'}",
        *[f"    Expected({json.dumps(unit)}, {json.dumps(group.line)})," for unit in group.units],
    ]
    return "\n".join(lines)


def report(found: Search, test_at: Callable[[float], str]) -> str:
    """Returns all that is unexpected, each group with its first text in full, and how often what is expected was."""
    unexpected = [f"{describe(group, test_at)}\n\n{group.first.text}\n" for group in found.unexpected]
    expected = [f"{count:6} x {one.unit}: {one.line}" for one, count in found.expected.items()]
    return "\n".join([*unexpected, "Expected, and how often it was logged:", *expected, ""])
