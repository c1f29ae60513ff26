"""Assemble: traces become runs, spans a tree, and steps that tell of the same thing one call.

`packed` keeps who is whose parent in a few bytes a span, `trace` walks it,
`join` decides which steps are one call, `run` holds one open run, `runs` all of
them, `summary` rolls up, `snapshot` puts a run to sleep and wakes it.
"""
