"""Trains a sequential model of RecBole on what `handover.recommendation` wrote, and scores all items.

    recbole_peer.py GIVEN OUT --method SASRec|GRU4Rec --seed N [--set KEY=VALUE ...] [--cpu-limit-s S]

RecBole's own data set, augmentation, trainer, evaluator and early stopping are used as they are; options are
its own. Positions in a history stand for its times, so that no tie can be broken in another way. It needs
nothing of Mizzen, and writes `scores.npy` and `report.json` into OUT. Nothing of RecBole is patched. At a
limit, and at SIGTERM once an epoch is done, the epoch that was best on validation so far is taken, and the
report says so.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from recbole.config import Config
from recbole.data.dataloader import FullSortEvalDataLoader, TrainDataLoader
from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction
from recbole.utils import get_model, get_trainer, init_seed

NAME = "given"
OPTIONS: dict[str, Any] = {
    "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id"]},
    "eval_args": {"split": {"LS": "valid_only"}, "order": "TO", "group_by": "user", "mode": "full"},
    "train_neg_sample_args": None,
    "metrics": ["Hit", "NDCG"],
    "valid_metric": "NDCG@10",
    "use_gpu": False,
    "show_progress": False,
    "data_path": "data",
    "checkpoint_dir": "checkpoints",
}
"""The quick start's for sequential models, with its softmax over all items, judged by NDCG@10 as ours are."""
BATCH_SIZE = 256


class OutOfTime(Exception):
    """The limit is reached: the epoch that was best on validation so far is taken."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("given", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--method", choices=["SASRec", "GRU4Rec"], required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--cpu-limit-s", type=float, default=float("inf"), help="no epoch begins after it")
    parser.add_argument("--quick", action="store_true", help="one epoch: to try it")
    arguments = parser.parse_args()
    given, out = arguments.given.resolve(), arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.chdir(out)
    options = OPTIONS | {"seed": arguments.seed, "epochs": 1 if arguments.quick else 300}
    for one in arguments.set:
        key, _, value = one.partition("=")
        options[key] = yaml.safe_load(value)
    histories = [json.loads(line)["items"] for line in (given / "histories.jsonl").open()]
    items = (given / "items.txt").read_text().split("\n")[:-1]
    write(histories, items, Path(options["data_path"]) / NAME)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    # RecBole switches autograd's search for NaN on for all models when one of them (SINE) is imported. It
    # changes no figure, and takes half of the time.
    torch.autograd.set_detect_anomaly(False)
    scores, report = run(arguments.method, options, histories, items, arguments.cpu_limit_s)
    np.save("scores.npy", scores)
    Path("report.json").write_text(json.dumps(report, indent=1) + "\n")


def write(histories: list[list[str]], items: list[str], folder: Path) -> None:
    """RecBole's atomic files."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{NAME}.inter").open("w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user, history in enumerate(histories):
            file.writelines(f"{user}\t{item}\t{place}\n" for place, item in enumerate(history))
    (folder / f"{NAME}.item").write_text("item_id:token\n" + "".join(f"{item}\n" for item in items))


def run(
    method: str, options: dict[str, Any], histories: list[list[str]], items: list[str], cpu_limit_s: float
) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    """Scores (users, items) after the whole histories, by the model that was best on validation."""
    config = Config(model=method, dataset=NAME, config_dict=options)
    init_seed(config["seed"], config["reproducibility"])
    dataset = SequentialDataset(config)
    training, validation, _ = dataset.build()
    train_data = TrainDataLoader(config, training, None, shuffle=True)
    valid_data = FullSortEvalDataLoader(config, validation, None, shuffle=False)
    model = get_model(method)(config, training).to("cpu")
    trainer = get_trainer(config["MODEL_TYPE"], method)(config, model)
    curve: list[float] = []

    def watch(epoch: int, ndcg: float) -> None:
        curve.append(float(ndcg))
        print(f"epoch {epoch + 1}: {options['valid_metric']} {ndcg}, {time.process_time():.0f} s", flush=True)
        if time.process_time() > cpu_limit_s:
            raise OutOfTime

    def end(number: int, frame: object) -> None:
        raise OutOfTime

    stopped_at_limit = False
    signal.signal(signal.SIGTERM, end)
    try:
        trainer.fit(train_data, valid_data, saved=True, show_progress=False, callback_fn=watch)
    except OutOfTime:
        stopped_at_limit = True
    checkpoint = torch.load(trainer.saved_model_file, map_location="cpu", weights_only=False)
    model.load_state_dict(checkpoint["state_dict"])
    model.eval()
    report = {
        "validation": curve,
        "best_epoch": int(checkpoint["epoch"]) + 1,
        "num_epochs": len(curve),
        "stopped_at_limit": stopped_at_limit,
        "num_parameters": sum(weight.numel() for weight in model.parameters()),
        "options": {name: value for name, value in options.items() if name not in ("data_path", "load_col")},
    }
    number_of = dataset.field2token_id["item_id"]
    numbers = [[number_of[item] for item in history] for history in histories]
    return score(model, numbers, [number_of[item] for item in items], config), report


def score(model: Any, histories: list[list[int]], columns: list[int], config: Any) -> np.ndarray[Any, Any]:
    """What the model says of every item after each history."""
    longest = config["MAX_ITEM_LIST_LENGTH"]
    parts = []
    for first in range(0, len(histories), BATCH_SIZE):
        rows = [history[-longest:] for history in histories[first : first + BATCH_SIZE]]
        padded = torch.zeros(len(rows), longest, dtype=torch.int64)
        for target, row in zip(padded, rows, strict=True):
            target[: len(row)] = torch.tensor(row)
        lengths = torch.tensor([len(row) for row in rows])
        with torch.no_grad():
            scores = model.full_sort_predict(Interaction({"item_id_list": padded, "item_length": lengths}))
        parts.append(scores[:, columns].numpy())
    return np.concatenate(parts).astype(np.float32)


if __name__ == "__main__":
    main()
