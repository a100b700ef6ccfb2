"""The bodies of requests: for whom, which items, how many. They are checked here, and not answered."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import (
    BeforeValidator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    WithJsonSchema,
    model_validator,
)

from mizzen.workloads.contract import Fields
from mizzen.workloads.recommendation.filters import Condition
from mizzen.workloads.recommendation.ranking import Query
from mizzen.workloads.recommendation.selection import MAX_SLOTS, Promoted

MAX_RESULTS = 100
MAX_OFFSET = MAX_SLOTS - MAX_RESULTS
MAX_HISTORY = 10_000
MAX_SESSION = 1_000
MAX_EXCLUDED = 10_000
MAX_PROMOTIONS = 5
MAX_REQUESTS = 100
MAX_RANKED = 1_000
MAX_SIMILAR_TO = 100


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError("an id is a text or a whole number")


Id = Annotated[
    str,
    BeforeValidator(_as_text),
    Field(min_length=1, max_length=256),
    WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1, "maxLength": 256}, {"type": "integer"}]}),
]
"""Ids may be sent as texts or as whole numbers; they are texts from here on, in answers too."""
Filters = Annotated[dict[str, Condition], Field(max_length=20)]
NumResults = Annotated[StrictInt, Field(ge=1, le=MAX_RESULTS)]


class Context(Fields):
    """What is known of this moment, and used: other fields are refused, for the model cannot use them."""

    session_items: list[Id] = Field(
        default_factory=list,
        max_length=MAX_SESSION,
        description="What is met in this session, the oldest first. It follows what is stored for the user "
        "(or `history`), and counts as seen.",
    )

    @model_validator(mode="before")
    @classmethod
    def _used(cls, given: Any) -> Any:
        unknown = sorted(set(given) - set(cls.model_fields)) if isinstance(given, dict) else []
        if unknown:
            raise ValueError(
                f"the model cannot use {str(unknown[0])[:100]!r}; allowed: {', '.join(cls.model_fields)}. "
                "What shall only be recorded belongs into the context of a feedback event"
            )
        return given


class Promotion(Fields):
    """Items that get a share of the slots, as far as there are such items."""

    name: Annotated[StrictStr, Field(min_length=1, max_length=64)]
    share: StrictFloat = Field(gt=0, le=1, description="0.2 gives it every fifth slot: places 5, 10, 15, ...")
    filters: Filters | None = Field(None, description="Which items, by their attributes; or `items`.")
    items: list[Id] | None = Field(None, min_length=1, max_length=MAX_RANKED)

    @model_validator(mode="after")
    def _which_items(self) -> Self:
        if (self.filters is None) == (self.items is None):
            raise ValueError("give either filters or items, not both and not neither")
        return self

    def promoted(self) -> Promoted:
        """The same for `selection`."""
        return Promoted(self.name, self.share, self.filters or {}, self.items)


class Asker(Fields):
    """For whom."""

    user_id: Id | None = Field(None, description="A user of the training data, or anybody, for a fallback.")
    history: list[Id] | None = Field(
        None,
        max_length=MAX_HISTORY,
        description="Item ids, the oldest first, instead of what is stored for the user. "
        "The model looks at the last of them only; all of them count as seen.",
    )
    context: Context | None = None

    @model_validator(mode="after")
    def _for_somebody(self) -> Self:
        self._check_asker()
        return self

    def _check_asker(self) -> None:
        if self.user_id is None and self.history is None and not self._session:
            raise ValueError("give user_id or history or context.session_items")

    @property
    def _session(self) -> list[Id]:
        return [] if self.context is None else self.context.session_items

    def _query(self, **more: Any) -> Query:
        return Query(self.user_id, self.history, session=self._session, **more)


class RecommendationQuery(Asker):
    """For whom, how many, and which items may be recommended."""

    num_results: NumResults = 10
    offset: Annotated[StrictInt, Field(ge=0, le=MAX_OFFSET)] = Field(
        0, description="Leave out so many of the best: for the next page."
    )
    exclude_seen: StrictBool = Field(True, description="Leave out the items of the history and the session.")
    exclude_items: list[Id] = Field(
        default_factory=list, max_length=MAX_EXCLUDED, description="Leave out these items, too."
    )
    filters: Filters = Field(
        default_factory=dict, description="Conditions on the items' attributes, by name."
    )
    promotions: list[Promotion] = Field(
        default_factory=list,
        max_length=MAX_PROMOTIONS,
        description="What is left out above is not promoted either.",
    )

    @model_validator(mode="after")
    def _shares(self) -> Self:
        names = [one.name for one in self.promotions]
        if len(set(names)) != len(names):
            raise ValueError("promotions names one of them twice")
        if sum(one.share for one in self.promotions) > 1 + 1e-9:
            raise ValueError("the shares of the promotions are more than 1 together")
        return self

    def query(self) -> Query:
        """The same for `ranking`."""
        return self._query(
            num_results=self.num_results,
            offset=self.offset,
            exclude_seen=self.exclude_seen,
            exclude_items=self.exclude_items,
            filters=self.filters,
            promotions=[one.promoted() for one in self.promotions],
        )


class RecommendationRequest(RecommendationQuery):
    """One query, or several under `requests`."""

    requests: list[RecommendationQuery] | None = Field(
        None,
        min_length=1,
        max_length=MAX_REQUESTS,
        description="Several queries, each with an answer or an error of its own, in their order; "
        "then no other field is given.",
    )

    def _check_asker(self) -> None:
        if self.requests is None:
            super()._check_asker()
        elif self.model_fields_set != {"requests"}:
            raise ValueError("with requests, give everything else inside of it")


class RankingRequest(Asker):
    """For whom, and which items."""

    items: list[Id] = Field(min_length=1, max_length=MAX_RANKED, description="All of them are answered.")

    @model_validator(mode="after")
    def _once(self) -> Self:
        seen: set[str] = set()
        for item in self.items:
            if item in seen:
                raise ValueError(f"items names {item!r} twice")
            seen.add(item)
        return self

    def query(self) -> Query:
        """The same for `ranking`."""
        return self._query(rank=self.items)


class SimilarItemsRequest(Fields):
    """To which items, how many, and which items may be answered."""

    items: list[Id] = Field(
        min_length=1, max_length=MAX_SIMILAR_TO, description="One item, or several for what is like them all."
    )
    num_results: NumResults = 10
    exclude_items: list[Id] = Field(
        default_factory=list, max_length=MAX_EXCLUDED, description="`items` are left out in any case."
    )
    filters: Filters = Field(
        default_factory=dict, description="Conditions on the items' attributes, by name."
    )
