"""Text generation: latencies per token, cache, queue; and what knowledge bases could answer."""

from __future__ import annotations

from rule import Alert, Group, Record, RuleFile, by

from rule_files.serving import p95

_USED = 'state="used"'


def _lookups_share(name: str, counted: str) -> Record:
    lookups = f"sum {by('app')} (rate(mizzen_knowledge_lookups_total{{$RELEASE}}[1h]))"
    return Record(
        f"app:mizzen_knowledge_{name}:ratio_rate1h", f"({counted} or 0 * {lookups}) / ({lookups} > 0)"
    )


_CHAT_RECORDED = (
    p95("app_version", "mizzen_chat_time_to_first_token_seconds"),
    p95("app_version", "mizzen_chat_time_per_output_token_seconds"),
    Record(
        "app_version:mizzen_chat_kv_cache:ratio",
        f"""
        sum {by("app_version")} (mizzen_chat_kv_cache_tokens{{$RELEASE,{_USED}}})
        / (sum {by("app_version")} (mizzen_chat_kv_cache_capacity_tokens{{$RELEASE,{_USED}}}) > 0)
        """,
    ),
    Record(
        "app_version:mizzen_chat_generations_failed:ratio_rate5m",
        f"""
        (
          sum {by("app_version")} (rate(mizzen_chat_generations_total{{$RELEASE,outcome="failed"}}[5m]))
          or 0 * sum {by("app_version")} (rate(mizzen_chat_generations_total{{$RELEASE}}[5m]))
        ) / (sum {by("app_version")} (rate(mizzen_chat_generations_total{{$RELEASE}}[5m])) > 0)
        """,
    ),
    _lookups_share(
        "hits",
        f'sum {by("app")} (rate(mizzen_knowledge_lookups_total{{$RELEASE,outcome="hit"}}[1h]))',
    ),
    _lookups_share("refusals", f"sum {by('app')} (rate(mizzen_knowledge_refusals_total{{$RELEASE}}[1h]))"),
)

_CHAT_RULES = (
    Alert(
        "MizzenChatQueueLong",
        "warning",
        f"""
        sum {by("app")} (mizzen_chat_sequences{{$RELEASE,state="waiting"}})
        > 2 * sum {by("app")} (mizzen_chat_sequences{{$RELEASE,state="running"}}) > 0
        """,
        "{{ $value }} conversations wait for a slot in {{ $labels.app }}",
        """More than twice as many wait as are answered, so first tokens come late. Add replicas, or allow
        more sequences at once if there is memory.""",
        lasting="5m",
    ),
    Alert(
        "MizzenChatCacheFull",
        "warning",
        f"""
        app_version:mizzen_chat_kv_cache:ratio{{$RELEASE}} > 0.95
        and sum {by("app_version")} (mizzen_chat_sequences{{$RELEASE,state="waiting"}}) > 0
        """,
        "The key-value cache of {{ $labels.app }} is {{ $value | humanizePercentage }} full",
        """Sequences wait because there is no room for their tokens. Shorten the context that is allowed,
        enlarge the cache if there is memory, or add replicas.""",
        lasting="10m",
    ),
    Alert(
        "MizzenChatGenerationsFail",
        "critical",
        f"""
        app_version:mizzen_chat_generations_failed:ratio_rate5m{{$RELEASE}} > 0.05
        and sum {by("app_version")} (
          increase(mizzen_chat_generations_total{{$RELEASE,outcome="failed"}}[10m])
        ) >= 10
        and sum {by("app_version")} (
          increase(mizzen_chat_generations_total{{$RELEASE,outcome="failed"}}[3m])
        ) > 0
        """,
        "{{ $value | humanizePercentage }} of the answers of {{ $labels.app }} break off",
        """The engine fails while it generates. A stream that has begun keeps its status 200, so error rates
        do not show it. The replicas' logs say why.""",
        lasting="5m",
    ),
    Alert(
        "MizzenKnowledgeRefuses",
        "warning",
        f"""
        app:mizzen_knowledge_refusals:ratio_rate1h{{$RELEASE}} > 0.5
        and sum {by("app")} (increase(mizzen_knowledge_lookups_total{{$RELEASE}}[1h])) >= 20
        """,
        "{{ $labels.app }} does not know the answer to {{ $value | humanizePercentage }} of questions",
        """Nothing near enough to the questions is in its knowledge base: documents are missing, or the
        limit of similarity is too strict.""",
        lasting="30m",
    ),
)

FILE = RuleFile(
    "chat",
    "Text generation and knowledge bases.",
    (
        Group(
            "mizzen-chat-recorded",
            _CHAT_RECORDED,
        ),
        Group(
            "mizzen-chat",
            _CHAT_RULES,
        ),
    ),
)
