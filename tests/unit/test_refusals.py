"""What `lab` does not do, it refuses with the reason or with what there is, and no machine is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from lab import cli
from lab.machines import Machines
from tests.support.checkout import Checkout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("fault explode worker1", "no fault 'explode': halt, crash,"),
        ("fault crash worker9", "no machine 'worker9': broker, master1,"),
        ("fault kill worker1", "kill takes a third word: service"),
        ("fault kill worker1 database", "worker1 has no service 'database': worker"),
        ("fault partition worker1 moon", "'moon' is nothing to cut a machine from: database,"),
        ("fault skew worker1 60", "no skew on docker: a container has the host's clock"),
        ("fault fill worker1", "no fill on docker: a container's disk is the host's"),
        ("snapshot before", "no snapshots on docker: a container's disk is no disk"),
        ("restore before", "no snapshots on docker: a container's disk is no disk"),
        ("drill moonquake", "no drill moonquake: worker-halt,"),
        ("drill worker-crash --broker kafka", "no broker 'kafka': redis, rabbitmq, both"),
    ],
)
def test_refusal_names_the_reason_or_what_there_is(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "machines_of_the_lab", lambda: Machines(Checkout(tmp_path).root))
    done = CliRunner().invoke(cli.app, words.split())
    assert done.exit_code == 2
    assert message in done.stderr
