"""The generated parts of the documentation: `python -m tests.documents` writes them."""

import re
from pathlib import Path

from restorectl.catalog import FORMATS, METRICS, Row, methods
from restorectl.weights.registry import PACKAGED, read_registry

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "restorectl/docs"
PAGES = (README, *sorted(DOCS.glob("*.md")))


def rows(header: str, lines: list[str]) -> str:
    columns = header.count("|") - 1
    return "\n".join([header, "|" + "---|" * columns, *lines])


def catalog_table(table: dict[str, Row], title: str) -> str:
    return rows(
        f"| {title} | what |", [f"| `{name}` | {row.help} |" for name, row in table.items()]
    )


def weights_table() -> str:
    lines = [
        f"| `{name}` | {model.entry.task} | {model.entry.domain} | {model.entry.network} |"
        f" {model.entry.bytes / 1e6:.0f} MB | {model.where()} | {model.entry.licence} |"
        for name, model in read_registry(PACKAGED).items()
        if model.entry is not None
    ]
    return rows("| name | task | domain | network | size | where | licence |", lines)


def generated() -> dict[str, str]:
    """Part name -> its Markdown."""
    return {
        "samplers": catalog_table(methods("restore"), "sampler"),
        "denoisers": catalog_table(methods("denoise"), "method"),
        "metrics": catalog_table(METRICS, "metric"),
        "formats": catalog_table(FORMATS, "format"),
        "weights": weights_table(),
    }


def filled(text: str) -> str:
    """A page with every generated part renewed."""
    for name, part in generated().items():
        pattern = rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda m, p=part: f"{m[1]}{p}\n{m[2]}", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text("utf-8")), "utf-8")
