"""Tables of one's own in object storage, streamed by Ray Data from an S3 server."""

from __future__ import annotations

import io
from collections.abc import Iterator

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from obstore.store import from_url

from mizzen import local_ray
from mizzen.errors import DataError
from mizzen.settings import current
from mizzen.training.tables import RaySources

ROWS = [{"user": f"u{i}", "item": i, "score": i / 2} for i in range(50)]


@pytest.fixture
def tables(bucket: str) -> Iterator[str]:
    """The bucket with the same rows in three formats, and a Ray whose processes may read it."""
    table = pa.Table.from_pylist(ROWS)
    parquet = io.BytesIO()
    pq.write_table(table, parquet)
    frame = table.to_pandas()
    store = from_url(bucket)
    obstore.put(store, "t.csv", frame.to_csv(index=False).encode())
    obstore.put(store, "t.jsonl", frame.to_json(orient="records", lines=True).encode())
    obstore.put(store, "many/part-0.parquet", parquet.getvalue())
    local_ray.init(current(), num_cpus=2)
    try:
        yield bucket
    finally:
        local_ray.shutdown()


def test_each_format_is_read_from_a_bucket_in_the_order_of_the_file(tables: str) -> None:
    for name in ("t.csv", "t.jsonl", "many"):
        assert RaySources().table(f"{tables}/{name}").take_all() == ROWS, name
    with pytest.raises(DataError, match="no table here"):
        RaySources().table(f"{tables}/absent.csv")
