"""`mizzen data`: sample data sets and base models."""

from __future__ import annotations

from typing import Annotated

import typer

from mizzen.cli import output

app = typer.Typer(help="Bring sample data sets and base models.", no_args_is_help=True)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="See `mizzen data list`.")],
    json: output.JsonOption = False,
) -> None:
    """Bring a sample here, checked against its digest, and say where it lies.

    Example: [bold]mizzen data fetch movielens-100k[/bold]
    """
    from mizzen import datasets

    folder = datasets.fetch(name, progress=output.say)
    if json:
        output.show_json({"name": name, "folder": str(folder)})
    else:
        print(folder)


@app.command("list")
def list_(json: output.JsonOption = False) -> None:
    """List the samples.

    Example: [bold]mizzen data list[/bold]
    """
    from mizzen import datasets

    samples = datasets.available()
    if json:
        output.show_json(
            {n: {"description": s.description, "license": s.license} for n, s in samples.items()}
        )
        return
    output.show_table(
        "", ["name", "what", "license"], [[n, s.description, s.license] for n, s in samples.items()]
    )
