"""The fields of a job file that belong to the recommendation workload, and what is allowed in them.

It holds no default that was chosen by looking at the test split; see the job files for those choices.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from mizzen.workloads.contract import Fields

MOVIELENS = "movielens-100k"


class InteractionColumns(Fields):
    """The names of the columns of the interaction table."""

    user: str = "user"
    item: str = "item"
    timestamp: str = "timestamp"
    rating: str | None = None
    """Only needed with `min_rating`, or with a number in `types`."""
    type: str | None = None
    """What happened (a click, a rating); only needed with `types`."""
    event: str | None = None
    """An id of the row: of a user's rows with the same one, the earliest counts. Feedback in the lake may
    hold an event twice, under its `event_id`."""


class ItemColumns(Fields):
    """The names of the columns of the item table."""

    item: str = "item"
    attributes: list[str] = Field(min_length=1)
    """Columns that responses show and that requests may filter by: numbers, texts, or lists of texts."""
    separators: dict[str, str] = Field(default_factory=dict)
    """For attributes that hold several values in one text: the text between them, for instance
    `{genres: "|"}`."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.item in self.attributes or len(set(self.attributes)) != len(self.attributes):
            raise ValueError("attributes names a column twice, or the item column itself")
        unknown = sorted(set(self.separators) - set(self.attributes))
        if unknown:
            raise ValueError(f"separators names {unknown[0]!r}, which is not among the attributes")
        if "" in self.separators.values():
            raise ValueError("a separator may not be empty")
        return self


class DataConfig(Fields):
    """Which user met which item, and when: a named sample, or tables of one's own."""

    dataset: Literal["movielens-100k"] | None = None
    interactions: str | None = None
    """A path or URL of CSV, Parquet or JSON Lines."""
    columns: InteractionColumns = InteractionColumns()
    timestamp_unit: Literal["s", "ms", "us", "ns"] = "s"
    """Of timestamps that are numbers, counted from 1970; texts are read as ISO 8601, in UTC unless they
    say otherwise."""
    min_rating: float | None = None
    """Rows below it are dropped; null takes every row as a sign of interest."""
    types: dict[str, float | None] | None = None
    """Rows of these types count, the others are dropped; a number is the least rating that counts. For
    feedback: `{click: null, purchase: null, rating: 4}`, so impressions do not."""
    items: str | None = None
    """A path or URL of the item table; without it, responses hold ids and scores only."""
    item_columns: ItemColumns | None = None
    min_interactions: int = Field(5, ge=3)
    """Users with fewer are dropped: one interaction is held out for test, one for validation."""
    max_history: int = Field(1000, ge=3)
    """Only a user's most recent interactions are kept, this many."""
    max_evaluation_users: int = Field(100_000, ge=1)
    """Validation and test look at this many users at most, picked by the hash of their ids."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.dataset is None) == (self.interactions is None):
            raise ValueError("give either dataset or interactions, not both and not neither")
        own = _changed(self, "columns", "item_columns", "items", "timestamp_unit", "types")
        if self.dataset is not None and own:
            raise ValueError(f"{own[0]} describes tables of your own; it does not go with dataset")
        if (self.items is None) != (self.item_columns is None):
            raise ValueError("items and item_columns belong together; give both or neither")
        if self.min_rating is not None and self.dataset is None and self.columns.rating is None:
            raise ValueError("min_rating needs columns.rating")
        self._check_types()
        if self.max_history < self.min_interactions:
            raise ValueError("max_history may not be below min_interactions")
        return self

    def _check_types(self) -> None:
        if (self.types is None) != (self.columns.type is None):
            raise ValueError("types and columns.type belong together; give both or neither")
        if self.types is None:
            return
        if not self.types:
            raise ValueError("types names no type, so no row would be left")
        if self.min_rating is not None:
            raise ValueError("with types, give the least rating there instead of min_rating")
        if any(least is not None for least in self.types.values()) and self.columns.rating is None:
            raise ValueError("a number in types needs columns.rating")


class ModelConfig(Fields):
    """A SASRec-class network: self-attention over the items that a user met last."""

    hidden_size: int = Field(64, ge=1)
    num_blocks: int = Field(2, ge=1)
    num_heads: int = Field(1, ge=1)
    max_length: int = Field(50, ge=1, le=4096)
    """How many of the last items the model looks at."""
    loss: Literal["full", "sampled"] = "full"
    """Softmax over all items, or over the target and `num_negatives` items drawn by popularity rank."""
    num_negatives: int = Field(256, ge=1)
    """Drawn anew for each batch and shared by it; only with `loss: sampled`."""
    history_dropout: float = Field(0.0, ge=0, lt=1)
    """The share of the history's items that each training step hides."""
    num_members: int = Field(1, ge=1, le=16)
    """So many networks are trained side by side and served as one, by the mean of their scores: better and
    less a matter of luck than one, and so many times the work."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is no multiple of num_heads {self.num_heads}")
        if self.loss == "full" and _changed(self, "num_negatives"):
            raise ValueError("num_negatives goes with loss: sampled only")
        return self


def _changed(fields: Fields, *names: str) -> list[str]:
    """Those of the fields that do not hold their default.

    Whether a field was written does not matter: a job that is written out in full names all of them.
    """
    return [name for name in names if getattr(fields, name) != type(fields).model_fields[name].default]
