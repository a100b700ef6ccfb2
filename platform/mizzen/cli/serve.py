"""`mizzen serve` and `mizzen reload`: endpoints on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mizzen.cli import output


def serve(
    serve_file: Annotated[
        Path | None,
        typer.Argument(metavar="[SERVE.yaml]", help="Default: every model with the alias production."),
    ] = None,
) -> None:
    """Serve models over HTTP on this machine, until Ctrl-C.

    Example: [bold]mizzen serve jobs/serve.yaml[/bold]
    """
    from mizzen.serving import local, spec
    from mizzen.settings import current
    from mizzen.store.store import ModelStore

    settings = current()

    def read() -> spec.ServeSpec:
        return spec.load(serve_file) if serve_file else spec.default(ModelStore(settings.store_url))

    served_spec = read()
    output.say("starting the endpoints")
    with local.start(served_spec, settings, read) as served:
        for app in served_spec.apps:
            output.out.print(f"{app.model}  {served.url}{app.route_prefix}  (docs: {served.url}{app.route_prefix}/docs)")
        output.say("Ctrl-C stops; `mizzen reload` reads the file and the aliases again")
        served.run_until_interrupted()


def reload() -> None:
    """Have the running `mizzen serve` read its file and resolve its aliases again; no request is dropped.

    Example: [bold]mizzen reload[/bold]
    """
    from mizzen.serving import local
    from mizzen.settings import current

    pid = local.signal_reload(current())
    output.out.print(f"asked process {pid} to reload")
