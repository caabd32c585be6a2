"""`lab` refuses what it cannot do before it asks a machine, and names the reason or what is allowed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lab import cli, drill_commands
from lab.checkout import Lab
from tests.support import ROOT


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("fault explode worker1", "no fault 'explode': freeze, halt, crash,"),
        ("fault crash worker9", "no machine 'worker9': broker, master1,"),
        ("fault kill worker1", "kill needs an argument: service"),
        ("fault kill worker1 database", "worker1 does not have the service 'database': worker"),
        ("fault partition worker1 moon", "'moon' is not a machine or a role with a port: database,"),
        ("fault skew worker1 60", "no skew on docker: a container has the host's clock"),
        ("fault skew worker1 -60", "no skew on docker: a container has the host's clock"),
        ("fault fill worker1", "no fill on docker: a container's disk is the host's"),
        ("snapshot before", "no snapshots on docker: a container has no own disk"),
        ("restore before", "no snapshots on docker: a container has no own disk"),
        ("drill moonquake", "no drill moonquake: worker-halt,"),
        ("drill worker-crash --broker kafka", "no broker 'kafka': redis, rabbitmq, both"),
        ("drill --schedule a.json --broker redis", "a schedule names its broker"),
        ("drill worker-crash --faults 2", "--faults goes with --seed and --soak"),
        ("drill --seed 1 --broker both", "--broker both goes with names of drills and --soak"),
        ("drill --soak 2d", "--soak: '2d' is not a length of time or a number of schedules; allowed: 2h,"),
        ("drill --schedule nowhere.json", "nowhere.json: No such file or directory"),
        ("drill --shrink nowhere.json", "nowhere.json: No such file or directory"),
        ("drill worker-crash --soak 10", "choose one: names of drills, --schedule, --shrink or --soak"),
        ("drill --soak 10 --dag mine", "--dag goes with a drill or --seed"),
        ("drill --dag mine", "the DAG mine needs a drill or a seed: lab drill worker-crash --dag mine"),
        ("drill moonquake --dag mine", "no drill 'moonquake': worker-halt,"),
        ("drill worker-crash --dag mine --conf rows=3", "--conf 'rows=3' is not JSON"),
        ("drill worker-crash --dag mine --conf [3]", "--conf '[3]' is not a JSON object"),
        ("judge nowhere", "history.jsonl: No such file or directory. The folders of drills are in .lab/reports/"),
    ],
)
def test_refusal_names_the_reason_or_what_is_allowed(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".lab").mkdir()
    shutil.copy(ROOT / "tests" / "support" / "lab.json", tmp_path / ".lab")
    for module in (cli, drill_commands):
        monkeypatch.setattr(module, "this_lab", lambda: Lab(tmp_path))
    done = CliRunner().invoke(cli.app, words.split())
    assert done.exit_code == 2
    assert message in done.stderr
