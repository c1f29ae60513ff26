"""Price: from a step to a charge. Layers of price lists are compiled to one book, once.

`compile_book([upstream_layer(), *overrides, *users])` makes a `PriceBook`;
`PriceBook.charge(step)` prices one call. `layer_of(document)` reads a price file.
"""

from __future__ import annotations

from otel_cost.core.price.book import PriceBook, compile_book
from otel_cost.core.price.schema import layer_of
from otel_cost.core.price.table import Layer
from otel_cost.core.price.upstream import upstream_layer

__all__ = ["Layer", "PriceBook", "compile_book", "layer_of", "upstream_layer"]
