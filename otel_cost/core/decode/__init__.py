"""Decode: bytes in OTLP's encodings to events, and records back into export requests."""
