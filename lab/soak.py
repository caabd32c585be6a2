"""Soaks and shrinking: many schedules until one fails, and the smallest schedule that still fails."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from lab.schedule import Event, Schedule, Work

SHORT = 2  # seconds; a hold or a delay below it is not shortened
FEW = 4  # tasks; a run with fewer is not made smaller
UNITS = {"s": 1, "m": 60, "h": 3600}


def bound(text: str) -> tuple[float | None, int | None]:
    """Return the seconds of `2h`, `30m` or `90s`, or the number of schedules of `200`; ValueError for other texts."""
    if found := re.fullmatch(r"(\d+)([smh]?)", text):
        number = int(found[1])
        return (number * UNITS[found[2]], None) if found[2] else (None, number)
    raise ValueError(f"{text!r} is not a length of time or a number of schedules; allowed: 2h, 30m, 90s, 200")


def shrink(schedule: Schedule, rate: Callable[[Schedule], float], say: Callable[[str], None]) -> tuple[Schedule, float]:
    """Return the smallest schedule found that still fails, and the share of its runs that failed.

    `rate` runs a schedule several times and returns that share. A smaller schedule replaces the larger one if any of
    its runs fails; what was found too small is not tried again.
    """
    found = rate(schedule)
    say(f"{found:.0%} of the runs of the whole schedule fail")
    if not found:
        return schedule, found
    refused: list[Schedule] = []
    while smaller := next((one for one in smaller_than(schedule) if one not in refused), None):
        share = rate(smaller)
        say(f"{share:.0%} fail: {summary(smaller)}")
        if share:
            schedule, found = smaller, share
        else:
            refused.append(smaller)
    return schedule, found


def summary(schedule: Schedule) -> str:
    works = ", ".join(f"{work.dag} {dict(work.conf)}" for work in schedule.works)
    events = "; ".join(f"{event} at {event.moment} + {event.delay:g} s for {event.hold}" for event in schedule.events)
    return f"{events} | {works}"


def smaller_than(schedule: Schedule) -> Iterator[Schedule]:
    """Return schedules that are smaller by one step, those that take most out first."""
    for number in range(len(schedule.events)):
        if len(schedule.events) > 1:
            yield replace(schedule, events=without(schedule.events, number))
    for number in range(len(schedule.works)):
        if len(schedule.works) > 1:
            yield replace(schedule, works=schedule.works[:number] + schedule.works[number + 1 :])
    for number, work in enumerate(schedule.works):
        for conf in smaller_confs(work):
            yield replace(schedule, works=put(schedule.works, number, replace(work, conf=conf)))
        if work.at:
            yield replace(schedule, works=put(schedule.works, number, replace(work, at=0)))
    for number, event in enumerate(schedule.events):
        if event.hold and event.hold > SHORT:
            yield replace(schedule, events=put(schedule.events, number, replace(event, hold=event.hold // 2)))


def smaller_confs(work: Work) -> Iterator[dict[str, Any]]:
    for key, value in work.conf.items():
        if key == "tasks" and value > FEW:
            yield {**work.conf, key: value // 2}
        if key in ("seconds", "long") and value > SHORT:
            yield {**work.conf, key: value // 2}


def without(events: tuple[Event, ...], number: int) -> tuple[Event, ...]:
    """Return events without one of them; the next one keeps its moment."""
    rest = list(events[:number] + events[number + 1 :])
    if number < len(rest) and rest[number].moment == "event":
        gone = events[number]
        rest[number] = replace(
            rest[number], moment=gone.moment, count=gone.count, delay=gone.delay + rest[number].delay
        )
    return tuple(rest)


def put(items: tuple[Any, ...], number: int, item: Any) -> tuple[Any, ...]:
    return (*items[:number], item, *items[number + 1 :])
