"""One self-contained HTML file: sentences, figures (inside the file) and tables."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class ReportFigure:
    """A PNG with its caption."""

    png: bytes
    caption: str = ""
    alt: str = ""

    @property
    def base64(self) -> str:
        """The PNG as text, for a data URI."""
        return base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class ReportRow:
    """A row of a table; `kind` is "strong" for the one that matters, "quiet" for references."""

    cells: Sequence[str]
    kind: str = ""


@dataclass(frozen=True)
class ReportTable:
    """A table of strings already formatted."""

    header: Sequence[str]
    rows: Sequence[ReportRow]
    note: str = ""


@dataclass(frozen=True)
class ReportSection:
    """A heading with sentences, then figures, then tables."""

    heading: str = ""
    sentences: Sequence[str] = ()
    figures: Sequence[ReportFigure] = ()
    tables: Sequence[ReportTable] = ()


@dataclass(frozen=True)
class Verdict:
    """The one sentence to read first; `mood` is "good", "bad" or ""."""

    text: str
    mood: str = ""


@dataclass(frozen=True)
class Report:
    """A whole report; `render` gives the file's text."""

    title: str
    subtitle: str = ""
    verdict: Verdict | None = None
    sections: Sequence[ReportSection] = field(default_factory=tuple)
    footer: str = ""

    def render(self) -> str:
        """Return the HTML, every text escaped, every figure inside."""
        environment = Environment(
            autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        source = files("cryoaae.reports").joinpath(TEMPLATE).read_text(encoding="utf-8")
        return environment.from_string(source).render(
            title=self.title,
            subtitle=self.subtitle,
            verdict=self.verdict,
            sections=self.sections,
            footer=self.footer,
        )
