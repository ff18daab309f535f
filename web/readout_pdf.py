"""A read-out on paper: verdict, checks, the figures, and the pictures as vectors. Two pages for two variants,
more for more: tables go on below their head, pictures are never cut, and every page has its number.

Chinese needs no font file: the reader's program brings STSong-Light, one of the fonts every PDF may name.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from flask_babel import gettext
from markupsafe import escape
from reportlab.graphics import shapes as draw
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import CondPageBreak, KeepTogether, Paragraph, SimpleDocTemplate, Table, TableStyle

from web import i18n
from web.charts_results import Dot, Drawing, Line, Path, Picture, Rect, Shape
from web.console.readout_page import Full, Section

CHINESE, LATIN = "STSong-Light", "Helvetica"
MARGIN = 36
SHRUNK = 0.8
"""Pictures beside each other: two pages hold everything of two variants."""
MAX_TEXT = 2_000
KEPT_ROWS, HEADED = 4, 140
"""Rows of a table that is kept in one piece; points that are left for a longer one to begin."""
_SUBSCRIPTS = str.maketrans("₁₂", "12")
"""Neither font has them."""
_COLOURS = {
    "ink": "#16181d", "soft": "#54585f", "line": "#d9d9d4", "good": "#16703f", "bad": "#b3262b",
    "watch": "#8a5a00", "arm1": "#2b4fc7", "arm2": "#d9822b", "arm3": "#0f8a7e", "arm4": "#b0458f",
    "arm5": "#6b7280", "arm6": "#7a5af0", "arm7": "#a67c00", "arm8": "#3a8fd6",
}  # fmt: skip


def pdf_of(full: Full, title: str, shop: str) -> bytes:
    """The document, in the request's language."""
    pdfmetrics.registerFont(UnicodeCIDFont(CHINESE))
    styles = _styles()
    buffer = io.BytesIO()
    document = SimpleDocTemplate(
        buffer,
        pagesize=A4,
        leftMargin=MARGIN,
        rightMargin=MARGIN,
        topMargin=MARGIN,
        bottomMargin=MARGIN,
        title=title,
        author=shop,
        invariant=1,
    )
    document.build(list(_story(full, title, shop, styles, A4[0] - 2 * MARGIN)), canvasmaker=_Numbered)
    return buffer.getvalue()


class _Numbered(Canvas):  # type: ignore[misc]
    """Writes “2 / 3” below each page: how many there are is known when the last is done."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._pages: list[dict[str, Any]] = []

    def showPage(self) -> None:
        self._pages.append(dict(self.__dict__))
        self._startPage()

    def save(self) -> None:
        for number, page in enumerate(self._pages, 1):
            self.__dict__.update(page)
            self.setFont(LATIN, 8)
            self.setFillColor(colors.HexColor(_COLOURS["soft"]))
            self.drawCentredString(A4[0] / 2, MARGIN / 2, f"{number} / {len(self._pages)}")
            super().showPage()
        super().save()


def _font(text: str) -> str:
    """The Latin font where it has every letter, else the Chinese one."""
    try:
        text.encode("cp1252")
    except UnicodeEncodeError:
        return CHINESE
    return LATIN


def _styles() -> dict[str, ParagraphStyle]:
    def style(name: str, size: float, **more: Any) -> ParagraphStyle:
        return ParagraphStyle(
            name, fontName=LATIN, fontSize=size, leading=size * 1.4, textColor=_COLOURS["ink"], **more
        )

    return {
        "title": style("title", 10, spaceAfter=2),
        "verdict": style("verdict", 14, spaceBefore=4, spaceAfter=6),
        "heading": style("heading", 11, spaceBefore=10, spaceAfter=4),
        "text": style("text", 8.5, spaceAfter=3),
        "soft": style("soft", 8, spaceAfter=3),
        "cell": style("cell", 7.5),
    }


def _text(text: str, style: ParagraphStyle) -> Paragraph:
    shown = text[:MAX_TEXT].translate(_SUBSCRIPTS)
    font = _font(shown)
    own = ParagraphStyle(
        f"{style.name}-{font}", parent=style, fontName=font, wordWrap="CJK" if font == CHINESE else None
    )
    return Paragraph(str(escape(shown)), own)


def _story(
    full: Full, title: str, shop: str, styles: dict[str, ParagraphStyle], width: float
) -> Sequence[Any]:
    view = full.view
    as_of = gettext("as of %(when)s", when=i18n.moment(view.as_of))
    story: list[Any] = [_text(f"{shop} · {title} · {as_of}", styles["title"])]
    if view.kind == "simulated":
        story.append(
            _text(
                gettext("An effect was added on purpose, to show what one looks like. Not a result."),
                styles["soft"],
            )
        )
    story.append(_text(view.advice.sentence, styles["verdict"]))
    if view.trusted:
        story.append(_text(view.verdict, styles["text"]))
    story += [_text(full.method, styles["soft"]), _text(gettext("Checks"), styles["heading"])]
    story.append(_checks(full, styles, width))
    for number, section in enumerate(full.sections):
        story += _section(section, styles, width, pictured=number == 0)
        if number == 0:
            story += _pictures(gettext("How the effect built up"), full.over_time, styles, width)
            money = [one.picture for one in full.money]
            story += _pictures(gettext("Profit and cost"), money, styles, width)
            for one in full.money:
                story.append(_text(f"{one.arm}: {' '.join(one.sentences)}", styles["text"]))
            if full.splits:
                story.append(_text(gettext("For whom"), styles["heading"]))
                story += [_text(f"{one.arm}: {one.sentence}", styles["text"]) for one in full.splits]
                story.append(_text(full.splits_note, styles["soft"]))
    if full.needs:
        story.append(_text(gettext("What it would take to know"), styles["heading"]))
        story += [_text(f"{row.arm} · {row.estimate} · {row.planned}", styles["text"]) for row in full.needs]
        story.append(_text(full.needs_note, styles["soft"]))
    return story


def _grid(rows: list[list[Any]], widths: list[float], heads: int = 0) -> Table:
    """``heads`` rows are written again where the table goes on on another page."""
    line = colors.HexColor(_COLOURS["line"])
    return Table(
        rows,
        colWidths=widths,
        repeatRows=heads,
        style=TableStyle([
            ("LINEBELOW", (0, 0), (-1, -1), 0.4, line),
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ("LEFTPADDING", (0, 0), (-1, -1), 3),
            ("RIGHTPADDING", (0, 0), (-1, -1), 3),
            ("TOPPADDING", (0, 0), (-1, -1), 2),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
        ]),
    )  # fmt: skip


def _checks(full: Full, styles: dict[str, ParagraphStyle], width: float) -> Table:
    def row(check: Any) -> list[Paragraph]:
        state = gettext("good") if check.tone == "good" else gettext("look")
        return [_text(text, styles["cell"]) for text in (check.label, state, check.text)]

    return _grid([row(check) for check in full.checks], [width * 0.24, width * 0.1, width * 0.66])


def _section(
    section: Section, styles: dict[str, ParagraphStyle], width: float, *, pictured: bool
) -> list[Any]:
    """A metric: its picture beside its heading, then the table, which may go on on another page."""
    parts: list[Any] = [_text(section.title, styles["heading"])]
    if section.picture is not None and pictured:
        parts.append(drawing(section.picture.wide, width))
    headings = [
        gettext("Variant"), gettext("Holdout, a member"), gettext("Variant, a member"),
        gettext("Difference, raw"), gettext("Adjusted (CUPED)"), gettext("Lift"),
        gettext("p, adjusted"), gettext("Incremental in all"),
    ]  # fmt: skip
    rows = [[_text(heading, styles["cell"]) for heading in headings]]
    for row in section.rows:
        cells = (
            f"{row.arm} (n = {row.n})", row.control, row.mean, _joined(row.raw), _joined(row.adjusted),
            _joined(row.lift), row.p_adjusted, _joined(row.total),
        )  # fmt: skip
        rows.append([_text(text, styles["cell"]) for text in cells])
    shares = (0.11, 0.09, 0.09, 0.165, 0.165, 0.15, 0.08, 0.15)
    notes = [section.adjusted_note] if section.adjusted_note and pictured else []
    # A reason that holds for every variant is said once.
    below = [_text(text, styles["soft"]) for text in [*notes, *dict.fromkeys(section.refused)]]
    if not section.rows:
        return [KeepTogether([*parts, *below])]
    table = _grid(rows, [width * share for share in shares], heads=1)
    if len(section.rows) <= KEPT_ROWS:
        return [KeepTogether([*parts, table, *below])]
    # The heading stays with the first rows; the rest goes on on the next page.
    return [CondPageBreak(HEADED), *([KeepTogether(parts)] if len(parts) > 1 else parts), table, *below]


def _joined(pair: tuple[str, str]) -> str:
    return f"{pair[0]} ({pair[1]})" if pair[1] else pair[0]


def _pictures(
    heading: str, pictures: Sequence[Picture], styles: dict[str, ParagraphStyle], width: float
) -> list[Any]:
    """Two beside each other, with the letters that a narrow screen has."""
    half = width / 2
    cells = [
        [_text(picture.title, styles["soft"]), drawing(picture.narrow, (half - 12) * SHRUNK)]
        for picture in pictures
    ]
    shown: list[Any] = []
    for start in range(0, len(cells), 2):
        pair = [*cells[start : start + 2], []][:2]
        head = [_text(heading, styles["heading"])] if start == 0 else []
        table = Table([pair], colWidths=[half, half], style=TableStyle([("VALIGN", (0, 0), (-1, -1), "TOP")]))
        shown.append(KeepTogether([*head, table]))
    return shown


def drawing(picture: Drawing, width: float) -> draw.Drawing:
    """The picture as vectors, ``width`` points wide; y counts upwards on paper."""
    scale = width / picture.width
    made = draw.Drawing(width, picture.height * scale)
    group = draw.Group(transform=(scale, 0, 0, -scale, 0, picture.height * scale))
    for shape in picture.shapes:
        group.add(_shape(shape))
    made.add(group)
    return made


def _shape(shape: Shape) -> Any:
    colour = colors.HexColor(_COLOURS[shape.role])
    if isinstance(shape, Line):
        return draw.Line(
            shape.x1, shape.y1, shape.x2, shape.y2, strokeColor=colour, strokeWidth=shape.width * 0.8
        )
    if isinstance(shape, Rect):
        return draw.Rect(
            shape.x, shape.y, shape.width, shape.height, fillColor=colour, fillOpacity=shape.opacity,
            strokeColor=None, strokeWidth=0,
        )  # fmt: skip
    if isinstance(shape, Dot):
        return draw.Circle(shape.x, shape.y, shape.radius, fillColor=colour, strokeColor=None)
    if isinstance(shape, Path):
        flat = [value for point in shape.points for value in point]
        if shape.closed:
            return draw.Polygon(flat, fillColor=colour, fillOpacity=shape.opacity, strokeColor=None)
        return draw.PolyLine(flat, strokeColor=colour, strokeWidth=1.6)
    # Letters would stand on their heads in the turned group: turned back about their own place.
    letters = draw.String(
        0, 0, shape.text, fontName=_font(shape.text), fontSize=12, textAnchor=shape.anchor, fillColor=colour
    )
    return draw.Group(letters, transform=(1, 0, 0, -1, shape.x, shape.y))
