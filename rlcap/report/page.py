"""What the pages have in common: one file in one style, readable without a network."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rlcap.report.figures import duration, number, percent, share
from rlcap.whole_file import whole_file


def render_page(template: str, **contents: object) -> str:
    """Fill a template; everything that is not `Markup` is text."""
    environment = Environment(
        loader=PackageLoader("rlcap.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"share": share, "percent": percent, "number": number, "duration": duration}
    # The style sheet and the script are ours, and are no HTML: they go in as they stand.
    environment.globals["include_raw"] = lambda name: Markup(_source(environment, name))
    return environment.get_template(template).render(**contents)


def write_page(page: str, path: Path) -> None:
    """Write a page in one step: whoever reads it meanwhile finds the earlier one, or the whole new one."""
    with whole_file(path) as fresh:
        fresh.write_text(page, encoding="utf-8")


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
