"""`lab`: look at the lab, inject faults, heal them, and run drills."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.columns import Columns
from rich.console import Group
from rich.live import Live
from rich.table import Table

from lab import deploy as deploy_
from lab import doctor as doctor_
from lab import drill_commands, faults
from lab import status as status_
from lab import switchover as switchover_
from lab.checkout import Lab, NoLabError, find_root
from lab.machines import UnsupportedError
from lab.roles import canonical
from lab.terminal import BAD, GOOD, console, fail, this_lab
from lab.topology import ALL

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
TARGET = (
    "kill, restart: the service, by its role. partition: machines or roles, with commas, or others. "
    "fill, skew: see the fault"
)
MANIFEST = "PYTHONPATH=/vagrant PYTHONDONTWRITEBYTECODE=1 python3 -m provision.manifest"


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every two seconds, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """One screen: machines, services, heartbeats, workers, queues, database, DAG runs. Exit code 0: healthy."""
    lab = this_lab()
    found = status_.collect(lab)
    if as_json:
        print(json.dumps(asdict(found), indent=2))
    elif watch:
        with Live(screen(found), console=console, screen=True) as live:
            while True:
                time.sleep(2)
                live.update(screen(status_.collect(lab)))
    else:
        console.print(screen(found))
    raise typer.Exit(1 if found.problems else 0)


def screen(found: status_.Status) -> Group:
    """Return what `lab status` shows."""
    where = Table("machine", "services", box=None, pad_edge=False)
    for name, services in found.services.items():
        marks = [f"{GOOD if state == 'active' else BAD} {role}" for role, state in services.items()]
        where.add_row(name, Columns(marks or [f"{BAD} no answer"], padding=(0, 2)))
    beats = Table("heartbeat, s ago", "", box=None, pad_edge=False)
    for role, ages in found.heartbeats.items():
        beats.add_row(role, "  ".join(f"{name} {age:.0f}" for name, age in sorted(ages.items())))
    workers = Table("worker", "running", "takes tasks from", box=None, pad_edge=False)
    for name, worker in found.workers.items():
        before = f" ({worker['draining']} by the old worker)" if worker["draining"] else ""
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
    verdict = "\n".join(f"{BAD} {problem}" for problem in found.problems) or f"{GOOD} the lab is healthy"
    members = [table_of_members(found.members)] if found.members else []
    blocks: list[Table | str] = [where, *members, beats, workers, lines, runs, verdict]
    return Group(*[part for block in blocks for part in (block, "")][:-1])


def table_of_members(members: dict[str, dict[str, str]]) -> Table:
    table = Table("members", "", box=None, pad_edge=False)
    for role, does in members.items():
        table.add_row(role, "  ".join(f"{name} {state}" for name, state in does.items()))
    return table


@app.command()
def doctor() -> None:
    """Compare the machines with each other, and name the fix for what does not match. Exit code 0 if all matches."""
    found = doctor_.examine(this_lab())
    for finding in found:
        console.print(f"{BAD} {finding.machine}: {finding.wrong}\n  fix: {finding.fix}", soft_wrap=True)
    if found:
        raise typer.Exit(1)
    console.print(f"{GOOD} secrets, packages, airflow.cfg, DAGs, names, ports and clocks match")


@app.command()
def manifest() -> None:
    """Print, as JSON, the packages of each machine, and its files with their hashes; without secrets."""
    machines = this_lab().machines
    found = {
        machine.name: json.loads(machines.guest(machine.name).run_script(MANIFEST))
        for machine in machines.topology.machines
    }
    print(json.dumps(found, indent=2, sort_keys=True))


@app.command(context_settings={"ignore_unknown_options": True})  # a negative number of seconds is not an option
def fault(
    what: Annotated[str, typer.Argument(help="; ".join(f"{n}: {f.does}" for n, f in faults.FAULTS.items()))],
    machine: Annotated[str, typer.Argument(help="such as worker1; halt and crash: or all")],
    target: Annotated[str, typer.Argument(help=TARGET)] = "",
) -> None:
    """Inject a fault into a machine. `lab heal` undoes it."""
    lab = this_lab()
    names = [machine.name for machine in lab.topology.machines]
    if what not in faults.FAULTS:
        raise fail(f"no fault {what!r}: {', '.join(faults.FAULTS)}")
    if machine not in names and not (machine == ALL and what in ("halt", "crash")):
        raise fail(f"no machine {machine!r}: {', '.join(names)}; halt and crash also take {ALL}")
    chosen = faults.FAULTS[what]
    if lab.topology.provider == "docker" and chosen.not_on_docker:
        raise fail(f"no {what} on docker: {chosen.not_on_docker}. Virtual machines have it: PROVIDER=libvirt make up")
    if bool(chosen.takes) != bool(target):
        wanted = f"needs an argument: {chosen.takes}" if chosen.takes else "takes no argument other than the machine"
        raise fail(f"{what} {wanted}")
    try:
        note = chosen.inject(lab, machine, target)
    except faults.UnknownError as error:
        raise fail(str(error)) from error
    except RuntimeError as error:  # testinfra's, if it cannot connect
        raise fail(f"{machine} does not answer. Next: lab status, lab heal") from error
    except (AssertionError, subprocess.CalledProcessError) as error:
        raise fail(f"{what} {machine} failed. Next: lab status. {error}") from error
    console.print(f"{what} {machine} {target}: done. {note or ''}\nNext: lab status --watch, then lab heal")


@app.command()
def heal() -> None:
    """Undo every fault: thaw, bring up, reconnect and restart."""
    try:
        undone = faults.heal(this_lab())
    except subprocess.CalledProcessError as error:
        raise fail(f"not everything was undone: {error}\n{error.stderr or ''}Next: make up") from error
    console.print("\n".join(undone) or "nothing to undo")


@app.command()
def switchover(role: Annotated[str, typer.Argument(help="database or queue")]) -> None:
    """Hand the database's primary, or the queue's master, to another machine, without a fault."""
    if (name := canonical(role)) not in switchover_.HANDED_OVER:
        raise fail(f"no switchover of {role!r}: {', '.join(switchover_.HANDED_OVER)}")
    try:
        console.print(switchover_.switchover(this_lab(), name))
    except (switchover_.RefusedError, AssertionError) as error:
        raise fail(str(error)) from error


Label = Annotated[str, typer.Argument(help="before-upgrade, for example")]


@app.command()
def snapshot(name: Label) -> None:
    """Save all machines under a name; they are shut down for it and brought up again."""
    lab, taken = _snapshots()
    if name in taken or not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise fail(f"{name!r}: a snapshot has that name, or it has other characters than a-z, 0-9 and -")
    lab.machines.snapshot(name)
    console.print(f"snapshot {name}: saved. Next: change the lab, then lab restore {name}")


@app.command()
def restore(name: Label) -> None:
    """Restore all machines from a snapshot."""
    lab, taken = _snapshots()
    if name not in taken:
        raise fail(f"no snapshot {name!r}: {', '.join(sorted(taken)) or 'there is none'}")
    lab.machines.restore(name)
    console.print("\n".join(faults.heal(lab)) or f"restored {name}")


def _snapshots() -> tuple[Lab, set[str]]:
    lab = this_lab()
    try:
        return lab, lab.machines.snapshots()
    except UnsupportedError as error:
        raise fail(str(error)) from error


@app.command()
def deploy(
    inventory: Annotated[Path, typer.Argument(help="Addresses and roles, in the form of config/lab.json.")],
    ssh: Annotated[str, typer.Option(help="The command that reaches a machine.")] = "ssh -o BatchMode=yes",
) -> None:
    """Install the roles on machines that Vagrant did not create, over SSH."""
    try:
        root = find_root(Path.cwd())
    except NoLabError as error:
        raise fail(str(error)) from error
    os.chdir(os.environ.get("LAB_CWD", "."))  # the inventory, and a key for ssh, may be relative to the caller's folder
    try:
        failed = deploy_.deploy(root, inventory.resolve(), shlex.split(ssh), console.print)
    except deploy_.InvalidError as error:
        raise fail(str(error)) from error
    raise typer.Exit(1 if failed else 0)


for command in drill_commands.COMMANDS:
    app.command()(command)


if __name__ == "__main__":
    app(prog_name="lab")
