"""Files that users name: documents, folders of them, and what is shipped with the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from otel_cost.document import parse_document
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from otel_cost.document import Document

_PACKAGE = Path(__file__).resolve().parent.parent
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


def yaml_files(path: Path) -> Iterator[Path]:
    """The file itself, or every YAML file below the folder, in sorted path order.

    Raises:
        UsageError: there is nothing at `path`.
    """
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.suffix in _YAML and file.is_file())
    elif path.exists():
        yield path
    else:
        raise UsageError(f"{path}: no such file or folder")


def rule_documents(entries: Iterable[str], base: Path | None = None) -> list[Document]:
    """The documents that a list of rules names: files, folders, `bundled:NAME`; paths are relative to `base`.

    Raises:
        UsageError: an entry names nothing.
        DocumentError: a file is not YAML.
    """
    documents: list[Document] = []
    for entry in entries:
        if entry.startswith("bundled:"):
            name = entry.removeprefix("bundled:")
            try:
                documents.append(read_document(bundled(f"rules/{name}.yaml"), entry))
            except UsageError:
                shipped = sorted(file.stem for file in bundled("rules").glob("*.yaml"))
                raise UsageError(f"no rules `{entry}` are shipped; there is: {', '.join(shipped)}") from None
            continue
        path = Path(entry).expanduser()
        path = path if base is None else base / path
        documents += [read_document(file) for file in yaml_files(path)]
    return documents
