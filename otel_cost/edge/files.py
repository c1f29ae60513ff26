"""Files: price lists and rules from disk, from the installed wheel or from the source tree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from otel_cost.document import Document, nearest, parse_document
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_cost.core.price import Layer, PriceBook

_PACKAGE: Final = Path(__file__).resolve().parent.parent
BUNDLED: Final = "bundled:"
_YAML: Final = {".yaml", ".yml"}


def replace_file(file: Path, content: bytes) -> None:
    """Write a file whole or not at all: who reads it meanwhile finds what was there before.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    fresh = file.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(file)


def bundled(name: str) -> Path:
    """A file or folder that ships with the product, for example `rules/prices`.

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


def read_document(path: Path, shown: str = "") -> Document:
    """One YAML file, named in messages as the user wrote it (`shown`, default: the path).

    Raises:
        UsageError: it cannot be read.
        DocumentError: it is not a YAML document.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UsageError(f"{shown or path}: {reason}") from error
    return parse_document(text, shown or str(path))


def entry_files(entry: str) -> list[tuple[Path, str]]:
    """What one entry of a list of rules names, each file with its name for messages.

    A file, every YAML file below a folder, or `bundled:NAME` from the shipped rules. Rule tests
    (`*.test.yaml`) live beside the rules.

    Raises:
        UsageError: it names nothing.
    """
    if not entry.startswith(BUNDLED):
        return [(file, str(file)) for file in yaml_files(Path(entry).expanduser())]
    name = entry.removeprefix(BUNDLED)
    if name not in bundled_rules():
        raise UsageError(f"`{entry}` is not shipped\n    {nearest(name, bundled_rules())}")
    return [(bundled(f"rules/{name}.yaml"), entry)]


def bundled_rules() -> list[str]:
    """Names of the shipped rule packs."""
    return sorted(file.stem for file in bundled("rules").glob("*.yaml") if not is_test(file))


def is_test(file: Path) -> bool:
    """Does a file hold tests of rules, by its name?"""
    return file.stem.endswith(".test")


def rule_documents(entries: Iterable[str]) -> list[Document]:
    """The documents that a list of rules names, see `entry_files`; tests of rules are left out.

    Raises:
        UsageError: an entry names nothing, or a file cannot be read.
        DocumentError: a file is not YAML.
    """
    files = [named for entry in entries for named in entry_files(entry)]
    return [read_document(file, shown) for file, shown in files if not is_test(file)]


def load_price_book(paths: Iterable[Path] = (), extra: Iterable[Layer] = ()) -> PriceBook:
    """The book of pinned data, our overrides, the user's price files and `extra`, which win in the order given.

    Raises:
        UsageError: a file cannot be read.
        DocumentError: a file does not load.
    """
    # Whoever reads rules only does not wait for the price lists.
    from otel_cost.core.price import compile_book, layer_of, upstream_layer  # noqa: PLC0415

    shipped = yaml_files(bundled("rules/prices"))
    files = shipped + [file for path in paths for file in yaml_files(path)]
    return compile_book([upstream_layer(), *(layer_of(read_document(file)) for file in files), *extra])
