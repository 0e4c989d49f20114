"""Self-contained HTML pages: texts are escaped, nothing is fetched, equal data give equal bytes.

A page carries its style, its script and its data inside itself and forbids all requests by a
content security policy; pictures are data addresses.
"""

import html
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template
from typing import Any

TEMPLATES = Path(__file__).parent.parent / "templates"


def template(name: str) -> str:
    """The text of a file of the package's templates."""
    return (TEMPLATES / name).read_text("utf-8")


def page(title: str, body: str, *, styles: Sequence[str], script: str, data: Any = None) -> str:
    """A whole document. `body` is HTML; `styles` and `script` name templates; `data` is for JSON.

    The script finds the data as the text of the element #data.
    """
    return Template(template("page.html")).substitute(
        title=text(title),
        style="\n".join(template(name) for name in ("common.css", *styles)),
        body=body,
        data=script_json(data),
        script=template(script),
    )


def text(value: object) -> str:
    """Any text, such as a file name, as HTML text or attribute; undecodable bytes become '?'."""
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8"))


def script_json(data: Any) -> str:
    """JSON that cannot end a script element or open a comment, whatever its strings hold."""
    dumped = json.dumps(data, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return dumped.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def number(value: float) -> str:
    """A value for people: integers whole, else four significant digits; 1e-3 to 1e6 as decimals."""
    if not math.isfinite(value):
        return {True: "∞", False: "−∞"}[value > 0] if not math.isnan(value) else "–"
    if value == round(value) and abs(value) < 1e6:
        shown = str(round(value))
    elif not 1e-3 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.2e}".split("e")
        shown = f"{mantissa}e{int(exponent)}"
    else:
        digits = 3 - math.floor(math.log10(abs(value)))
        shown = f"{value:.{max(0, digits)}f}"
    return shown.replace("-", "−")


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", kind: str = ""
) -> str:
    """A table of HTML cells; the first cell of each row names it. Scrolls sideways if too wide."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = []
    for first, *others in rows:
        cells = "".join(f"<td>{cell}</td>" for cell in others)
        lines.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    # Beside the table, not in it: a wide table would take its caption out of sight
    title = f'<p class="soft">{caption}</p>' if caption else ""
    return (
        f'{title}<div class="scroll"><table class="{kind}"><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )
