from __future__ import annotations

import base64
import re

from cryoaae.reports.html import Report, ReportFigure, ReportRow, ReportSection, ReportTable, Verdict


def report() -> str:
    table = ReportTable(
        ["", "cc"], [ReportRow(["Restored", "0.73"], "strong"), ReportRow(["Input", "0.24"])], "note"
    )
    section = ReportSection(
        "Heading", ["One sentence."], [ReportFigure(b"\x89PNG data", "caption", "alt")], [table]
    )
    return Report("A <b>title</b>", "sub", Verdict("Good & done", "good"), [section], "foot").render()


def test_the_file_needs_nothing_from_outside():
    html = report()
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!data:)", html)
    assert "url(" not in html
    assert base64.b64encode(b"\x89PNG data").decode() in html


def test_texts_are_escaped_and_all_there():
    html = report()
    assert "A &lt;b&gt;title&lt;/b&gt;" in html
    assert "<b>title" not in html
    for text in (
        "Good &amp; done",
        "Heading",
        "One sentence.",
        "caption",
        "Restored",
        "0.73",
        "note",
        "foot",
    ):
        assert text in html
    assert '<tr class="strong">' in html


def test_an_empty_report_renders():
    assert "<title>Empty</title>" in Report("Empty").render()
