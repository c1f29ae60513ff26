"""Enrich: what we add to a span or log record on its way downstream, and the log records that are ours alone."""
