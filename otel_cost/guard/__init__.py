"""Guard: an agent in Python asks before it spends, and tells what it spent (`docs/integrations.md`).

Client of `POST /v1/decide`, standard library only. One module per framework beside
it, each imported only by who has that framework: `langchain`, `openai_agents`, `pydantic_ai`, `litellm`.
"""

from otel_cost.guard.client import Answer, Guard, Run, Stopped, current_run, run

__all__ = ["Answer", "Guard", "Run", "Stopped", "current_run", "run"]
