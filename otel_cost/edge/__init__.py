"""The ring of effects: sockets, files, databases, clocks. Thin."""
