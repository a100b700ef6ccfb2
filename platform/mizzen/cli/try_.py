"""`mizzen try`: a real answer from every endpoint, or the reason why there is none."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mizzen.cli import output
from mizzen.errors import ServingError


def try_(
    urls: Annotated[
        list[str], typer.Argument(metavar="URL...", help="Addresses of applications, route prefix and all.")
    ],
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="File with the API key, or a folder of them. Default: MIZZEN_API_KEYS."),
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for each endpoint to answer.")] = 60.0,
    json: output.JsonOption = False,
) -> None:
    """Wait until endpoints are ready, and have each answer an example request of its own.

    Example: [bold]mizzen try http://localhost:8000/recommendation[/bold]
    """
    from mizzen.serving import trial
    from mizzen.settings import current

    place = api_key_file or current().api_keys_dir
    key = trial.read_key(place) if place else None
    done, failures = [], []
    for url in urls:
        try:
            done.append(trial.attempt(url, key=key, timeout_s=timeout))
        except ServingError as error:
            failures.append(error)
            output.show_error(error)
    if json:
        output.show_json([asdict(one) for one in done])
    else:
        for one in done:
            said = f"answered in {one.latency_s * 1000:.0f} ms" if one.latency_s else "ready; has no example"
            output.out.print(f"{one.url}  {one.model}@{one.version}  {said}", soft_wrap=True)
    if failures:
        raise typer.Exit(ServingError.exit_code)
