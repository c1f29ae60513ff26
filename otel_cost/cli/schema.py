"""Print the JSON Schema of rule files, of the config or of price files, for editors and generators."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer


class Of(StrEnum):
    """What has a schema."""

    RULES = "rules"
    CONFIG = "config"
    PRICES = "prices"


def schema(of: Annotated[Of, typer.Argument(help="Whose schema")] = Of.RULES) -> None:
    """Print the JSON Schema of rule files, of the config or of price files, for editors and generators."""
    match of:
        case Of.RULES:
            from otel_cost.core.rules import rules_schema

            made = rules_schema()
        case Of.CONFIG:
            from otel_cost.edge.config import config_schema

            made = config_schema()
        case Of.PRICES:
            from otel_cost.core.price.schema import PriceFile

            made = PriceFile.model_json_schema()
    print(json.dumps(made, indent=2))
