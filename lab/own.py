"""Drills on the DAGs of users: one undisturbed run, one under the events of a schedule, and what to change in the DAG.

Such a DAG records nothing for the lab. What happened to its tasks is what Airflow's records of attempts and the
workers' journals show, and what the user's own check finds.
"""

from __future__ import annotations

import importlib.util
import json
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from lab import draw
from lab.case import Case, hits
from lab.checkout import Lab
from lab.client import Airflow
from lab.drills import DRILLS
from lab.execution import Execution
from lab.faults import script
from lab.history import Line, of_kind
from lab.judge import FAILED, INCONCLUSIVE, Finding, Verdict, cause, recovery
from lab.schedule import Schedule, Work
from lab.topology import Topology
from lab.waiting import eventually

CONNECTION = "lab_database"
FOUND = 90  # seconds within which Airflow knows a new DAG file
RUN = 3600  # seconds that a run may take
LONG = 60  # seconds of work that an interruption should not cost
SLOW_RETRY = 60  # seconds until the next attempt that are worth a hint


class OwnError(Exception):
    """A DAG, a drill or a check that cannot be used, and why."""


@dataclass(frozen=True)
class Own:
    """A user's DAG under fire. `drill` is a named drill; without one, `seed` and `faults` draw the events.

    `check` is SQL that returns rows (what, count), of which each count must be 1, over an Airflow `connection`; or the
    path of a Python file with a function `check(run_id, query)` that returns a list of problems.
    """

    dag: str
    conf: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    drill: str = ""
    seed: int | None = None
    faults: int = 1
    check: str = ""
    connection: str = CONNECTION


def drills_in(*folders: Path) -> dict[str, Own]:
    """Return the drills in the TOML files beside the DAGs, by name; OwnError for a file that is not one."""
    found = {}
    for path in sorted(path for folder in folders for path in folder.glob("*.toml")):
        try:
            document = tomllib.loads(path.read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise OwnError(f"{path}: {error}") from error
        for name, entry in document.items():
            found[name] = _own(f"{path}: [{name}]", entry, path.parent)
    return found


def _own(place: str, entry: Any, folder: Path) -> Own:
    allowed = {one.name: one for one in fields(Own)}
    if not isinstance(entry, dict) or "dag" not in entry:
        raise OwnError(f"{place}: a drill is a table with the key dag")
    if unknown := entry.keys() - allowed.keys():
        raise OwnError(f"{place}: unknown key {', '.join(sorted(unknown))}; allowed: {', '.join(allowed)}")
    kinds = {"conf": dict, "seed": int, "faults": int}
    for key, value in entry.items():
        if not isinstance(value, kinds.get(key, str)):
            raise OwnError(f"{place}: {key}: {value!r} is not of type {kinds.get(key, str).__name__}")
    if entry.get("check", "").endswith(".py"):
        entry = entry | {"check": str(folder / entry["check"])}
    return Own(**entry)


def schedule_of(own: Own, name: str, topology: Topology) -> Schedule:
    """Return the schedule of a drill on a user's DAG; OwnError if it names no drill that there is, and no seed."""
    work = Work(own.dag, own.conf)
    if own.drill:
        if own.drill not in DRILLS:
            raise OwnError(f"no drill {own.drill!r}: {', '.join(DRILLS)}")
        return DRILLS[own.drill].on(work, name, topology)
    if own.seed is None:
        raise OwnError(f"the DAG {own.dag} needs a drill or a seed: lab drill worker-crash --dag {own.dag}")
    return draw.draw(own.seed, topology, own.faults, topology.broker, [work])


def wait_for_dag(airflow: Airflow, dag: str, seconds: float) -> None:
    """Wait until Airflow knows a DAG; OwnError if its file cannot be imported, or no file defines it."""

    def known() -> None:
        answer = airflow.http.get(f"/api/v2/dags/{dag}")
        assert answer.status_code != 404
        assert not answer.raise_for_status().json()["has_import_errors"]

    try:
        eventually(known, seconds=seconds)
    except AssertionError:
        errors = airflow.get("importErrors", limit=5)["import_errors"]
        broken = "; ".join(f"{one['filename']}: {one['stack_trace'].strip().splitlines()[-1]}" for one in errors)
        names = ", ".join(one["dag_id"] for one in airflow.get("dags", limit=50)["dags"])
        why = f"files that cannot be imported: {broken}" if broken else f"it knows {names}"
        raise OwnError(f"Airflow does not have a DAG {dag!r} that works: {why}") from None


@dataclass
class UnderFire:
    """The hooks of a drill on a user's DAG."""

    own: Own
    paused: bool = False  # before the drill

    @property
    def dag(self) -> str:
        return self.own.dag

    def before(self, execution: Execution) -> None:
        """Run the DAG once without any event; OwnError if that fails already."""
        own, lab, run = self.own, execution.lab, f"drill-{execution.history.started:%Y%m%dT%H%M%S}-undisturbed"
        if own.check.endswith(".py"):
            _module(Path(own.check))  # before the DAG runs
        self.paused = lab.airflow.get(f"dags/{own.dag}")["is_paused"]
        execution.say(f"{own.dag}: first an undisturbed run")
        execution.trigger_one(execution.schedule.works[0], run, baseline=True)
        if not execution.progress.accepted:
            answer = of_kind(execution.history.lines(), "client")[-1]["error"]
            raise OwnError(f"Airflow does not start a run of {own.dag}: {answer}")
        execution.progress.accepted.clear()
        ended = lab.airflow.wait(own.dag, run, within=RUN)
        execution.give_up += ended["duration"] / lab.seconds(1)
        if ended["state"] != "success":
            counts = lab.airflow.counts(own.dag, run)
            raise OwnError(f"{own.dag} fails without any fault ({counts}). Next: {ui(lab, own)}")
        if problems := check(lab, own, run):
            raise OwnError(f"the check already finds problems after an undisturbed run: {'; '.join(problems[:3])}")
        execution.say(f"undisturbed: {ended['duration']:.0f} s")

    def after(self, execution: Execution) -> None:
        """Make the user's check, and pause the DAG if it was."""
        execution.lab.airflow.unpause(self.dag, paused=self.paused)
        if self.own.check:
            for run in [*execution.progress.accepted, *execution.progress.maybe]:
                if run in execution.progress.runs:
                    self.check(execution, run)

    def check(self, execution: Execution, run: str) -> None:
        """Write what the user's check finds to the history, or that it failed: there must be a history in any case."""
        try:
            execution.history.write("check", problems=check(execution.lab, self.own, run))
        except OwnError as error:
            execution.history.write("problem", text=str(error))


def ui(lab: Lab, own: Own) -> str:
    return f"http://{lab.topology.reach('load_balancer')}/dags/{own.dag}"


def check(lab: Lab, own: Own, run: str) -> list[str]:
    """Return what the user's check finds in a run; OwnError if it cannot be made."""
    if not own.check:
        return []
    if own.check.endswith(".py"):
        module = _module(Path(own.check))
        return [*map(str, module.check(run, lambda sql, name=own.connection: query(lab, name, sql, run)))]
    rows = query(lab, own.connection, own.check, run)
    return [f"{what}: {count} times" for what, count in rows if int(count) != 1] or ([] if rows else ["no rows"])


def query(lab: Lab, connection: str, sql: str, run: str) -> list[list[Any]]:
    """Return the rows of a query over a connection of Airflow, made on a machine that may read its password."""
    machine = lab.topology.with_role("scheduler")[0].name
    try:
        printed = script(lab, machine, "query.sh", connection, sql, run)
    except Exception as error:
        text = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        raise OwnError(f"the check failed on {connection}: {text[-1] if text else error}") from error
    return json.loads(next(line for line in printed.splitlines() if line.startswith("rows: ")).removeprefix("rows: "))


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("check", path)
    if not spec or not spec.loader or not path.exists():
        raise OwnError(f"{path}: the file does not exist")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "check"):
        raise OwnError(f"{path}: it needs a function check(run_id, query) that returns a list of problems")
    return module


@dataclass
class OwnVerdict(Verdict):
    """A verdict on a user's DAG: a row for each task that was not executed exactly once, and advice."""

    tasks_table: list[dict[str, Any]] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    delay: float | None = None


def judge(lines: Sequence[Line]) -> OwnVerdict:
    """Return what a history shows of a user's DAG; a pure function, like `lab.judge.judge`."""
    case, verdict = Case(lines), OwnVerdict()
    requests = of_kind(lines, "request")
    verdict.requests, verdict.failed_requests = len(requests), sum(line["phase"] == "fail" for line in requests)
    verdict.unknown = [f"{line['what']}: {line['error']}" for line in of_kind(lines, "unreadable")]
    runs = {
        line["baseline"]: line["run"]
        for line in of_kind(lines, "client")
        if line["phase"] == "ok" or (line["phase"] == "unknown" and line["run"] in case.runs)
    }
    real = case.runs.get(runs.get(False, ""))
    for event in case.events:
        verdict.hits.append(dict(hits(case, event, event.begin, event.begun, [runs.get(False, "")])))
        found = hits(case, event, event.begin, max(event.end, event.begun), [runs.get(False, "")])
        verdict.caught.append(sum(found.values()))
    if real is None and False in runs and not verdict.unknown:
        verdict.outcome = FAILED
        verdict.findings.append(Finding("lost", "Airflow accepted the run, and does not know it", runs[False]))
        return verdict
    if real is None:
        verdict.outcome = INCONCLUSIVE
        verdict.unknown.append("Airflow has no record of the run")
        return verdict
    verdict.delay = delay(case, runs)
    verdict.recovery = recovery(case)
    keys = [key for key in case.tries if key[0] == real["run"]]
    for key in keys:
        judge_task(case, key, verdict)
    verdict.tasks = len(keys)
    if real["state"] != "success":
        verdict.findings.append(Finding("failed", f"the run is {real['state']}", real["run"]))
    verdict.findings += [
        Finding("did harm", problem) for line in of_kind(lines, "check") for problem in line["problems"]
    ]
    advise(lines, verdict)
    verdict.findings += [Finding("unhealthy", line["text"]) for line in of_kind(lines, "problem")]
    if verdict.findings:
        verdict.outcome = FAILED
    elif not any(verdict.caught):
        verdict.outcome = INCONCLUSIVE
        verdict.unknown.append("no fault caught a task of this DAG: try another moment, or a longer run")
    return verdict


def delay(case: Case, runs: Mapping[bool, str]) -> float | None:
    """Return how many seconds longer the run under the events took than the undisturbed one."""
    took = {}
    for baseline, run in runs.items():
        found = case.runs.get(run)
        if found and found["started"] is not None and found["ended"] is not None:
            took[baseline] = found["ended"] - found["started"]
    return round(took[False] - took[True], 1) if len(took) == 2 else None


def judge_task(case: Case, key: tuple[str, str], verdict: OwnVerdict) -> None:
    """Add a row for a task that was attempted more than once, or did not succeed."""
    tries = case.tries[key]
    verdict.attempts += len(tries)
    final = tries[-1]
    if len(tries) == 1 and final["state"] == "success":
        return
    row: dict[str, Any] = {"task": key[1], "attempts": len(tries), "state": final["state"], "retries": final["retries"]}
    causes = [cause(case, key, one) for one in tries]
    row["interrupted"] = [why for why in causes[: len(tries) - (final["state"] == "success")] if why]
    row["by itself"] = sum(not why for why in causes[: len(tries) - (final["state"] == "success")])
    row["worked"] = max((length(one) for one in tries[:-1]), default=0.0)
    row["waited"] = max((gap(one, after) for one, after in pairwise(tries)), default=0.0)
    together = (really_ended(case, key, one) - (after["started"] or case.last) for one, after in pairwise(tries))
    row["overlap"] = round(max([*together, 0.0]), 1)
    verdict.tasks_table.append(row)
    if final["state"] in ("failed", "upstream_failed"):
        rule = "no retries left" if row["interrupted"] and final["state"] == "failed" else "failed"
        verdict.findings.append(Finding(rule, f"Airflow says {final['state']} after {len(tries)} attempts", *key))


def length(one: Line) -> float:
    return max((one["ended"] or 0) - one["started"], 0.0) if one["started"] is not None else 0.0


def gap(one: Line, after: Line) -> float:
    return max((after["started"] or 0) - (one["ended"] or 0), 0.0)


def really_ended(case: Case, key: tuple[str, str], one: Line) -> float:
    """Return when the process of an attempt ended: its worker's journal knows, Airflow may have given it up earlier."""
    done = [line["at"] for line in case.said(key, one) if line["phase"] == "done"]
    return max([*done, one["ended"] or 0])


def advise(lines: Sequence[Line], verdict: OwnVerdict) -> None:
    """Say what to change in the DAG, each advice once, with the tasks that it is for."""
    checked = bool(of_kind(lines, "check"))
    harm = any(one.rule == "did harm" for one in verdict.findings)
    tasks: dict[str, list[str]] = defaultdict(list)
    for row in verdict.tasks_table:
        for text in advice(row, harm, checked):
            tasks[text].append(row["task"])
    for text, names in tasks.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        verdict.advice.append(f"{', '.join(names[:3])}{more}: {text}")


def advice(row: Mapping[str, Any], harm: bool, checked: bool) -> Iterator[str]:
    """Return what to change because of what happened to a task."""
    retries = row["retries"]
    if row["state"] == "failed" and row["interrupted"]:
        yield f"retries = {retries} is not enough: a lost machine costs an attempt. Set retries = {retries + 1} or more"
    if row["attempts"] > 1 and row["interrupted"] and harm:
        yield "executed again, which did harm. Write under a key: a second write changes nothing (dags/merge_orders.py)"
    if row["attempts"] > 1 and row["interrupted"] and not checked:
        yield "executed again from its start. If its writes are not idempotent, that did harm: find out with --check"
    if row["overlap"]:
        yield f"two attempts ran at the same time ({row['overlap']:.0f} s). Protect what it writes by a key or a lock"
    if row["worked"] > LONG and row["interrupted"]:
        yield f"an interruption cost {row['worked']:.0f} s of work. Divide it into smaller tasks, or save what is done"
    if row["waited"] > SLOW_RETRY:
        yield f"the next attempt started {row['waited']:.0f} s later. Lower retry_delay"
    if row["by itself"]:
        yield "an attempt failed that no fault explains: read its log"
