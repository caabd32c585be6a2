"""The page and the picture of a drill."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from lab.ledger import judge
from lab.report import write
from tests.support.drill_records import entry, record

SVG = "{http://www.w3.org/2000/svg}"


def test_picture_has_a_bar_for_each_attempt_coloured_by_outcome(tmp_path: Path) -> None:
    attempts = [entry(0, 1, 5, 9, ended=False), entry(0, 2, 30, 35, host="worker2"), entry(1, 1, 5, 11)]
    found = record(*attempts, entry(2, 1, 5, 9), entry(2, 2, 12, 14, committed=False))
    found.judgement = judge(found.attempts, {0: "success", 1: "success", 2: "success"})
    picture = ElementTree.parse(write(found, tmp_path).with_suffix(".svg"))  # noqa: S314, it is our own
    bars = {bar.findtext(f"{SVG}title"): bar.get("class") for bar in picture.iter(f"{SVG}rect")}
    assert bars["task 0, attempt 1: interrupted, 4.0 s"] == "interrupted"
    assert bars["task 0, attempt 2: done at a later attempt, 5.0 s"] == "later"
    assert bars["task 1, attempt 1: done, 6.0 s"] == "done"
    assert bars["task 2, attempt 1: executed twice, 4.0 s"] == "twice"
    texts = {text.text for text in picture.iter(f"{SVG}text")}
    assert {"worker1", "worker2", "fault", "recovered"} <= texts


def test_page_says_what_happened_to_the_work_and_needs_no_network(tmp_path: Path) -> None:
    found = record(entry(0, 1, 5, 9, ended=False))
    found.judgement = judge(found.attempts, {0: "success"})
    page = write(found, tmp_path).read_text()
    assert "Not passed" in page
    assert re.search(r"<tr><td>lost<td>1\b", page)
    assert re.search(r"<td>2, of which 1 failed", page)
    assert not re.findall(r"(?:src|href)=|url\(", page)
