"""What the tests of all integrations share: rules, and a tool that fails in the same way each time."""

from __future__ import annotations

from importlib.util import find_spec

from needs import missing

DENY_TEXT = "Same error three times. Change approach or report."


def repeated(do: str, *, fail: str = "open") -> str:
    """A rule on the same error three times, and what it does."""
    return f"""
version: 1
defaults: {{fail: {fail}}}
loops:
  - name: same-error-3x
    detect: repeated_error
    do: [{do}, {{alert: }}]
"""


DENY = repeated(f'{{deny: {{scope: same_call, text: "{DENY_TEXT}"}}}}')
STOP_TEXT = "Stopped: the same error again and again."
STOP = repeated(f'{{stop: {{text: "{STOP_TEXT}"}}}}')
DOWNGRADE = repeated("{downgrade: {to: small-model}}")
DELAY = repeated("{delay: {for: 300ms}}")
WARN = repeated('{warn: {text: "Costs add up. Finish soon."}}')
ASK = repeated('{ask: {text: "The owner has to agree."}}')


class FailingTests:
    """A test run that fails the same way each time, in another place and after another time."""

    def __init__(self) -> None:
        self.ran = 0

    def __call__(self, target: str = "t") -> str:
        self.ran += 1
        raise RuntimeError(f"3 tests failed in 0.{self.ran}s at /tmp/run-{self.ran}/{target}.py line {self.ran}")


def framework(module: str) -> None:
    """Skip a whole file where a framework is missing."""
    if find_spec(module) is None:
        missing(module, "make integrations")


ESCALATION = """
version: 1
escalation:
  - name: strong-after-tests-fail
    models: ["big-*"]
    allow_if: {prior: {models: ["small-*"], failed: [tests_failed], count: 2}}
    else: {do: [{downgrade: {to: small-model}}]}
"""
