"""LitServe with its own dynamic batching, in one worker. Run as `python litserve_app.py WORKLOAD FOLDER PORT
NUM_THREADS`.

Batches have the size and the wait that Mizzen's have by default. LitServe reads the annotation of
`decode_request` to know what to hand in: so annotations are not texts in this module.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

import litserve
from fastapi import Request

MAX_BATCH_SIZE = 32
WAIT_S = 0.002


class Api(litserve.LitAPI):
    """One peer model behind LitServe's hooks; requests and answers are plain JSON."""

    def __init__(self, workload: str, folder: Path, num_threads: int) -> None:
        peer = importlib.import_module(workload)
        super().__init__(max_batch_size=MAX_BATCH_SIZE, batch_timeout=WAIT_S, api_path=peer.PATH)
        self.workload, self.folder, self.num_threads = workload, folder, num_threads

    def setup(self, device: str) -> None:
        """Load the model, in the worker."""
        self.model = importlib.import_module(self.workload).Model(self.folder, self.num_threads)

    def decode_request(self, request: Request) -> Any:
        """The body, which LitServe has read already, as it is."""
        return request

    def batch(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Requests that arrived together."""
        return inputs

    def predict(self, x: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One answer for each of them."""
        answers: list[dict[str, Any]] = self.model.answer(x)
        return answers

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One answer for each request."""
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """The answer as it is."""
        return output


def main() -> None:
    """Serve until killed."""
    workload, folder, port, num_threads = sys.argv[1:]
    api = Api(workload, Path(folder), int(num_threads))
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=60)
    server.run(
        host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning", access_log=False
    )


if __name__ == "__main__":
    main()
