"""A workload from another package goes the whole road with the commands that people type."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from mizzen_digits import workload
from mizzen_digits.endpoint import SEVEN
from tritonclient.utils import InferenceServerException

from mizzen.local_ray import free_port

MIZZEN = Path(sys.executable).with_name("mizzen")
START_TIMEOUT_S = 240.0
"""Generous: the machine may be busy with other tests."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One `MIZZEN_HOME` for the whole road."""
    return tmp_path_factory.mktemp("plugin-road")


def mizzen(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of ours to its end."""
    environ = {**os.environ, "MIZZEN_HOME": str(home)}
    return subprocess.run([MIZZEN, *arguments], env=environ, capture_output=True, text=True, timeout=500)


def succeeded(result: subprocess.CompletedProcess[str]) -> Any:
    """The JSON that a command printed."""
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def trained(home: Path) -> dict[str, Any]:
    """What `mizzen train` says about the plug-in's own job file."""
    job = str(workload.recipes()["quickstart"].file)
    summary: dict[str, Any] = succeeded(
        mizzen(home, "train", job, "--set", "training.epochs=6", "--set", "publish.quantize=int8", "--json")
    )
    return summary


def test_train_publishes_a_model_that_beats_its_baseline(trained: dict[str, Any]) -> None:
    metrics = trained["metrics"]
    assert trained["gate"]["passed"]
    assert metrics["test"]["accuracy"] > 0.9
    assert metrics["baselines"]["most frequent digit"]["accuracy"] < 0.2
    assert trained["data"]["rows_kept"] == 1797


def test_the_store_knows_where_the_version_came_from(home: Path, trained: dict[str, Any]) -> None:
    shown = json.dumps(succeeded(mizzen(home, "models", "show", "digits@production", "--json")))
    assert trained["digest"] in shown
    assert trained["run_id"] in shown
    assert mizzen(home, "models", "verify").returncode == 0


@pytest.fixture(scope="module")
def served(home: Path, trained: dict[str, Any]) -> Iterator[str]:
    """The application's address, under `mizzen serve`."""
    port = free_port()
    file = home / "serve.yaml"
    app = {"name": "figures", "model": "digits@production"}
    file.write_text(json.dumps({"http": {"port": port}, "apps": [app]}))
    process = subprocess.Popen(
        [MIZZEN, "serve", str(file)],
        env={**os.environ, "MIZZEN_HOME": str(home), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    url, lines, ready = f"http://127.0.0.1:{port}/figures", [], threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if url in line:
                ready.set()
        ready.set()  # it has ended

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert ready.wait(START_TIMEOUT_S) and process.poll() is None, "".join(lines)
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        reader.join()
        process.stdout.close() if process.stdout else None
    assert process.returncode in (0, 130), "".join(lines)


def test_the_endpoint_answers_with_the_trained_version(served: str, trained: dict[str, Any]) -> None:
    with httpx.Client(trust_env=False, timeout=30) as client:
        for example in workload.examples(Path()):
            answer = client.post(f"{served}{example.path}", json=dict(example.body))
            assert answer.status_code == 200, answer.text
            body = answer.json()
            assert {prediction["label"] for prediction in body["predictions"]} == {7}
            assert (body["model"], body["model_version"]) == ("digits", trained["version"])
            assert body["model_digest"] == trained["digest"]


def test_a_picture_of_the_wrong_size_is_refused_with_the_field(served: str) -> None:
    with httpx.Client(trust_env=False, timeout=30) as client:
        answer = client.post(f"{served}/v1/classify", json={"image": [[0] * 8] * 7})
    assert 400 <= answer.status_code < 500
    assert "image" in answer.text


def test_tritons_own_client_gets_tensors_through_the_ingress(served: str, trained: dict[str, Any]) -> None:
    with triton.InferenceServerClient(url=served.removeprefix("http://")) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("digits", str(trained["version"]))
        shown = client.get_model_metadata("figures")
        assert shown["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 8, 8]}]
        images = np.asarray([SEVEN, SEVEN, np.zeros((8, 8))], np.float32)
        answers = []
        for binary in (True, False):
            image = triton.InferInput("image", list(images.shape), "FP32")
            image.set_data_from_numpy(images, binary_data=binary)
            logits = triton.InferRequestedOutput("logits", binary_data=binary)
            for packed in (None, "gzip", "deflate"):
                answer = client.infer(
                    "digits", [image], outputs=[logits], request_id="7", request_compression_algorithm=packed
                )
                assert answer.get_response()["id"] == "7"
                answers.append(answer.as_numpy("logits"))
        assert answers[0].shape == (3, 10)
        assert answers[0].argmax(1).tolist()[:2] == [7, 7]
        for other in answers[1:]:
            np.testing.assert_allclose(other, answers[0], rtol=1e-5)
        wrong = triton.InferInput("image", [1, 8, 7], "FP32")
        wrong.set_data_from_numpy(np.zeros((1, 8, 7), np.float32))
        with pytest.raises(InferenceServerException, match=r"saw \[1, 8, 7\]; allowed: \[-1, 8, 8\]"):
            client.infer("digits", [wrong])
