"""Usage: token counts in canonical, inclusive form.

`input` holds its cached parts, `output` holds reasoning, whatever the sender's
own way of counting was (that is the `basis`, decided per sender while
normalising). `None` means the sender never tells; 0 means it told zero.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, unsafe_hash=True, kw_only=True)
class Usage:
    """What one call consumed. Tokens unless a name says otherwise.

    Never changed once made; not frozen because that triples what making one costs.

    Invariants (checked while normalising, never clamped): no count is negative;
    `cache_read + cache_write <= input`; `cache_write_1h <= cache_write`;
    `reasoning <= output`; each modality is inside its side.
    """

    input: int
    output: int
    cache_read: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None  # the part of cache_write that lives an hour; None: not told
    reasoning: int | None = None
    audio_input: int | None = None
    audio_cache_read: int | None = None
    image_input: int | None = None
    video_input: int | None = None
    audio_output: int | None = None
    image_output: int | None = None

    @property
    def uncached_input(self) -> int:
        return self.input - (self.cache_read or 0) - (self.cache_write or 0)

    @property
    def details(self) -> int:
        """How many of the optional parts are told; the more detailed of two equal records wins."""
        return sum(
            part is not None
            for part in (
                self.cache_read,
                self.cache_write,
                self.cache_write_1h,
                self.reasoning,
                self.audio_input,
                self.audio_output,
            )
        )
