"""Trains a job on a Ray of its own and prints each step that is done, until it is killed.

python interrupted.py RUN JOB_JSON
"""

import json
import sys

from mizzen.settings import current
from mizzen.training import launch
from mizzen.training.job import parse

if __name__ == "__main__":
    settings, job = current(), parse(json.loads(sys.argv[2]), "the test's job")
    with launch.ray_for([job], settings):
        prepared = launch.prepare(job, settings, lambda line: None)
        launch.train(
            job, prepared, settings, lambda done: print(done.step, done.loss, flush=True), run=sys.argv[1]
        )
