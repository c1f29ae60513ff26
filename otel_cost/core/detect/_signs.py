"""Signs: what a call has that may wake a detector, as bits; `_memory.Memory` works them out before detectors look."""

from __future__ import annotations

from typing import Final

EVERY: Final = 1 << 0  # any call, and an evaluation
MODEL: Final = 1 << 1  # a model call
FAILED: Final = 1 << 2  # says so, or its result reads so
FAULT: Final = 1 << 3  # failed on the way there
ECHO: Final = 1 << 4  # a result that is known by now is one that some earlier call had
READ: Final = 1 << 5  # of a tool that reads; what it was asked and what came back are told
WRITE: Final = 1 << 6  # of a tool that writes
WHOLE: Final = 1 << 7  # writes its target as a whole
HANDS_OVER: Final = 1 << 8  # work, to another agent
ORDERS: Final = 1 << 9  # tells another agent in words what to do
CHANTS: Final = 1 << 10  # its text says a piece more than once
SHRUNK: Final = 1 << 11  # the prompt was compacted since the last model call
USUAL: Final = 1 << 12  # it is known what runs of its workflow usually take
