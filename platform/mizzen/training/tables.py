"""What `prepare` reads (`contract.Sources`): above all tables, streamed by Ray Data from files or objects.

It does not clean or split: workloads do. Ray is imported here as well as in `launch`, because a table is
a Ray data set. That is lazy: what is wrong with a file may be found long after `table` has returned, so
`RaySources.explained` stands around all of `prepare`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mizzen import datasets, local_ray
from mizzen.errors import DataError
from mizzen.settings import current
from mizzen.store.store import ModelStore

READERS = {
    ".csv": "read_csv",
    ".parquet": "read_parquet",
    ".jsonl": "read_json",
    ".ndjson": "read_json",
    ".json": "read_json",
}
COMPRESSED = (".gz",)
TEXT = ("read_csv", "read_json")

_READ_TASK = re.compile(r"ray::Read\w+")
_EXCEPTION_LINE = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Arrow\w+|Invalid): (.+)$", re.MULTILINE)
_CSV_FILE = re.compile(r"Failed to read CSV file: (.+?)\. Please check the CSV file")
_LONGEST_REASON = 300
_PEEK_BYTES = 4096


class RaySources:
    """Rows from files, in the files' own order."""

    def __init__(self) -> None:
        self._addresses: list[str] = []

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Make a `DataError` of an error with which Ray Data fails to read a table; let others pass."""
        from ray.exceptions import RayTaskError

        try:
            yield
        except RayTaskError as error:
            reason = reason_of(error)
            if reason is None:
                raise
            raise _unreadable(reason, error, self._addresses) from None

    def table(self, address: str) -> Any:
        """See `contract.Sources.table`."""
        import ray.data
        from pyarrow import ArrowException
        from ray.exceptions import RayTaskError

        # Set by the import. Errors reach the caller; Ray Data would print their tracebacks as well.
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        reader = reader_of(_first_file(address))
        options: dict[str, Any] = {"file_extensions": None}
        if "://" not in address and not local_ray.is_running():
            # The file came with the job to the machine where this runs, and no other has it. On a cluster
            # that is the head, which has no CPU to give.
            here = ray.get_runtime_context().get_node_id()
            options |= {"num_cpus": 0, "label_selector": {"ray.io/node-id": here}}
        try:
            table = getattr(ray.data, reader)(_resolved(address), **options)
            schema = table.schema()  # of the first rows; the table keeps it
        except RayTaskError as error:
            reason = reason_of(error)
            if reason is None:
                raise
            raise _unreadable(reason, error, [address]) from None
        except (ArrowException, OSError, ValueError) as error:
            raise _unreadable(str(error), error, [address]) from None
        _check(schema, address, is_text=reader in TEXT)
        self._addresses.append(address)
        return table

    def sample(self, name: str) -> Path:
        """See `contract.Sources.sample`."""
        return datasets.fetch(name)

    def version(self, reference: str) -> Path:
        """See `contract.Sources.version`."""
        here = current()
        store = ModelStore(here.store_url)
        return store.fetch(store.resolve(reference), here.cache_dir)


def reason_of(error: Any) -> str | None:
    """Why a task of Ray Data could not read its file, or none if it failed at something else.

    `error` is a `RayTaskError`. What a workload's own function raises in a task is a `UserCodeException`, and
    what the machine does to a task (no memory, a lost node) is a `RayError`: neither is the file's fault.
    """
    from pyarrow import ArrowException
    from ray.exceptions import RayError

    text = str(error)
    faults = (ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
    if (
        isinstance(error.cause, RayError)
        or not isinstance(error.cause, faults)
        or not _READ_TASK.search(text)
    ):
        return None
    # Of a chain of causes the first is what the reader itself said.
    first = _EXCEPTION_LINE.search(text)
    reason = first[1] if first else str(error.cause)
    return reason[1:-1] if isinstance(error.cause, KeyError) else reason  # it quotes its message


def _unreadable(reason: str, error: Exception, addresses: list[str]) -> DataError:
    saw = " or ".join(addresses)
    csv = _CSV_FILE.search(str(error))
    if csv:
        saw = csv[1]
        reason = _arrow_reason(saw, addresses) or "it is no CSV"
    elif len(addresses) == 1:
        reason = _arrow_reason(_resolved(saw), addresses) or reason
    line = next(iter(reason.strip().splitlines()), "no reason is known")
    if len(line) > _LONGEST_REASON:
        line = line[:_LONGEST_REASON] + "..."
    return DataError(
        f"cannot read the table: {line}",
        saw=saw,
        allowed="whole files; text in UTF-8, as many fields in each row as in the first; one type a column",
        remedy="Mend the file, or write it as Parquet, which keeps the types of its columns.",
    )


def _arrow_reason(file: str, addresses: list[str]) -> str | None:
    """What Arrow itself says of the text `file` at or below one of `addresses`, if it can be asked.

    Ray Data hides it: of a CSV it tells the file only, of JSON what a second reader says, of which a second
    line is wrong in any case.
    """
    from pyarrow import ArrowException, csv, json
    from pyarrow.fs import FileSystem, FileType

    for address in addresses:
        try:
            filesystem, path = FileSystem.from_uri(_resolved(address))
            at = path if file == address else file
            if not at.startswith(path) or filesystem.get_file_info(at).type != FileType.File:
                continue
            # With more threads Arrow does not count rows.
            with filesystem.open_input_stream(at) as stream:
                if reader_of(file) == "read_csv":
                    with csv.open_csv(stream, csv.ReadOptions(use_threads=False)) as reader:
                        for _ in reader:
                            pass
                elif reader_of(file) == "read_json":
                    json.read_json(stream, json.ReadOptions(use_threads=False))
        except (ArrowException, OSError, DataError) as error:
            return None if isinstance(error, DataError) else str(error)
    return None


def _check(schema: Any, address: str, *, is_text: bool) -> None:
    """Raise `DataError` if the first rows show that the table is of no use."""
    import pyarrow as pa

    if schema is None or not schema.names:
        raise DataError(
            "the table has no rows", saw=address, remedy="Check the path in the job's data section."
        )
    kinds = dict(zip(schema.names, schema.types, strict=True))
    undecoded = [name for name, kind in kinds.items() if kind in (pa.binary(), pa.large_binary())]
    if is_text and undecoded:
        raise DataError(
            f"the column {undecoded[0]!r} of the table is not UTF-8",
            saw=address,
            allowed="text in UTF-8",
            remedy="Convert the file, for instance with `iconv -f latin1 -t utf-8`.",
        )


def reader_of(file: str) -> str:
    """The Ray Data function that reads `file`, by its ending. Raises `DataError`."""
    name = file.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    for ending, reader in READERS.items():
        if name.endswith(ending):
            return reader
    raise DataError(
        "no reader for this file",
        saw=file,
        allowed=f"{', '.join(READERS)}, text also with {', '.join(COMPRESSED)}",
        remedy="Rename or convert the file.",
    )


def _resolved(address: str) -> str:
    return address if "://" in address else str(Path(address).expanduser().absolute())


def _first_file(address: str) -> str:
    """A file at `address`, to tell its format from. Raises `DataError` if there is none."""
    from pyarrow import ArrowInvalid
    from pyarrow.fs import FileSelector, FileSystem, FileType

    try:
        filesystem, path = FileSystem.from_uri(_resolved(address))
        info = filesystem.get_file_info(path)
        if info.type == FileType.Directory:
            found = filesystem.get_file_info(FileSelector(path, recursive=True))
            files = sorted(f.path for f in found if f.type == FileType.File and f.size)
        else:
            files = [info.path] if info.type == FileType.File else []
    except (ArrowInvalid, OSError) as cause:
        raise DataError(f"cannot read the table: {cause}", saw=address, allowed="a path or a URL") from None
    if not files:
        raise DataError(
            "there is no table here", saw=address, remedy="Check the path in the job's data section."
        )
    if len({reader_of(f) for f in files}) > 1:
        raise DataError(
            "the folder mixes formats", saw=address, allowed="files of one format", remedy="Name one of them."
        )
    first: str = files[0]
    if reader_of(first) == "read_json":
        for file in files:
            _check_json(filesystem, file)
    return first


def _check_json(filesystem: Any, file: str) -> None:
    """Raise `DataError` if `file` begins with neither a row nor a list of rows.

    A null there crashes Arrow's reader, and Ray Data would start the crashed task again for ever.
    """
    try:
        with filesystem.open_input_stream(file) as stream:
            begin: bytes = stream.read(_PEEK_BYTES)
    except OSError:
        return  # the reader will say why
    begin = begin.removeprefix(b"\xef\xbb\xbf").lstrip()
    if begin and not begin.startswith((b"{", b"[")):
        raise DataError(
            "cannot read the table: it does not begin as JSON Lines do",
            saw=f"{file}, which begins with {begin[:20]!r}",
            allowed='one object a line, for instance {"a": 1}',
            remedy="Mend the file.",
        )
