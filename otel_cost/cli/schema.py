"""Print the JSON Schema of rule files or of the config, for editors and generators."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer


class Of(StrEnum):
    """What has a schema."""

    RULES = "rules"
    CONFIG = "config"


def schema(of: Annotated[Of, typer.Argument(help="Whose schema")] = Of.RULES) -> None:
    """Print the JSON Schema of rule files or of the config, for editors and generators."""
    if of is Of.RULES:
        from otel_cost.core.rules import rules_schema

        made = rules_schema()
    else:
        from otel_cost.edge.config import config_schema

        made = config_schema()
    print(json.dumps(made, indent=2))
