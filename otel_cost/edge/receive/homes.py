"""Homes: which partition a record belongs to, so that all that tells of one run meets in one engine.

A run is known by trace ids, a session and the ids of its model calls; a home is the name
under which its records are written. The first one that knows a name says where its home
is, for good: a trace never changes its partition. What is found in one batch is brought
together before anything is asked or claimed.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

Name = tuple[str, str]  # tenant and a key of a run, the strongest first: trace id in hex, `session:…`, `response:…`
MOST: Final = 500_000  # names that are remembered here; what was said once never changes


class HomeStore(Protocol):
    """What all workers know."""

    def find_homes(self, names: Collection[Name]) -> dict[Name, str]:
        """The homes of those that have one."""

    def claim_homes(self, homes: Mapping[Name, str]) -> dict[Name, str]:
        """Give homes to names; for each what stands now, which is another's word where that came first."""


class Homes:
    """One thread's. Without a store only this worker's own word counts, and nothing is remembered over a restart."""

    def __init__(self, store: HomeStore | None = None, most: int = MOST) -> None:
        self._store, self._most = store, most
        self._known: OrderedDict[Name, str] = OrderedDict()

    def settle(self, told: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
        """The home of each of some records, from (tenant, the keys it bears); "" for one that bears none.

        Raises:
            LedgerUnavailableError: nothing was claimed.
        """
        groups = _together([[(tenant, key) for key in keys] for tenant, keys in told])
        every = {name for group in groups for name in group}
        homes = {name: self._known[name] for name in every if name in self._known}
        unknown = every - homes.keys()
        if unknown and self._store is not None:
            homes |= self._store.find_homes(unknown)
        claims: dict[Name, str] = {}
        for group in groups:
            if all(name in homes for name in group):
                continue
            # A home that one of them has; else the session, by which later traces will be known, too.
            home = next((homes[name] for name in group if name in homes), None)
            home = home or next((key for _, key in group if key.startswith("session:")), None) or group[0][1]
            claims |= {name: home for name in group if name not in homes}
        if claims:
            homes |= claims if self._store is None else self._store.claim_homes(claims)
        for name, home in homes.items():
            self._known[name] = home
            self._known.move_to_end(name)
        while len(self._known) > self._most:
            self._known.popitem(last=False)
        return [homes[tenant, keys[0]] if keys else "" for tenant, keys in told]


def _together(records: Sequence[list[Name]]) -> list[list[Name]]:
    """Names that occur together, directly or by way of others, in the order in which they were told."""
    group_of: dict[Name, list[Name]] = {}
    for names in records:
        into: list[Name] | None = None
        for name in names:
            found = group_of.get(name)
            if found is None:
                if into is None:
                    into = []
                into.append(name)
                group_of[name] = into
            elif into is None:
                into = found
            elif into is not found:
                into += found
                group_of |= dict.fromkeys(found, into)
    return list({id(group): group for group in group_of.values()}.values())
