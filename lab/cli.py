"""`lab`: look at the lab, break it, heal it, and run drills."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Column, Table

from lab import deploy as deploy_
from lab import doctor as doctor_
from lab import drills, faults, report
from lab import status as status_
from lab.machines import Machines, UnsupportedError
from lab.topology import QUEUE_UNITS, ROOT

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console(highlight=False)
REPORTS = ROOT / ".lab" / "reports"
BROKERS = tuple(QUEUE_UNITS)
MANIFEST = "PYTHONPATH=/vagrant PYTHONDONTWRITEBYTECODE=1 python3 -m provision.manifest"
GOOD, BAD = "[green]✓[/]", "[red]✗[/]"


def fail(text: str) -> typer.Exit:
    """Say what is wrong and return what ends the command with code 2."""
    print(f"lab: {text}", file=sys.stderr)
    return typer.Exit(2)


@app.callback()
def check_checkout() -> None:
    if not (ROOT / "config" / "lab.json").exists():
        raise fail(f"{Path.cwd()} is not in a checkout of airflow-lab. Next: cd to one")


def machines_of_the_lab() -> Machines:
    """Return the machines, if `vagrant up` has ever made them."""
    if not (ROOT / ".lab" / "secrets.json").exists():
        raise fail("there is no lab in this checkout. Next: make up")
    return Machines()


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Look again every two seconds, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """One screen: machines, services, heartbeats, workers, queues, database, DAG runs. Exit code 0 if all is well."""
    machines = machines_of_the_lab()
    found = status_.collect(machines)
    if as_json:
        print(json.dumps(asdict(found), indent=2))
    elif watch:
        with Live(screen(found), console=console, screen=True) as live:
            while True:
                time.sleep(2)
                live.update(screen(status_.collect(machines)))
    else:
        console.print(screen(found))
    raise typer.Exit(1 if found.problems else 0)


def screen(found: status_.Status) -> Group:
    """Return what `lab status` shows."""
    where = Table("machine", "services", box=None, pad_edge=False)
    for name, services in found.services.items():
        marks = [f"{GOOD if state == 'active' else BAD} {role}" for role, state in services.items()]
        where.add_row(name, "  ".join(marks) or f"{BAD} no answer")
    beats = Table("heartbeat, s ago", "", box=None, pad_edge=False)
    for role, ages in found.heartbeats.items():
        beats.add_row(role, "  ".join(f"{name} {age:.0f}" for name, age in sorted(ages.items())))
    workers = Table("worker", "running", "takes tasks from", box=None, pad_edge=False)
    for name, worker in found.workers.items():
        before = f" ({worker['draining']} by the worker before)" if worker["draining"] else ""
        workers.add_row(name, f"{worker['running']}{before}", ", ".join(worker["queues"]) or f"{BAD} nothing")
    queues = "  ".join(f"{name} {depth}" for name, depth in found.queues.items())
    tasks = "  ".join(f"{count} {state}" for state, count in found.tasks.items()) or "none left"
    database = (
        "{version}, {connections} connections, {size_mib} MiB".format(**found.database) if found.database else "?"
    )
    runs = Table("newest DAG runs", "", "", box=None, pad_edge=False)
    for run in found.runs:
        runs.add_row(run["dag_id"], run["run_after"][:19].replace("T", " "), run["state"])
    lines = f"queued on {found.broker}: {queues or '?'}\ntasks: {tasks}\ndatabase: {database}"
    verdict = "\n".join(f"{BAD} {problem}" for problem in found.problems) or f"{GOOD} all is well"
    return Group(where, "", beats, "", workers, "", lines, "", runs, "", verdict)


@app.command()
def doctor() -> None:
    """Compare across machines what must be equal or must fit; name the cure for what does not. Exit code 0: it fits."""
    found = doctor_.examine(machines_of_the_lab())
    for finding in found:
        console.print(f"{BAD} {finding.machine}: {finding.wrong}\n  cure: {finding.cure}", soft_wrap=True)
    if found:
        raise typer.Exit(1)
    console.print(f"{GOOD} secrets, packages, airflow.cfg, DAGs, names, ports and clocks fit")


@app.command()
def manifest() -> None:
    """Print, as JSON, what each machine is made of: packages, and files with their hashes; without secrets."""
    machines = machines_of_the_lab()
    found = {
        machine.name: json.loads(machines.guest(machine.name).run_script(MANIFEST))
        for machine in machines.topology.machines
    }
    print(json.dumps(found, indent=2, sort_keys=True))


@app.command()
def fault(
    what: Annotated[str, typer.Argument(help="; ".join(f"{n}: {f.does}" for n, f in faults.FAULTS.items()))],
    machine: Annotated[str, typer.Argument(help="worker1, for example")],
    target: Annotated[
        str, typer.Argument(help="kill, restart: the service, by its role. partition: machines or roles, with commas.")
    ] = "",
) -> None:
    """Do something bad to a machine. `lab heal` undoes it."""
    machines = machines_of_the_lab()
    names = [machine.name for machine in machines.topology.machines]
    if what not in faults.FAULTS:
        raise fail(f"no fault {what!r}: {', '.join(faults.FAULTS)}")
    if machine not in names and not (machine == faults.ALL and what in ("halt", "crash")):
        raise fail(f"no machine {machine!r}: {', '.join(names)}; halt and crash also take {faults.ALL}")
    if machines.topology.provider == "docker" and what in faults.CONTAINER:
        raise fail(f"no {what} on docker: {faults.CONTAINER[what]}. Real machines have it: PROVIDER=libvirt make up")
    takes = faults.FAULTS[what].takes
    if bool(takes) != bool(target):
        raise fail(f"{what} takes {'a third word' if takes else 'no third word'}{f': {takes}' if takes else ''}")
    try:
        note = faults.FAULTS[what].inject(machines, machine, target)
    except faults.UnknownError as error:
        raise fail(str(error)) from error
    except RuntimeError as error:  # testinfra's for a connection that there is not
        raise fail(f"{machine} does not answer. Next: lab status, lab heal") from error
    except (AssertionError, subprocess.CalledProcessError) as error:
        raise fail(f"{what} {machine} could not be done. Next: lab status. {error}") from error
    console.print(f"{what} {machine} {target}: done. {note or ''}\nNext: lab status --watch, then lab heal")


@app.command()
def heal() -> None:
    """Undo every fault: thaw, reconnect, start and bring up what is not."""
    try:
        undone = faults.heal(machines_of_the_lab())
    except subprocess.CalledProcessError as error:
        raise fail(f"not all could be undone: {error}\n{error.stderr or ''}Next: make up") from error
    console.print("\n".join(undone) or "nothing had to be undone")


Label = Annotated[str, typer.Argument(help="before-upgrade, for example")]


@app.command()
def snapshot(name: Label) -> None:
    """Keep all machines as they are, under a name; they are shut down for it and brought up again."""
    machines, taken = _snapshots()
    if name in taken or not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise fail(f"{name!r}: there is a snapshot of that name, or it has more than a-z, 0-9 and -")
    machines.snapshot(name)
    console.print(f"snapshot {name}: kept. Next: change what you like, then lab restore {name}")


@app.command()
def restore(name: Label) -> None:
    """Bring all machines back to a snapshot."""
    machines, taken = _snapshots()
    if name not in taken:
        raise fail(f"no snapshot {name!r}: {', '.join(sorted(taken)) or 'there is none'}")
    machines.restore(name)
    console.print("\n".join(faults.heal(machines)) or f"restored {name}")


def _snapshots() -> tuple[Machines, set[str]]:
    machines = machines_of_the_lab()
    try:
        return machines, machines.snapshots()
    except UnsupportedError as error:
        raise fail(str(error)) from error


@app.command()
def deploy(
    inventory: Annotated[Path, typer.Argument(help="Addresses and roles, in the form of config/lab.json.")],
    ssh: Annotated[str, typer.Option(help="The command that reaches a machine.")] = "ssh -o BatchMode=yes",
) -> None:
    """Bring machines that Vagrant did not make to their roles, over SSH."""
    os.chdir(os.environ.get("LAB_CWD", "."))  # the caller's: the inventory, and a key for ssh, may be relative to it
    try:
        failed = deploy_.deploy(inventory.resolve(), shlex.split(ssh), console.print)
    except deploy_.InvalidError as error:
        raise fail(str(error)) from error
    raise typer.Exit(1 if failed else 0)


@app.command()
def drill(
    names: Annotated[list[str] | None, typer.Argument(help="Drills; none: lists them. all: every one.")] = None,
    broker: Annotated[str, typer.Option(help="Move the lab there before: redis, rabbitmq, both.")] = "",
    soak: Annotated[int, typer.Option(help="So many drills, each drawn at random from those named, or from all.")] = 0,
) -> None:
    """Run drills: work, a fault, recovery, a judgement, and a page with a picture in .lab/reports."""
    if not names and not soak:
        listing = Table("drill", "what happens", box=None, pad_edge=False)
        for name, one in drills.DRILLS.items():
            listing.add_row(name, one.title)
        console.print(listing)
        raise typer.Exit
    if unknown := sorted(set(names or []) - set(drills.DRILLS) - {"all"}):
        raise fail(f"no drill {', '.join(unknown)}: {', '.join(drills.DRILLS)}, or all")
    if broker not in ("", "both", *BROKERS):
        raise fail(f"no broker {broker!r}: {', '.join(BROKERS)}, both")
    machines = machines_of_the_lab()
    chosen = names if names and "all" not in names else list(drills.DRILLS)
    if soak:
        chosen = random.choices(chosen, k=soak)  # noqa: S311
    current = machines.topology.broker
    order = {"": [current], "both": sorted(BROKERS, key=lambda name: name != current)}.get(broker, [broker])
    records = []
    try:
        for on in order:
            if machines.topology.broker != on:
                console.print(f"moving to {on}")
                machines.provision(BROKER=on)
            for name in chosen:
                records.append(_run(name, machines))
    finally:
        if records:
            console.print(_table(records))
    raise typer.Exit(0 if all(record.passed for record in records) else 1)


def _run(name: str, machines: Machines) -> drills.Record:
    console.rule(f"{name}: {drills.DRILLS[name].title}", align="left")
    start = time.monotonic()
    try:
        record = drills.run(name, machines, lambda text: console.print(f"{time.monotonic() - start:5.0f} s  {text}"))
    except (AssertionError, httpx.HTTPError) as error:
        raise fail(f"{name} did not begin or end as it should: {error}. Next: lab status, lab heal") from error
    page = report.write(record, REPORTS)
    console.print(f"{GOOD if record.passed else BAD} {page.relative_to(ROOT)}", soft_wrap=True)
    return record


def _table(records: list[drills.Record]) -> Table:
    rest = ("broker", "", "seconds", "lost", "double", "twice", "overlap", "failed")
    table = Table(Column("drill", no_wrap=True), *rest, box=None, pad_edge=False)
    table.caption_justify = "left"
    table.caption = (
        "seconds until what the fault caught ran again; tasks lost, standing double, done twice; "
        "seconds that two tries of a task overlapped; failed requests"
    )
    for record in records:
        judgement = record.judgement
        table.add_row(
            record.name,
            record.broker,
            GOOD if record.passed else BAD,
            "-" if record.recovery is None else f"{record.recovery:.1f}",
            str(len(judgement.lost)),
            str(len(judgement.double)),
            str(len(judgement.repeated)),
            f"{max(judgement.overlaps.values(), default=0):.1f}",
            f"{record.failed_requests}/{len(record.requests)}",
        )
    return table


if __name__ == "__main__":
    app(prog_name="lab")
