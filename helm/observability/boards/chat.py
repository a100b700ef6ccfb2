"""Text generation: latencies per token, tokens, sequences, the key-value cache; knowledge bases."""

from __future__ import annotations

from board import Board, Panel, Query, Row, quantiles, rate, share

_BY = "app, model, version"
_NAME = "{{app}}: {{model}} {{version}}"


def _tokens(kind: str) -> str:
    return rate(f"mizzen_chat_{kind}_tokens_total", "@SERVED", _BY)


_LATENCY = (
    Panel(
        "Time to first token",
        "s",
        "From a request's arrival in the engine to its first token; dots are traces.",
        quantiles("mizzen_chat_time_to_first_token_seconds", "@SERVED", _BY, _NAME, exemplars=True),
        width=12,
        runbook="MizzenChatQueueLong",
    ),
    Panel(
        "Time per output token",
        "s",
        "Mean time between the tokens of an answer, after the first.",
        quantiles("mizzen_chat_time_per_output_token_seconds", "@SERVED", _BY, _NAME),
        width=12,
    ),
)

_WORK = (
    Panel("Tokens generated", "short", "Tokens a second.", (Query(_tokens("generated"), _NAME),)),
    Panel(
        "Tokens of prompts",
        "short",
        "Tokens a second, and those of them that were cached.",
        (Query(_tokens("prompt"), f"{_NAME} all"), Query(_tokens("cached"), f"{_NAME} cached")),
    ),
    Panel(
        "Prompts from the cache",
        "percentunit",
        "Share of prompts' tokens that did not have to be read again.",
        (Query(share(_tokens("cached"), _tokens("prompt")), _NAME),),
        most=1.0,
    ),
    Panel(
        "Sequences",
        "none",
        "Sequences that are being generated, or wait for a slot.",
        (Query("sum by (app, state) (mizzen_chat_sequences{@SERVED})", "{{app}} {{state}}"),),
        kind="stacked",
        runbook="MizzenChatQueueLong",
    ),
    Panel(
        "Key-value cache",
        "percentunit",
        "Share of the cache that is taken: by sequences in use, and by kept prompts.",
        (
            Query(
                "sum by (app, state) (mizzen_chat_kv_cache_tokens{@SERVED})"
                " / (sum by (app, state) (mizzen_chat_kv_cache_capacity_tokens{@SERVED}) > 0)",
                "{{app}} {{state}}",
            ),
        ),
        most=1.0,
        runbook="MizzenChatCacheFull",
    ),
    Panel(
        "Answers by how they ended",
        "reqps",
        "Finished, cancelled because the client went away, or failed.",
        (Query(rate("mizzen_chat_generations_total", "@SERVED", "app, outcome"), "{{app}} {{outcome}}"),),
        kind="stacked",
        runbook="MizzenChatGenerationsFail",
    ),
)

_LOOKUPS = rate("mizzen_knowledge_lookups_total", "@SERVED", "app")
_KNOWLEDGE = (
    Panel(
        "Questions to knowledge bases",
        "reqps",
        "Whether a passage was near enough.",
        (Query(rate("mizzen_knowledge_lookups_total", "@SERVED", "app, outcome"), "{{app}} {{outcome}}"),),
        kind="stacked",
    ),
    Panel(
        "Passages found",
        "percentunit",
        "Share of questions to which a passage was near enough.",
        (
            Query(
                share(rate("mizzen_knowledge_lookups_total", '@SERVED,outcome="hit"', "app"), _LOOKUPS),
                "{{app}}",
            ),
        ),
        most=1.0,
    ),
    Panel(
        "Refusals",
        "percentunit",
        "Share of questions that are answered with: I do not know.",
        (Query(share(rate("mizzen_knowledge_refusals_total", "@SERVED", "app"), _LOOKUPS), "{{app}}"),),
        most=1.0,
        runbook="MizzenKnowledgeRefuses",
    ),
)

BOARD = Board(
    "chat",
    "Mizzen chat",
    "Text generation: latencies per token, tokens, sequences and cache; knowledge bases.",
    (Row("Latency", _LATENCY), Row("Work", _WORK), Row("Knowledge", _KNOWLEDGE)),
)
