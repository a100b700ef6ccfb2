"""Real requests for the scenarios, as files of JSON lines: from the served models and the samples' files.

It runs where Mizzen is installed, and reads what Mizzen's own readers read; it sends nothing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mizzen import datasets
from mizzen.workloads.chat.samples import CONVERSATIONS, CORPUS
from mizzen.workloads.forecasting import samples as series_samples
from mizzen.workloads.recommendation.catalogue import FILE as ITEMS
from mizzen.workloads.recommendation.catalogue import Catalogue
from mizzen.workloads.recommendation.histories import FILE as HISTORIES
from mizzen.workloads.recommendation.histories import Histories

M1 = "m1-yearly"
HORIZON = 6
"""Steps that the M1 competition held out of a yearly series: they are not sent, but asked for."""
QUANTILES = [0.1, 0.5, 0.9]
HISTORY_SHARE = 0.2
"""Of requests with a history of their own, instead of a user whom the model knows."""
LAST_ITEMS = 20


def recommendation(folder: Path) -> Iterable[dict[str, Any]]:
    """One request for each user of the model in `folder`: by the id, or by the last items."""
    histories, items = Histories(folder / HISTORIES), Catalogue.read(folder / ITEMS).item_ids
    choice = random.Random(0)
    for row in range(len(histories)):
        if choice.random() < HISTORY_SHARE:
            last = histories.items(row)[-LAST_ITEMS:]
            yield {"history": [items[number - 1] for number in last], "num_results": 10}
        else:
            yield {"user_id": histories.user(row), "num_results": 10}


def forecasting(series_per_request: int) -> Iterable[dict[str, Any]]:
    """Requests for the M1 yearly series, each with so many of them, one after another in a circle."""
    found = [
        {"name": name, "series": values[:-HORIZON].tolist(), "frequency": "Y"}
        for name, _, values in series_samples.read(M1, datasets.fetch(M1))
        if len(values) > HORIZON + 2 and not np.isnan(values).any()
    ]
    options = {"horizon": HORIZON, "quantiles": QUANTILES}
    for first in range(len(found)):
        taken = [found[(first + i) % len(found)] for i in range(series_per_request)]
        yield {"inputs": taken, "options": options}


def dialogues(num: int) -> list[list[dict[str, str]]]:
    """The messages of `num` conversations that wait for the assistant, each text once, in a fixed order."""
    lines = (datasets.fetch(CORPUS) / CONVERSATIONS).read_text().splitlines()
    prompts = {json.dumps(json.loads(line)["messages"][:-1]) for line in lines}
    order = sorted(prompts)
    random.Random(0).shuffle(order)
    return [json.loads(prompt) for prompt in order[:num]]


def write(bodies: Iterable[Any], file: Path) -> Path:
    """One line of JSON for each body."""
    file.write_text("".join(json.dumps(body) + "\n" for body in bodies))
    return file
