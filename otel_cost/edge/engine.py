"""Engine from a config: prices and rules are read here, so that every driver runs the very same one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from otel_cost.core.assemble.runs import Caps
from otel_cost.core.rules import RuleSet
from otel_cost.edge.files import load_price_book
from otel_cost.edge.rule_files import read_rules
from otel_cost.pipeline import Engine, Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_cost.core.price import PriceBook
    from otel_cost.edge.config import Config
    from otel_cost.pipeline import Snapshots

# Of the topic of steps, by a worker that takes partitions over; its positions are records.
MOST_READ_AGAIN: Final = 50_000


def build_engine(
    config: Config,
    *,
    rules: Sequence[str] | RuleSet | None = None,
    snapshots: Snapshots | None = None,
    tells_nobody: bool = False,
    book: PriceBook | None = None,
) -> Engine:
    """The engine that a config describes; `rules` take the place of the configured ones.

    `tells_nobody`: the driver sends nothing, so that the secrets of contacts need not be there.

    `book`: instead of the one that the config names.

    Raises:
        UsageError: a file that is named is not there.
        DocumentError: a rule or price file has mistakes.
    """
    caps = Caps(
        idle_ns=config.engine.idle,
        open_spans=config.engine.caps.open_spans,
        open_steps=config.engine.caps.open_steps,
        run_steps=config.engine.caps.run_steps,
        behind=config.journal.max_bytes // 8 if config.kafka is None else MOST_READ_AGAIN,
    )
    return Engine(
        load_price_book(config.prices) if book is None else book,
        rules
        if isinstance(rules, RuleSet)
        else read_rules(config.rules if rules is None else rules, tells_nobody=tells_nobody),
        Settings(settle_ns=config.engine.settle, caps=caps),
        snapshots,
    )
