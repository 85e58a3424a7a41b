"""`mlrm-guard formats`: which reasoning formats, vLLM parsers and models are known."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from monitors.formats import AUTO, FAMILIES, SEPARATED, Format
from monitors.models import MODELS, PARSERS, Model

Row = dict[str, Any]


def formats(
    as_json: Annotated[bool, typer.Option("--json", help="All that is known, as JSON.")] = False,
) -> None:
    """List reasoning formats, vLLM's reasoning parsers and models, and how each is known.

    Sources: read in the model's or vLLM's repository, seen on the wire, or unverified.
    """
    listed = [AUTO, SEPARATED, *FAMILIES]
    if as_json:
        document = {
            "formats": [_format(each) for each in listed],
            "parsers": [asdict(parser) for parser in PARSERS.values()],
            "models": [asdict(model) for model in MODELS],
        }
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    _print(
        "Formats: also as NAME-open where the chat template writes the opener, and as "
        "NAME-separated behind a reasoning parser",
        [_format_row(each) for each in listed],
    )
    _print("vLLM's --reasoning-parser", [asdict(parser) for parser in PARSERS.values()])
    _print("Models", [_model_row(model) for model in MODELS])


def _format(format: Format) -> Row:
    return {
        "name": format.name,
        "openers": list(format.all_openers),
        "closers": list(format.all_closers),
        "answers": [list(pair) for pair in format.answers],
        "boxes": list(format.boxes),
        "source": format.source,
        "note": format.note,
    }


def _format_row(format: Format) -> Row:
    return {
        "name": format.name,
        "opener": format.opener,
        "closer": format.closer,
        "source": format.source,
        "note": format.note,
    }


def _model_row(model: Model) -> Row:
    return {
        "model": model.id,
        "format": model.format,
        "source": model.source,
        "reasoning parser": model.reasoning_parser or "-",
        "note": model.note,
    }


def _print(title: str, rows: list[Row]) -> None:
    """A table on a terminal; else a line per row, tab-separated, to be searched and cut."""
    if not sys.stdout.isatty():
        typer.echo(f"# {title}")
        typer.echo("# " + "\t".join(rows[0]))
        for row in rows:
            typer.echo("\t".join(map(str, row.values())))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left")
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))  # [THINK] is no rich markup
    Console().print(table)
