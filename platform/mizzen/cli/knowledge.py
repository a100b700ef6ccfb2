"""`mizzen knowledge`: documents into a knowledge base, and a look at what a question finds there."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from mizzen.cli import output

WORKLOAD = "knowledge"
MAX_LINES = 20

app = typer.Typer(
    name=WORKLOAD, help="Build knowledge bases from documents, and ask them.", no_args_is_help=True
)


@app.command()
def build(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="Files and folders: Markdown, text, HTML, PDF; CSV with the columns question and answer.",
        ),
    ],
    name: Annotated[str, typer.Option(help="The knowledge base's name in the store.")],
    questions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="What it is measured by: columns question, document and perhaps text (words of the "
            "passage). Without it, a share of the questions in CSV documents is held out.",
        ),
    ] = None,
    alias: Annotated[
        str, typer.Option(help="Moved to the new version; an empty text moves none.")
    ] = "production",
    chunk_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Word pieces in a chunk, at most 254.")
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(metavar="N", help="Word pieces that neighbouring chunks share.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="fp32 or int8; int8 is judged by recall@5, so it needs questions.")
    ] = "fp32",
    json: output.JsonOption = False,
) -> None:
    """Make a version of a knowledge base; texts that the version before has keep their embeddings.

    Example: [bold]mizzen knowledge build docs faq.csv --name kb[/bold]
    """
    from mizzen.settings import current
    from mizzen.training import job as jobs
    from mizzen.training.rebuild import rebuild

    data = {"paths": [str(path) for path in paths], "previous": name}
    chosen = {"questions": questions and str(questions), "chunk_tokens": chunk_tokens, "overlap": overlap}
    job = jobs.parse(
        {
            "name": name,
            "workload": WORKLOAD,
            "data": data | {field: value for field, value in chosen.items() if value is not None},
            # One text at a time, as it is served: int8 arithmetic depends on what is in a batch.
            "training": {"steps": 0, "micro_batch_size": 1},
            "publish": {"alias": alias or None, "quantize": precision, "weights": False},
        },
        "the command line",
    )
    _tell_of("mizzen.workloads")
    rebuilt = rebuild(job, current(), output.say)
    if json:
        output.show_json(_summary(rebuilt, job.publish.alias))
    else:
        _show(rebuilt, job.publish.alias)


def _tell_of(loggers: str) -> None:
    """Show how far a long preparation is: workloads have no other way to say it."""

    class Said(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            output.say(record.getMessage())

    logger = logging.getLogger(loggers)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # or a library that sets up the root logger says it again
    logger.addHandler(Said())


def _summary(rebuilt: Any, alias: str | None) -> dict[str, Any]:
    manifest, report = rebuilt.manifest, rebuilt.prepared.report
    return {
        "model": manifest.name,
        "version": manifest.version,
        "digest": manifest.digest,
        "alias": alias,
        "changed": rebuilt.is_new,
        "documents": {"read": report.rows_read, "kept": report.rows_kept, "dropped": report.dropped},
        **{key: report.facts[key] for key in ("chunks", "questions", "questions_from", "left_out")},
        "work": report.work,
        "quality": manifest.quality,
        "gate": manifest.gate.model_dump(mode="json"),
    }


def _show(rebuilt: Any, alias: str | None) -> None:
    manifest, report = rebuilt.manifest, rebuilt.prepared.report
    facts, work = report.facts, report.work
    for line in facts["left_out"][:MAX_LINES]:
        output.out.print(f"left out: {line}", markup=False, soft_wrap=True)
    num_more = sum(report.dropped.values()) - min(MAX_LINES, len(facts["left_out"]))
    if num_more:
        output.out.print(f"left out: {num_more} more; --json and the version's lineage list them")
    output.out.print(
        f"{report.rows_kept} documents of {report.rows_read}, {facts['chunks']} chunks: "
        f"{work['embedded']} embedded anew, {work['kept']} kept, {work['removed']} removed"
    )
    if facts["questions"]:
        figures = ", ".join(f"{key} {output.figure(value)}" for key, value in manifest.quality.items())
        output.out.print(f"{facts['questions']} questions ({facts['questions_from']}): {figures}")
    else:
        output.out.print(
            "no questions to measure by: give --questions, or documents with questions and answers"
        )
    for line in manifest.gate.lines():
        output.out.print(line)
    said = "published" if rebuilt.is_new else "nothing has changed since"
    named = f", alias {alias}" if alias else ""
    output.out.print(f"{said} [bold]{manifest.name}@{manifest.version}[/bold]{named}  {manifest.digest}")


@app.command()
def search(
    reference: Annotated[str, typer.Argument(metavar="NAME[@VERSION|@ALIAS]")],
    question: Annotated[str, typer.Argument(metavar="QUESTION")],
    num_results: Annotated[int, typer.Option("-n", min=1, max=100, help="How many passages.")] = 5,
    json: output.JsonOption = False,
) -> None:
    """Show the passages that a question finds, without a server.

    Example: [bold]mizzen knowledge search kb "How do I reset my password?"[/bold]
    """
    from dataclasses import asdict

    from mizzen.serving.retrievers import Retrievers
    from mizzen.settings import current
    from mizzen.store.runtime import OnnxRuntime
    from mizzen.store.store import ModelStore

    settings = current()
    retrievers = Retrievers(ModelStore(settings.store_url), settings.cache_dir, OnnxRuntime())
    passages = retrievers(reference).search(question, num_results)
    if json:
        output.show_json([asdict(passage) for passage in passages])
        return
    output.show_table(
        "",
        ["document", "chunk#", "score#", "title", "text"],
        [[p.document, p.chunk, f"{p.score:.3f}", p.title, " ".join(p.text.split())[:200]] for p in passages],
    )
