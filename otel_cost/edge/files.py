"""Files: price lists and rules from disk, from the installed wheel or from the source tree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from otel_cost.core.price import PriceBook, compile_book, layer_of, upstream_layer
from otel_cost.document import Document, parse_document
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

_PACKAGE: Final = Path(__file__).resolve().parent.parent
_YAML: Final = {".yaml", ".yml"}


def bundled(name: str) -> Path:
    """A file or folder that ships with the product: `rules/prices`, `samples` …

    Raises:
        UsageError: nothing of that name ships.
    """
    for root in (_PACKAGE / "_bundled", _PACKAGE.parent):  # a wheel carries them inside, a checkout beside
        path = root / name
        if path.exists():
            return path
    raise UsageError(f"nothing called `{name}` ships with this version")


def yaml_files(path: Path) -> list[Path]:
    """The YAML file at `path`, or every one below it, in sorted order.

    Raises:
        UsageError: there is no such file or folder.
    """
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.suffix in _YAML and file.is_file())
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    return [path]


def read_document(path: Path) -> Document:
    """One YAML file, named as the user wrote it.

    Raises:
        UsageError: it cannot be read.
        DocumentError: it is not a YAML document.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UsageError(f"{path}: {reason}") from error
    return parse_document(text, str(path))


def load_price_book(paths: Iterable[Path] = ()) -> PriceBook:
    """The book of pinned data, our overrides and the user's price files, which win in the order given.

    Raises:
        UsageError: a file cannot be read.
        DocumentError: a file does not load.
    """
    shipped = yaml_files(bundled("rules/prices"))
    files = shipped + [file for path in paths for file in yaml_files(path)]
    return compile_book([upstream_layer(), *(layer_of(read_document(file)) for file in files)])
