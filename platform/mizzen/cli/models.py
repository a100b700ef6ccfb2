"""`mizzen models`: what lies in the store."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mizzen.cli import output
from mizzen.errors import IntegrityError

app = typer.Typer(help="See, check, name, copy the models in the store.", no_args_is_help=True)

Reference = Annotated[
    str, typer.Argument(metavar="NAME[@VERSION|@ALIAS]", help="A model, or one version of it.")
]


def _store() -> Any:
    from mizzen.settings import current
    from mizzen.store.store import ModelStore

    return ModelStore(current().store_url)


def _store_to_change() -> Any:
    from mizzen import recording

    recording.begin_beside_others()
    return _store()


@app.command("list")
def list_(json: output.JsonOption = False) -> None:
    """List the models with their latest versions and aliases.

    Example: [bold]mizzen models list[/bold]
    """
    store = _store()
    rows = []
    for name in store.models():
        versions = store.versions(name)
        latest = store.manifest(name, versions[-1])
        rows.append(
            {
                "name": name,
                "workload": latest.workload,
                "versions": len(versions),
                "latest": latest.version,
                "gate_passed": latest.gate.passed,
                "created_at": latest.created_at.isoformat(timespec="seconds"),
                "aliases": {alias: move.version for alias, move in store.aliases(name).items()},
            }
        )
    if json:
        output.show_json(rows)
        return
    output.show_table(
        "",
        ["model", "workload", "versions#", "latest#", "gate", "created", "aliases"],
        [
            [
                row["name"],
                row["workload"],
                row["versions"],
                row["latest"],
                "passed" if row["gate_passed"] else "failed",
                row["created_at"],
                ", ".join(f"{alias}={version}" for alias, version in row["aliases"].items()),
            ]
            for row in rows
        ],
    )


@app.command()
def show(reference: Reference, json: output.JsonOption = False) -> None:
    """Show one version: quality, gate, files, lineage, and the history of its model's aliases.

    Example: [bold]mizzen models show recommendation@production[/bold]
    """
    store = _store()
    manifest = store.resolve(reference)
    history = {alias: store.history(manifest.name, alias) for alias in store.aliases(manifest.name)}
    if json:
        moves = {alias: [m.model_dump(mode="json") for m in ms] for alias, ms in history.items()}
        output.show_json({**manifest.model_dump(mode="json"), "alias_history": moves})
        return
    output.out.print(
        f"[bold]{manifest.name}@{manifest.version}[/bold]  {manifest.workload}, {manifest.precision}, "
        f"{manifest.created_at:%Y-%m-%d %H:%M} UTC\n{manifest.digest}"
    )
    names = sorted({*manifest.quality, *(n for m in manifest.baselines.values() for n in m)})
    output.show_table(
        "\nquality on test",
        ["metric", "model#", *(f"{name}#" for name in manifest.baselines)],
        [
            [name, output.figure(manifest.quality.get(name))]
            + [output.figure(metrics.get(name)) for metrics in manifest.baselines.values()]
            for name in names
        ],
    )
    for line in manifest.gate.lines():
        output.out.print(line)
    output.show_table(
        "\nfiles", ["file", "bytes#", "sha256"], [[f.path, f.size_bytes, f.sha256] for f in manifest.files]
    )
    lineage = manifest.lineage
    output.show_table(
        "\nlineage",
        ["what", "value"],
        [
            ["run", lineage.run_id],
            ["data", lineage.data_digest],
            ["code", lineage.code_version],
            ["workers", lineage.world_size],
            ["libraries", ", ".join(f"{name} {version}" for name, version in lineage.libraries.items())],
        ],
    )
    output.show_table(
        "\naliases",
        ["alias", "version#", "moved at", "by", "reason"],
        [
            [alias, m.version, m.moved_at.isoformat(timespec="seconds"), m.by, m.reason]
            for alias, moves in history.items()
            for m in reversed(moves)
        ],
    )


@app.command()
def verify(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Default: all models.")] = None,
    json: output.JsonOption = False,
) -> None:
    """Read everything again and compare it with its digests. Exit code 5 if anything is wrong.

    Example: [bold]mizzen models verify[/bold]
    """
    problems = _store().verify(name)
    if json:
        output.show_json([asdict(problem) for problem in problems])
    elif not problems:
        output.out.print("all models are whole")
    if problems:
        raise IntegrityError(
            f"{len(problems)} problem(s) in the store: " + "; ".join(map(str, problems)),
            remedy="Publish the version anew, or import it from an archive.",
        )


@app.command()
def alias(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    version: Annotated[int, typer.Argument(metavar="VERSION")],
    alias: Annotated[str, typer.Argument(metavar="ALIAS")],
    reason: Annotated[str, typer.Option(help="Kept in the alias's history.")] = "",
) -> None:
    """Point an alias at a version. Refused (exit code 4) if the version did not pass its gate.

    Example: [bold]mizzen models alias recommendation 3 production[/bold]
    """
    move = _store_to_change().set_alias(name, version, alias, reason=reason)
    output.out.print(f"{name}@{alias} is now version {move.version}")


@app.command()
def export(
    reference: Reference, file: Annotated[Path, typer.Argument(metavar="FILE", help="A .tar file to write.")]
) -> None:
    """Write one version, with its manifest, into a file.

    Example: [bold]mizzen models export recommendation@production rec.tar[/bold]
    """
    store = _store()
    store.export_archive(reference, file)
    output.out.print(f"wrote {file} ({file.stat().st_size} bytes)")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `export` wrote.")],
    name: Annotated[str | None, typer.Option(help="Default: the model's own name.")] = None,
) -> None:
    """Bring a version from a file into the store, as the next version of its model.

    Example: [bold]mizzen models import rec.tar[/bold]
    """
    manifest = _store_to_change().import_archive(file, name)
    output.out.print(f"imported {manifest.name}@{manifest.version}  {manifest.digest}")
