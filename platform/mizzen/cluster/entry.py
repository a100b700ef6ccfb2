"""What a cluster runs for a job: `python -m mizzen.cluster.entry --run RUN_ID`, on the head of a Ray cluster.

The job is in the environment (`MIZZEN_JOB`), code of one's own in a zip file (`MIZZEN_CODE`), unless Ray has
brought it. What is printed becomes the job's log; the run's record and log in the store stay when the cluster
is gone. Exit codes are those of the command line. It makes no cluster and submits nothing.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from mizzen.errors import ClusterError, JobError, MizzenError
from mizzen.settings import Settings, current, without_secrets
from mizzen.store import runs
from mizzen.store.runs import Place
from mizzen.training.job import TrainJob, parse

MAX_CODE_BYTES = 512 * 1024 * 1024
"""Unpacked; a zip file that says more is refused."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job in this process's environment; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="mizzen.cluster.entry", description="Run a training job on this Ray."
    )
    parser.add_argument("--run", required=True, help="the run's id")
    parser.add_argument("--place", choices=get_args(Place), default="kubernetes", help="who submitted it")
    options = parser.parse_args(arguments)
    try:
        run(options.run, options.place, current())
    except MizzenError as error:
        sys.stderr.write(without_secrets(f"error: {error}\n"))
        return error.exit_code
    return 0


def run(run_id: str, place: Place, settings: Settings) -> None:
    """Train and publish the job in `settings` as `run_id`. Raises `MizzenError`."""
    from mizzen.training import journal, pipeline

    runs.folder(run_id)  # it must be one
    with ExitStack() as cleanup:
        try:
            job = job_of(settings)
            cleanup.enter_context(on_cluster(code_of(settings, run_id)))
        except MizzenError as error:
            journal.failed_before(run_id, place, settings, error)
            raise
        pipeline.run(
            job, settings, say=lambda _: None, watch=lambda _: None, log=_print, run=run_id, place=place
        )


def code_of(settings: Settings, run_id: str) -> Path | None:
    """The folder with the code that came with the job, in which this process is from now on."""
    if settings.code_zip is None:
        return None
    folder = unpacked(settings.code_zip, settings.run_dir / "code" / run_id)
    os.chdir(folder)  # relative paths of tables begin there, as they did where the job was submitted
    return folder


def job_of(settings: Settings) -> TrainJob:
    """The job that this process is to run. Raises `JobError`."""
    if settings.job_json is None:
        raise JobError("there is no job to run", remedy="Submit it with `mizzen train JOB.yaml --on ...`.")
    try:
        content = json.loads(settings.job_json)
    except ValueError as cause:
        raise JobError(
            "MIZZEN_JOB is no JSON", saw=cause, remedy="Submit the job with `mizzen train`."
        ) from None
    if not isinstance(content, dict):
        raise JobError("MIZZEN_JOB is no job", saw=type(content).__name__, allowed="a JSON object")
    return parse(content, "MIZZEN_JOB")


def unpacked(archive: Path, folder: Path) -> Path:
    """The files of a zip file in `folder`; nothing of it lands elsewhere. Raises `JobError`."""
    try:
        with zipfile.ZipFile(archive) as file:
            members = [member for member in file.infolist() if not member.is_dir()]
            size_bytes = sum(member.file_size for member in members)
            if size_bytes > MAX_CODE_BYTES:
                raise _wrong_code(archive, f"{size_bytes} bytes", f"at most {MAX_CODE_BYTES} bytes unpacked")
            for member in members:
                _check_member(archive, member)
            folder.mkdir(parents=True, exist_ok=True)
            file.extractall(folder, members)
    except (OSError, zipfile.BadZipFile) as cause:
        raise _wrong_code(archive, str(cause), "a zip file") from None
    return folder


def _check_member(archive: Path, member: zipfile.ZipInfo) -> None:
    path = PurePosixPath(member.filename)
    kind = (member.external_attr >> 16) & 0o170000
    if path.is_absolute() or ".." in path.parts or "\\" in member.filename:
        raise _wrong_code(archive, repr(member.filename), "relative paths that stay below the folder")
    if kind not in (0, 0o100000):
        raise _wrong_code(archive, f"{member.filename!r}, a link or a device", "plain files")


def _wrong_code(archive: Path, saw: str, allowed: str) -> JobError:
    return JobError(
        f"the job's code in {archive} cannot be unpacked", saw=saw, allowed=allowed,
        field="cluster.working_dir", remedy="Submit the job again; what is large belongs into the image.",
    )  # fmt: skip


@contextmanager
def on_cluster(folder: Path | None) -> Iterator[None]:
    """This process on the Ray cluster that it was started in; `folder` is sent to all workers."""
    import ray

    runtime_env: dict[str, Any] = {"working_dir": str(folder)} if folder is not None else {}
    try:
        # Never a Ray of our own, which would hide that there is no cluster.
        ray.init("auto", runtime_env=runtime_env, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError, OSError) as cause:
        raise ClusterError(
            f"there is no Ray cluster to train on: {cause}",
            remedy="This is run by `mizzen train --on ray` or `--on kubernetes`, on the head of a cluster.",
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
