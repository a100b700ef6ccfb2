"""The store as a file system of pyarrow's, for Ray Train: it writes and reads checkpoints through it.

Credentials and endpoints are found in the environment of each process, as obstore does everywhere: they do
not travel with it when it is pickled. It knows nothing of models or runs.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from obstore.fsspec import FsspecStore
from pyarrow import PythonFile
from pyarrow.fs import FileSystem, FSSpecHandler, LocalFileSystem, PyFileSystem

from mizzen.errors import StoreError
from mizzen.store.objects import RETRIES, Objects, without_secrets

PROTOCOLS = {"s3": "s3", "s3a": "s3", "gs": "gs", "az": "az", "azure": "az", "abfs": "az", "adl": "az"}


def opened(url: str) -> tuple[FileSystem, str]:
    """The file system on which the store at `url` lies, and the store's folder there.

    Raises `StoreError` for a store that processes cannot share.
    """
    local_folder = Objects(url).local_folder
    if local_folder is not None:
        return LocalFileSystem(), str(local_folder)
    parts = urlsplit(url)
    if parts.scheme not in PROTOCOLS or "@" in parts.netloc:
        raise StoreError(
            "checkpoints cannot be kept in this store", saw=without_secrets(url),
            allowed="file://FOLDER, s3://BUCKET/..., gs://BUCKET/..., az://CONTAINER/...",
            remedy="Write MIZZEN_STORE that way; credentials and endpoints belong into the environment.",
        )  # fmt: skip
    store = FsspecStore(PROTOCOLS[parts.scheme], retry_config=RETRIES)
    return PyFileSystem(_Handler(store)), f"{parts.netloc}{parts.path}".rstrip("/")


class _Handler(FSSpecHandler):  # type: ignore[misc] # pyarrow has no types
    def open_output_stream(self, path: str, metadata: Any) -> PythonFile:
        """As its base does, but obstore is handed bytes: it does not take pyarrow's buffers."""
        return PythonFile(_Bytes(self.fs.open(path, mode="wb")), mode="w")


class _Bytes:
    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        """Write a piece."""
        return int(self._file.write(bytes(data)))

    def flush(self) -> None:
        """The object appears whole, when it is closed."""

    def close(self) -> None:
        """Make the object appear."""
        self._file.close()

    @property
    def closed(self) -> bool:
        """Whether it has appeared."""
        return bool(self._file.closed)
