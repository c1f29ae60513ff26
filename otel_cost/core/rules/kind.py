"""What all rule kinds share: their registry, the base of their models, `do: [{VERB: ARGS}]`.

A rule kind is one file in `kinds/` whose last line is `KIND = register(RuleKind(...))`.
Its model is its schema and holds its defaults; `build` turns a checked model into
what the engine runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, StringConstraints, model_validator

from otel_cost.core.rules.match import check_dimension
from otel_cost.core.rules.template import COMMON, placeholders
from otel_cost.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from otel_cost.core.rules.kinds.defaults import Defaults
    from otel_cost.document import Document, Path
    from otel_cost.errors import Problem

R = TypeVar("R")


class Strict(BaseModel):
    """Base of every model that a user writes: unknown keys are mistakes, nothing changes after loading."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.-]{0,99}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=2000)]


def _check_template(text: str) -> str:
    placeholders(text)
    return text


Message = Annotated[Text, AfterValidator(_check_template)]
"""What an agent reads; `{{name}}` stands for what is known when it is said (`template.py`)."""


class Dimension(str):
    """A name to group by: a dimension or an attribute."""

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> Any:  # noqa: ANN401  # pydantic's protocol
        from pydantic_core import core_schema  # noqa: PLC0415  # only while models are made

        return core_schema.no_info_after_validator_function(check_dimension, core_schema.str_schema())


def told_by(**models: str) -> Discriminator:
    """Tell the members of a union of models by a key that only one has, so that mistakes are about that one.

    Key → the model's name, which is also its tag; `text` stands for plain text.
    The first is meant where none of the keys is there.
    """

    def tag(written: object) -> str:
        if isinstance(written, str) and "text" in models:
            return models["text"]
        keys = written if isinstance(written, dict) else type(written).__name__
        named = [name for key, name in models.items() if key in keys or name == keys]
        return named[0] if named else next(iter(models.values()))

    return Discriminator(tag)


class Mode(StrEnum):
    """Does a rule act (`enforce`), only tell what it would do (`shadow`), or sleep (`off`)."""

    ENFORCE = "enforce"
    SHADOW = "shadow"
    OFF = "off"


Fail = Literal["open", "closed"]


# --- do: [{VERB: ARGS}] ----------------------------------------------------------------------------------------------


class Allow(Strict):
    """Let it pass."""


class Warn(Strict):
    """Let it pass and tell the agent."""

    text: Message | None = None


class Delay(Strict):
    """Let it pass later."""

    for_: Duration = Field(alias="for")


class Downgrade(Strict):
    """Let it pass with a cheaper model."""

    to: Text
    otherwise: Literal["warn", "deny"] = Field("warn", alias="else")  # where a harness cannot change the model


class Ask(Strict):
    """Let the user decide."""

    text: Message | None = None


class Deny(Strict):
    """Refuse this call; the run goes on."""

    scope: Literal["same_call", "tool", "model", "all"] = "same_call"
    text: Message | None = None


class Stop(Strict):
    """End the run."""

    text: Message | None = None


class AlertTo(Strict):
    """Tell people: one contact, or everyone who listens."""

    to: tuple[Name, ...] = ()


class Issue(Strict):
    """Open an issue, or comment on the open one, at a contact that has issues."""

    to: Name


class Action(Strict):
    """Exactly one verb with its arguments."""

    allow: Allow | None = None
    warn: Warn | None = None
    delay: Delay | None = None
    downgrade: Downgrade | None = None
    ask: Ask | None = None
    deny: Deny | None = None
    stop: Stop | None = None
    alert: AlertTo | None = None
    issue: Issue | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, written: object) -> object:
        """`alert: agents` and `issue: agents` are `{to: …}`; a verb without arguments may stay empty."""
        if not isinstance(written, dict):
            return written
        given: dict[object, object] = {}
        for verb, arguments in written.items():
            if verb == "alert" and isinstance(arguments, str | list):
                given[verb] = {"to": [arguments] if isinstance(arguments, str) else arguments}
            elif verb == "issue" and isinstance(arguments, str):
                given[verb] = {"to": arguments}
            else:
                given[verb] = {} if arguments is None else arguments
        return given

    @model_validator(mode="after")
    def _one_verb(self) -> Action:
        if len(self.model_fields_set) != 1:
            message = "an action is exactly one verb\nfor example `- deny: {scope: same_call}`, one list item each"
            raise ValueError(message)
        return self

    @property
    def verb(self) -> str:
        return next(iter(self.model_fields_set))

    @property
    def arguments(self) -> Strict:
        arguments: Strict = getattr(self, self.verb)
        return arguments


VERBS: Final = ("allow", "warn", "delay", "downgrade", "ask", "deny", "stop")
"""What a decision can be, in order of strictness. `alert` and `issue` tell people and decide nothing."""

Actions = tuple[Action, ...]


def decision_verbs(actions: Actions) -> str:
    """The decisions among `actions`, strictest first, as an alert shows them; "" = tell only."""
    verbs = {action.verb for action in actions} & set(VERBS)
    return ",".join(sorted(verbs, key=VERBS.index, reverse=True))


def actions_of(model: BaseModel, path: Path = ()) -> Iterator[tuple[Action, Path]]:
    """Every action in a rule, wherever its model has them, each with its place below the rule."""
    for name, info in type(model).model_fields.items():
        value, here = getattr(model, name), (*path, info.alias or name)
        if isinstance(value, Strict):
            yield from actions_of(value, here)
        elif isinstance(value, tuple):
            yield from ((item, (*here, index)) for index, item in enumerate(value) if isinstance(item, Action))


# --- The registry ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Site:
    """Where a rule stands, and what the whole set says about it; what `build` may ask."""

    document: Document
    path: Path
    defaults: Defaults
    read: Callable[[str], str] | None = None  # the text of a file that the document names; raises LookupError

    def problem(self, message: str, hint: str = "", *below: str | int, key: bool = False) -> Problem:
        return self.document.problem((*self.path, *below), message, hint, key=key)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleKind(Generic[R]):
    """One top-level key of a rule file.

    `single`: the key holds one mapping instead of a list of named rules.
    `build(model, site)` raises `DocumentError` for what the model alone cannot see.
    `facts`: what the messages of its actions may name besides what every alert knows.
    """

    name: str
    model: type[BaseModel]
    build: Callable[[Any, Site], R]
    single: bool = False
    facts: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """Everything that its messages may name."""
        return (*COMMON, *self.facts)


KINDS: Final[dict[str, RuleKind[Any]]] = {}


def register(kind: RuleKind[R]) -> RuleKind[R]:
    """Make a rule kind known; a second one of the same name is a programming error."""
    if kind.name in KINDS:
        raise ValueError(f"rule kind {kind.name!r} is registered twice")
    KINDS[kind.name] = kind
    return kind
