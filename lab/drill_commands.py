"""The commands of `lab` that run drills, judge them and show what was tried."""

from __future__ import annotations

import itertools
import json
import os
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.table import Column, Table

from lab import coverage as coverage_
from lab import draw, drills, evidence, execution, history, own, report, schedule, soak
from lab import judge as judge_
from lab.case import PHASES
from lab.checkout import Lab
from lab.faults import heal
from lab.judge import FAILED, INCONCLUSIVE, PASSED, Verdict
from lab.schedule import Schedule, ScheduleError
from lab.terminal import BAD, GOOD, UNCLEAR, console, fail, this_lab
from lab.topology import BROKERS

MARKS = {PASSED: GOOD, FAILED: BAD, INCONCLUSIVE: UNCLEAR}
CODES = {PASSED: 0, INCONCLUSIVE: 1, FAILED: 1}
Run = tuple[Schedule, Verdict]


def drill(
    names: Annotated[list[str] | None, typer.Argument(help="Drills, or all; without a name they are listed.")] = None,
    broker: Annotated[str, typer.Option(help="Move the lab to this broker first: redis, rabbitmq, both.")] = "",
    seed: Annotated[int | None, typer.Option(help="Draw broker, work, faults and moments from this number.")] = None,
    faults: Annotated[
        int, typer.Option(min=0, max=4, help="How many events are drawn; --soak: 1 and 2 alternately.")
    ] = 0,
    schedule: Annotated[Path | None, typer.Option(help="Replay a schedule.json of .lab/reports.")] = None,
    soak: Annotated[
        str, typer.Option(help="Draw schedules until one fails, for a time (2h, 30m) or a number of them (200).")
    ] = "",
    keep: Annotated[bool, typer.Option(help="Leave the lab as it is when a drill fails, and undo nothing.")] = False,
    shrink: Annotated[Path | None, typer.Option(help="Find the smallest schedule that fails like this one.")] = None,
    times: Annotated[int, typer.Option(min=1, help="--shrink: how often each schedule is run.")] = 3,
    dag: Annotated[str, typer.Option(help="Run a DAG of yours under the drill.")] = "",
    conf: Annotated[str, typer.Option(help="--dag: its configuration, in JSON.")] = "{}",
    check: Annotated[str, typer.Option(help="--dag: SQL that returns (what, count), or a Python file.")] = "",
    connection: Annotated[str, typer.Option(help="--check: the connection of Airflow for SQL.")] = own.CONNECTION,
) -> None:
    """Run drills: work, faults, recovery, a verdict, and a page with a picture in .lab/reports."""
    lab = this_lab()
    if not (names or soak or shrink or schedule or dag or seed is not None):
        console.print(_listing(lab))
        raise typer.Exit
    if broker not in ("", "both", *BROKERS):
        raise fail(f"no broker {broker!r}: {', '.join(BROKERS)}, both")
    if broker and (schedule or shrink):
        raise fail("--broker does not go with --schedule and --shrink: a schedule names its broker")
    if faults and names and not dag:
        raise fail("--faults goes with --seed and --soak: a named drill has its own")
    if broker == "both" and (dag or (seed is not None and not soak)):
        raise fail("--broker both goes with names of drills and --soak; here: redis or rabbitmq")
    check = str(_given(Path(check))) if check.endswith(".py") else check
    chosen = sum(map(bool, (names, schedule, shrink, soak)))
    if chosen > 1 or (dag and (schedule or shrink or soak)):
        raise fail("choose one: names of drills, --schedule, --shrink or --soak; --dag goes with a drill or --seed")
    try:
        if shrink:
            _shrink(lab, _load(shrink), times)
        elif soak:
            raise typer.Exit(_soak(lab, soak, seed, faults, broker, keep))
        elif dag:
            drawn = own.Own(dag, _json(conf), "", (names or [""])[0], seed, faults or 1, check, connection)
            raise typer.Exit(_table_of([_own(lab, drawn, drawn.drill or f"seed-{seed}", keep, broker)]))
        elif schedule or seed is not None:
            one = _load(schedule) if schedule else draw.draw(seed or 0, lab.topology, faults or 1, broker)
            raise typer.Exit(_table_of([_run(lab, one, keep, _hooks(one, check, connection))]))
        else:
            raise typer.Exit(_table_of(_named(lab, names or [], broker, keep)))
    except (ScheduleError, own.OwnError) as error:
        raise fail(str(error)) from error


def judge(folder: Annotated[Path, typer.Argument(help="A folder of .lab/reports, with a history.jsonl.")]) -> None:
    """Judge a drill from its history and nothing else. Exit code 0: it passed."""
    try:
        lines = history.read(_given(folder))
    except history.UnreadableError as error:
        raise fail(str(error)) from error
    verdict = _verdict(lines)
    _say(verdict)
    counts = f"{verdict.tasks} tasks, {verdict.attempts} attempts, {verdict.requests} requests"
    console.print(f"{MARKS[verdict.outcome]} {verdict.outcome}: {counts}")
    raise typer.Exit(CODES[verdict.outcome])


def coverage() -> None:
    """Show how many tasks each fault has caught in each phase of their life, in all drills of this checkout."""
    cells = coverage_.tried(this_lab().state("reports"))
    table = Table("fault", "broker", *(Column(phase, justify="right") for phase in PHASES), box=None, pad_edge=False)
    for fault, broker, counts in coverage_.rows(cells):
        table.add_row(fault, broker, *(str(count or "-") for count in counts))
    console.print(table)
    for broker, phase in coverage_.untried(cells):
        console.print(f"{UNCLEAR} on {broker} no fault has caught a task that was {phase}")


COMMANDS = (drill, judge, coverage)


def _listing(lab: Lab) -> Table:
    listing = Table("drill", "what happens", box=None, pad_edge=False)
    for name, one in here(lab).items():
        listing.add_row(name, one.title)
    for name, mine in own.drills_in(*_dag_folders(lab)).items():
        listing.add_row(name, mine.title or f"{mine.drill or f'seed {mine.seed}'} on the DAG {mine.dag}")
    return listing


def here(lab: Lab) -> dict[str, drills.Drill]:
    """Return the drills that the layout of the lab has."""
    return {name: one for name, one in drills.DRILLS.items() if one.fits(lab.topology)}


def _dag_folders(lab: Lab) -> list[Path]:
    """Return the folders of DAGs that the machines were created with: dags/, and that of DAGS= if there is one."""
    mine = lab.state("own-dags")
    return [lab.root / "dags", *([Path(mine.read_text())] if mine.exists() and mine.read_text() else [])]


def _given(path: Path) -> Path:
    """Return a path as the caller gave it: bin/lab changes to the checkout."""
    return Path(os.environ.get("LAB_CWD", ".")) / path


def _load(path: Path) -> Schedule:
    return schedule.load(_given(path))


def _json(text: str) -> dict[str, object]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise fail(f"--conf {text!r} is not JSON: {error}. An example: '{{\"rows\": 10}}'") from error
    if not isinstance(found, dict):
        raise fail(f"--conf {text!r} is not a JSON object. An example: '{{\"rows\": 10}}'")
    return found


def _named(lab: Lab, names: Iterable[str], broker: str, keep: bool) -> Iterator[Run]:
    """Run named drills, those of the lab and those of users, on one broker or on both."""
    mine = own.drills_in(*_dag_folders(lab))
    known = here(lab)
    if unknown := sorted(set(names) - set(known) - set(mine) - {"all"}):
        raise fail(f"no drill {', '.join(unknown)}: {', '.join([*known, *mine])}, or all")
    chosen = [*known] if "all" in names else [*names]
    current = lab.topology.broker
    order = {"": [current], "both": sorted(BROKERS, key=lambda name: name != current)}.get(broker, [broker])
    for on in order:
        for name in chosen:
            if name in mine:
                yield _own(lab, mine[name], name, keep, on)
            else:
                yield _run(lab, replace(drills.DRILLS[name].schedule(name, lab.topology), broker=on), keep)
    if broker == "both" and lab.topology.broker != current:
        console.print(f"moving back to {current}")
        lab.machines.provision(BROKER=current)


def _own(lab: Lab, mine: own.Own, name: str, keep: bool, broker: str = "") -> Run:
    """Run a drill on a user's DAG."""
    drawn = own.schedule_of(mine, name, lab.topology)
    own.wait_for_dag(lab.airflow, mine.dag, lab.seconds(own.FOUND))
    return _run(lab, replace(drawn, broker=broker or drawn.broker), keep, own.UnderFire(mine))


def _hooks(one: Schedule, check: str, connection: str) -> own.UnderFire | None:
    """Return what a replayed schedule on a user's DAG needs; None for the lab's own DAGs."""
    work = one.works[0]
    mine = own.Own(work.dag, work.conf, check=check, connection=connection)
    return None if work.dag in evidence.RECORDING else own.UnderFire(mine)


def _run(lab: Lab, one: Schedule, keep: bool = False, hooks: own.UnderFire | None = None) -> Run:
    """Run a schedule, and write its page."""
    console.rule(f"{one.name} on {one.broker}: {one.title}", align="left")
    start = time.monotonic()
    try:
        folder = execution.run(
            one, lab, lambda text: console.print(f"{time.monotonic() - start:5.0f} s  {text}"), keep, hooks
        )
    except (AssertionError, httpx.HTTPError) as error:
        raise fail(f"{one.name} did not start or did not end: {error}. Next: lab status, lab heal") from error
    verdict = _verdict(history.read(folder))
    page = report.write(folder, verdict)
    report.index(lab.state("reports"))
    _say(verdict)
    console.print(f"{MARKS[verdict.outcome]} {page.relative_to(lab.root)}", soft_wrap=True)
    if keep and verdict.outcome == FAILED:
        console.print("the lab is as the drill has left it. Next: lab status, lab doctor, then lab heal")
        raise typer.Exit(1)
    if keep:
        heal(lab)
    return one, verdict


def _verdict(lines: list[history.Line]) -> Verdict:
    return own.judge(lines) if lines[0].get("own") else judge_.judge(lines)


def _say(verdict: Verdict) -> None:
    """Print what a verdict found: at most ten lines of each kind."""
    for mark, found in ((BAD, verdict.findings), ("·", verdict.unavoidable), (UNCLEAR, verdict.unknown)):
        for one in found[:10]:
            console.print(f"{mark} {one}", soft_wrap=True, markup=mark != "·")
        if len(found) > 10:
            console.print(f"{mark} and {len(found) - 10} more")
    if isinstance(verdict, own.OwnVerdict):
        if verdict.delay is not None:
            console.print(f"the run took {verdict.delay:+.0f} s compared with the undisturbed one")
        for text in verdict.advice:
            console.print(f"→ {text}", soft_wrap=True)


def _soak(lab: Lab, text: str, seed: int | None, faults: int, broker: str, keep: bool) -> int:
    """Run drawn schedules until time is up, enough were run, or one fails; return the exit code."""
    try:
        seconds, count = soak.bound(text)
    except ValueError as error:
        raise fail(f"--soak: {error}") from error
    seed = random.randrange(10**6) if seed is None else seed  # noqa: S311
    console.print(f"seed {seed}: lab drill --soak {text} --seed {seed} prefers what was not tried yet")
    dice, runs, start = random.Random(seed), list[Run](), time.monotonic()  # noqa: S311
    for number in itertools.cycle([faults] if faults else [1, 2]):
        if len(runs) == count or (seconds and time.monotonic() - start > seconds):
            break
        on = lab.topology.broker if broker in ("", "both") else broker
        if broker == "both" and len(runs) % 10 == 9:  # a move takes a minute
            on = next(name for name in BROKERS if name != on)
        tried = coverage_.tried(lab.state("reports"))
        runs.append(_run(lab, draw.rarest(dice, lab.topology, tried, number, on), keep))
        console.print(f"schedule {len(runs)}, {time.monotonic() - start:.0f} s")
        if runs[-1][1].outcome == FAILED:
            break
    _table_of(runs)
    return CODES[FAILED] if any(verdict.outcome == FAILED for _, verdict in runs) else 0


def _shrink(lab: Lab, one: Schedule, times: int) -> None:
    def rate(candidate: Schedule) -> float:
        return sum(_run(lab, candidate)[1].outcome == FAILED for _ in range(times)) / times

    smallest, share = soak.shrink(one, rate, console.print)
    if not share:
        raise fail(f"{one.name} did not fail in {times} runs. Next: the same with --times {3 * times}")
    path = lab.state("reports", f"{one.name}-shrunk.json")
    smallest.save(path)
    console.print(f"{share:.0%} of {times} runs fail: {soak.summary(smallest)}")
    console.print(f"Next: lab drill --schedule {path.relative_to(lab.root)}")


def _table_of(found: Iterable[Run]) -> int:
    """Print a table of runs as soon as all have ended, also if one breaks off; return the exit code."""
    runs: list[Run] = []
    try:
        for one in found:
            runs.append(one)
    finally:
        if runs:
            console.print(_table(runs))
    return max((CODES[verdict.outcome] for _, verdict in runs), default=0)


def _table(runs: list[Run]) -> Table:
    columns = ("broker", "", "seconds", "tasks", "wrong", "unavoidable", "failed requests")
    table = Table(Column("drill", no_wrap=True), *columns, box=None, pad_edge=False)
    table.caption_justify = "left"
    table.caption = (
        "seconds until the interrupted tasks ran again; tasks; promises that were broken; what was repeated unavoidably"
    )
    for one, verdict in runs:
        table.add_row(
            one.name,
            one.broker,
            MARKS[verdict.outcome],
            "-" if verdict.recovery is None else f"{verdict.recovery:.1f}",
            str(verdict.tasks),
            str(len(verdict.findings)),
            str(len(verdict.unavoidable)),
            f"{verdict.failed_requests} of {verdict.requests}",
        )
    return table
