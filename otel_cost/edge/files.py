"""Files that users name: documents, folders of them, and what is shipped with the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from otel_cost.document import nearest, parse_document
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from otel_cost.document import Document

_PACKAGE = Path(__file__).resolve().parent.parent
BUNDLED = "bundled:"
_YAML = frozenset({".yaml", ".yml"})


def bundled(path: str) -> Path:
    """Where a shipped file or folder is: beside the package in a source tree, inside it when installed.

    `path` is relative: `rules/starter.yaml`, `samples`.

    Raises:
        UsageError: nothing of that name is shipped.
    """
    for root in (_PACKAGE / "_bundled", _PACKAGE.parent):
        found = root / path
        if found.exists():
            return found
    raise UsageError(f"`{path}` is not shipped with this version")


def read_document(path: Path, shown: str = "") -> Document:
    """Read one YAML file; `shown` is its name in messages (default: as given).

    Raises:
        UsageError: it cannot be read.
        DocumentError: it is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"{shown or path}: {reason}") from error
    return parse_document(text, shown or str(path))


def entry_files(entry: str, base: Path | None = None) -> Iterator[tuple[Path, str]]:
    """What one entry of a list of files names, each with its name for messages.

    A file, every YAML file below a folder (in sorted path order), or `bundled:NAME`
    from the shipped rules; relative to `base`.

    Raises:
        UsageError: it names nothing.
    """
    if entry.startswith(BUNDLED):
        name = entry.removeprefix(BUNDLED)
        if name not in bundled_rules():
            raise UsageError(f"`{entry}` is not shipped\n    {nearest(name, bundled_rules())}")
        yield bundled(f"rules/{name}.yaml"), entry
        return
    path = Path(entry).expanduser()
    path = path if base is None else base / path
    if path.is_dir():
        for file in sorted(file for file in path.rglob("*") if file.suffix in _YAML and file.is_file()):
            yield file, str(file)
    elif path.exists():
        yield path, str(path)
    else:
        raise UsageError(f"{path}: no such file or folder")


def bundled_rules() -> list[str]:
    """Names of the shipped rule packs."""
    return sorted(file.stem for file in bundled("rules").glob("*.yaml"))


def rule_documents(entries: Iterable[str], base: Path | None = None) -> list[Document]:
    """The documents that a list of rules names, see `entry_files`.

    Raises:
        UsageError: an entry names nothing, or a file cannot be read.
        DocumentError: a file is not YAML.
    """
    return [read_document(file, shown) for entry in entries for file, shown in entry_files(entry, base)]
