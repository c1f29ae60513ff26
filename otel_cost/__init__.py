"""otel-cost: cost as a runtime signal for AI agents.

The flow: receive → decode → normalise → assemble → price → detect → budget → decide → export/ledger.
`core/` holds the stages (pure), `edge/` the effects, `pipeline.py` the order,
`service.py` the wiring, `cli/` the commands. See docs/architecture.md.
"""
