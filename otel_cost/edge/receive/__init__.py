"""Receive: bytes from a client to the journal, and an answer that the client can act on."""
