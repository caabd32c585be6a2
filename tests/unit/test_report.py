"""The page and the picture of a drill, and the list of all drills."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from lab.history import Line, read
from lab.judge import Verdict
from lab.own import OwnVerdict
from lab.report import index, placed, render, write
from tests.support.histories import (
    MACHINES,
    attempt,
    begin,
    client,
    end,
    event,
    healthy,
    history,
    journal,
    request,
    run,
    save,
    schedule,
    task,
    worker_crash,
)

SVG = "{http://www.w3.org/2000/svg}"
CRASH = event(0, "crash", ["worker1"], 10, 45)


def lines(*parts: Line | list[Line], **fields: Any) -> list[Line]:
    return history(begin(**fields), client(), *parts, run(), healthy(55), end())


def written(folder: Path, made: list[Line], verdict: Verdict | None = None) -> ElementTree.Element:
    """Write the report of a history and return its picture."""
    write(save(folder, made), verdict)
    return ElementTree.parse(folder / "picture.svg").getroot()  # noqa: S314, it is our own


def classes(picture: ElementTree.Element) -> dict[str | None, str | None]:
    """Return the class of each rectangle of a picture, by its tooltip."""
    return {rect.findtext(f"{SVG}title"): rect.get("class") for rect in picture.iter(f"{SVG}rect")}


def texts(picture: ElementTree.Element) -> list[str | None]:
    return [text.text for text in picture.iter(f"{SVG}text")]


def test_picture_has_a_bar_for_each_attempt_coloured_by_outcome(tmp_path: Path) -> None:
    interrupted = task(0, attempt("worker1", 5, seen=9), attempt("worker2", 30, 35))
    twice = task(2, attempt("worker1", 5, 9.5), attempt("worker2", 30, 34))
    bars = classes(written(tmp_path, lines(interrupted, task(1, attempt("worker1", 3, 9)), twice, CRASH)))
    assert bars["work[0], attempt 1: interrupted, 4.0 s"] == "interrupted"
    assert bars["work[0], attempt 2: done at a later attempt, 5.0 s"] == "later"
    assert bars["work[1], attempt 1: done, 6.0 s"] == "done"
    assert bars["work[2], attempt 1: executed twice, 4.5 s"] == "twice"


def test_picture_has_a_lane_for_each_machine_and_for_one_that_joins(tmp_path: Path) -> None:
    joined = [event(0, "join", ["worker3"], 10, 40), task(0, attempt("worker4", 20, 30))]
    found = texts(written(tmp_path, lines(*joined)))
    assert [text for text in found if text in {*MACHINES, "worker3", "worker4"}] == [*MACHINES, "worker4", "worker3"]


def test_picture_names_the_moments_of_the_drill(tmp_path: Path) -> None:
    found = texts(written(tmp_path, worker_crash()))
    assert {"fault", "recovered", "undone", "work done", "healthy"} <= {*found}


def test_picture_numbers_several_events(tmp_path: Path) -> None:
    found = texts(written(tmp_path, lines(CRASH, event(1, "roll", [], 20, 50))))
    assert {"fault 1", "undone 1", "change 2", "ended 2"} <= {*found}


def test_event_is_a_band_in_the_lanes_of_its_machines(tmp_path: Path) -> None:
    made = lines(CRASH, event(1, "roll", [], 20, 50), event(2, "kill", ["master1"], 15, 15, "scheduler"))
    picture = written(tmp_path, made)
    bands = [rect.findtext(f"{SVG}title") for rect in picture.iter(f"{SVG}rect") if "band" in rect.get("class", "")]
    assert bands.count("crash worker1, 10.0 to 45.0 s") == 1
    assert bands.count("roll, 20.0 to 50.0 s") == len(MACHINES)
    assert bands.count("kill master1 scheduler, 15.0 to 15.2 s") == 1


def test_fault_of_all_machines_is_a_band_in_every_lane(tmp_path: Path) -> None:
    found = [
        rect
        for rect in written(tmp_path, lines(event(0, "crash", ["all"], 10, 45))).iter(f"{SVG}rect")
        if rect.get("class") == "fault-band"
    ]
    assert len(found) == len(MACHINES)


def test_entry_of_a_journal_is_a_tick_with_its_text(tmp_path: Path) -> None:
    picture = written(tmp_path, lines(CRASH, journal(26.1, "master2", "misses the heartbeats of tasks", count=8)))
    assert classes(picture)["26.1 s, the scheduler: misses the heartbeats of 8 tasks"] == "said"


def test_lane_has_no_more_rows_than_the_worker_has_slots(tmp_path: Path) -> None:
    picture = written(tmp_path, lines(*(task(number, attempt("worker1", 5, 9)) for number in range(30)), slots=4))
    bars = [rect.get("y") for rect in picture.iter(f"{SVG}rect") if rect.get("class") == "done"]
    assert len(bars) == 30
    assert len({*bars}) == 4


def test_names_of_moments_do_not_overlap() -> None:
    found = placed(
        [(100, "fault", "fault"), (101, "undone", "mark"), (300, "recovered", "mark"), (999, "healthy", "mark")]
    )
    assert [mark.level for mark in found] == [0, 1, 0, 0]


def test_picture_can_be_made_again_from_a_folder(tmp_path: Path) -> None:
    page = write(save(tmp_path, worker_crash()))
    document = json.loads((tmp_path / "verdict.json").read_text())
    verdict = Verdict(recovery=document["recovery"], hits=document["hits"], caught=document["caught"])
    assert render(read(tmp_path), verdict) == (tmp_path / "picture.svg").read_text()
    assert page == tmp_path / "index.html"


def test_page_says_what_happened_to_the_work(tmp_path: Path) -> None:
    lost = task(0, attempt("worker1", 5, seen=9), state="failed")
    page = write(save(tmp_path / "a-folder", lines(lost, CRASH, request(1), request(11, "ReadTimeout")))).read_text()
    assert "Not passed" in page
    assert re.search(r"<tr><td>lost<td>1\b", page)
    assert re.search(r"<td>2, of which 1 failed", page)
    assert "lost: work[0] its effect is not committed" in page
    assert "crash worker1, 10.0 to 45.0 s: tasks hit when it began: 1 running" in page
    assert "bin/lab drill --schedule .lab/reports/a-folder/schedule.json" in page
    assert "11.0 s</time>one request through nginx fails: ReadTimeout" in page


def test_page_needs_no_network(tmp_path: Path) -> None:
    page = write(save(tmp_path, worker_crash())).read_text()
    assert not re.findall(r"(?:src|href)=|url\(|@import", page)


def test_page_shows_the_seed_and_escapes_the_title(tmp_path: Path) -> None:
    made = lines(CRASH, schedule=schedule(name="seed-17", title="a <b> drill", seed=17))
    page = write(save(tmp_path, made)).read_text()
    assert "<tr><td>seed<td>17" in page
    assert "<h1>a &lt;b&gt; drill</h1>" in page


def test_long_list_of_findings_is_folded(tmp_path: Path) -> None:
    lost = [task(number, attempt("worker1", 5, seen=9), state="failed") for number in range(30)]
    page = write(save(tmp_path, lines(*lost, CRASH))).read_text()
    assert page.count("<li>lost: ") == 30
    assert "more</summary>" in page


def test_drill_that_was_interrupted_is_inconclusive_and_has_a_page(tmp_path: Path) -> None:
    page = write(save(tmp_path, [begin()])).read_text()
    assert "Inconclusive" in page
    assert "the drill was interrupted" in page


def test_attempts_are_shown_if_the_records_of_airflow_could_not_be_read(tmp_path: Path) -> None:
    made = [line for line in lines(task(0, attempt("worker1", 5, 9)), CRASH) if line["kind"] not in ("try", "run")]
    assert classes(written(tmp_path, made))["work[0], attempt 1: done, 4.0 s"] == "done"


def test_page_of_a_users_dag_shows_what_airflow_knows_of_its_tasks(tmp_path: Path) -> None:
    load = task("load", attempt("worker1", 5, seen=9), attempt("worker2", 30, 35))
    table = [{"task": "load", "attempts": 2, "state": None, "interrupted": ["crash worker1", "roll"], "worked": 4.04}]
    verdict = OwnVerdict(tasks=1, attempts=2, tasks_table=table, advice=["give load retries"], delay=12.34)
    bars = classes(written(tmp_path, lines(load, task("wait", attempt("worker1", 5, 9)), CRASH, own="orders"), verdict))
    assert bars["load, attempt 1: interrupted or failed, 19.0 s"] == "interrupted"
    assert bars["load, attempt 2: done at a later attempt, 5.0 s"] == "later"
    assert bars["wait, attempt 1: done, 4.0 s"] == "done"
    page = (tmp_path / "index.html").read_text()
    assert "The run took 12.3 s longer than the undisturbed one." in page
    assert "give load retries" in page
    assert re.search(r"<td>load\s*<td>2\s*<td>\s*<td>crash worker1; roll\s*<td>4.0\s", page)
    assert "<tr><td>lost<td>" not in page, "nobody knows whether the effect of a user's task is lost"


def test_verdict_is_saved_with_what_the_list_and_the_coverage_need(tmp_path: Path) -> None:
    write(save(tmp_path, worker_crash()))
    found = json.loads((tmp_path / "verdict.json").read_text())
    assert (found["name"], found["broker"], found["seed"]) == ("worker-crash", "redis", None)
    assert (found["passed"], found["outcome"], found["findings"]) == (True, "passed", [])
    assert found["events"] == [
        {"what": "crash", "machines": ["worker1"], "target": "", "hits": {"running": 8, "received": 3}, "caught": 11}
    ]


def drill(reports: Path, name: str, started: str, **fields: Any) -> None:
    made = schedule(name=name, **fields)
    write(save(reports / name, lines(task(0, attempt("worker1", 5, 12)), CRASH, schedule=made, started=started)))


def test_list_has_all_drills_the_newest_first(tmp_path: Path) -> None:
    drill(tmp_path, "worker-crash", "2026-01-01T00:00:00+00:00")
    drill(tmp_path, "seed-17", "2026-01-02T00:00:00+00:00", seed=17)
    page = index(tmp_path).read_text()
    assert re.findall(r'<a href="(.*?)"', page) == ["seed-17/index.html", "worker-crash/index.html"]
    assert "<td>2026-01-02 00:00:00<td>" in page
    assert '<td>17<td class="passed">Passed' in page
    assert not re.findall(r"//|src=|url\(", page.replace("<!doctype html>", ""))


def test_list_leaves_out_folders_that_are_incomplete(tmp_path: Path) -> None:
    drill(tmp_path, "worker-crash", "2026-01-01T00:00:00+00:00")
    save(tmp_path / "running", [begin()])
    for name, text in {"half": '{"name": ', "other": '{"name": "x"}', "list": "[]"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "verdict.json").write_text(text)
    page = index(tmp_path).read_text()
    assert re.findall(r'<a href="(.*?)"', page) == ["worker-crash/index.html"]


def test_list_of_no_drills_is_a_page(tmp_path: Path) -> None:
    assert "<h1>Drills</h1>" in index(tmp_path).read_text()
