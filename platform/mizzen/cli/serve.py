"""`mizzen serve` and `mizzen reload`: endpoints on this machine."""

from __future__ import annotations

import logging
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
    from mizzen import logs, targets
    from mizzen.cli.metrics import PORT
    from mizzen.serving import local, running, spec
    from mizzen.settings import current
    from mizzen.store.store import ModelStore

    settings = current()
    logs.start("serve")

    def say(line: str) -> None:
        logging.getLogger("mizzen.serving").info("%s", line)
        output.say(line)

    def read() -> spec.ServeSpec:
        return spec.load(serve_file) if serve_file else spec.default(ModelStore(settings.store_url))

    with targets.shown(settings.metrics_dir, settings.run_dir, port=PORT, say=output.say) as port:
        served = local.start(read(), settings, say)
        for app in served.spec.apps:
            versions, url = running.describe(app, served.versions[app.name]), served.url_of(app)
            output.out.print(f"{versions}  {url}  (docs: {url}/docs)", soft_wrap=True)
        found_by = settings.run_dir / targets.FILE
        output.say(f"metrics: http://127.0.0.1:{port}/metrics  (Prometheus finds it by {found_by})")
        output.say("Ctrl-C stops; `mizzen reload` reads the file and the aliases again")
        local.run_until_interrupted(served, read, say)


def reload() -> None:
    """Have the running `mizzen serve` read its file and resolve its aliases again; no request is dropped.

    Example: [bold]mizzen reload[/bold]
    """
    from mizzen.serving import running
    from mizzen.settings import current

    for asked in running.signal_reload(current()):
        output.out.print(f"asked process {asked.pid} at {asked.url} to reload")
