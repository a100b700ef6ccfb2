"""What `prepare` reads (`contract.Sources`): above all tables, streamed by Ray Data from files or objects.

It does not clean or split: workloads do. Ray is imported here as well as in `launch`, because a table is
a Ray data set.
"""

from __future__ import annotations

import logging
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


class RaySources:
    """Rows from files, in the files' own order."""

    def table(self, address: str) -> Any:
        """See `contract.Sources.table`."""
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)  # set by the import
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
        return getattr(ray.data, reader)(_resolved(address), **options)

    def sample(self, name: str) -> Path:
        """See `contract.Sources.sample`."""
        return datasets.fetch(name)

    def version(self, reference: str) -> Path:
        """See `contract.Sources.version`."""
        here = current()
        store = ModelStore(here.store_url)
        return store.fetch(store.resolve(reference), here.cache_dir)


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
    return first
