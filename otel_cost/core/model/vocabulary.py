"""The closed word lists of the public contract. Lists grow; words never change meaning."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What a step is. Only the first four can be a call; the rest give the tree its shape."""

    INFERENCE = "inference"
    EMBEDDING = "embedding"
    TOOL = "tool"
    FEE = "fee"
    AGENT = "agent"
    WORKFLOW = "workflow"
    OTHER = "other"


class Source(StrEnum):
    """Which signal told it."""

    SPAN = "span"
    LOG = "log"
    EVENT = "event"
    METRIC = "metric"
    HOOK = "hook"


class Status(StrEnum):
    """What became of a call's price; the last two exist on exported spans only."""

    PRICED = "priced"
    UNPRICED = "unpriced"
    INVALID = "invalid"
    ROLLUP = "rollup"
    DUPLICATE = "duplicate"


class Reason(StrEnum):
    """Why a call has no price."""

    MISSING_USAGE = "missing_usage"
    MISSING_MODEL = "missing_model"
    UNKNOWN_MODEL = "unknown_model"
    UNKNOWN_PROVIDER = "unknown_provider"
    BEFORE_FIRST_PRICE = "before_first_price"
    NO_RATE = "no_rate"
    FAILED_CALL = "failed_call"
    NEGATIVE_TOKENS = "negative_tokens"
    INCONSISTENT_USAGE = "inconsistent_usage"
    BAD_INPUT = "bad_input"


class Flag(StrEnum):
    """What a reader of the number should know about it."""

    INCOMPLETE = "incomplete"
    AGGREGATE = "aggregate"
    FAILED = "failed"
    TTL_UNKNOWN = "ttl_unknown"
    REPORTED_COST = "reported_cost"
    MERGED_BY_GUESS = "merged_by_guess"
    CONFLICT = "conflict"
    ESTIMATED = "estimated"


class Basis(StrEnum):
    """Does the sender's input count include its cached part? Our own usage always does."""

    INCLUSIVE = "inclusive"
    EXCLUSIVE = "exclusive"
    UNKNOWN = "unknown"


class Category(StrEnum):
    """What an alert is about."""

    LOOP = "loop"
    WASTE = "waste"
    BUDGET = "budget"
    PRICE = "price"
    DRIFT = "drift"
    POLICY = "policy"


class Severity(StrEnum):
    """How loud an alert is."""

    NOTICE = "notice"
    WARNING = "warning"
    CRITICAL = "critical"


MODEL_KINDS = frozenset({Kind.INFERENCE, Kind.EMBEDDING})
CALL_KINDS = frozenset({Kind.INFERENCE, Kind.EMBEDDING, Kind.TOOL, Kind.FEE})
