// otel-cost: asks before a prompt and before each tool, tells after. Written by `otel-cost hooks install opencode`;
// delete this file to remove it. Whatever goes wrong here, the run goes on: only an answer that says so throws.

const SERVICE = process.env.OTEL_COST_API || "@URL@"
const LIMIT_MS = "@LIMIT_MS@"
const LONGEST_DELAY_MS = 60_000

const standing = new Map() // session -> answers that hold while nobody answers

class Refusal extends Error {}

async function ask(event, input, output) {
  const session = input?.sessionID ?? input?.properties?.sessionID ?? ""
  try {
    const response = await fetch(`${SERVICE}/v1/hooks/opencode`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ event, input, output }),
      signal: AbortSignal.timeout(LIMIT_MS),
    })
    const answer = await response.json()
    if (response.headers.has("otel-cost-decision")) {
      const told = response.headers.get("otel-cost-outage")
      if (told) standing.set(session, JSON.parse(told).answers ?? {})
      else standing.delete(session)
    }
    return answer ?? {}
  } catch {
    return standing.get(session)?.[event] ?? {}
  }
}

async function end(client, session, text) {
  try {
    await client.session.abort({ path: { id: session } })
  } catch {
    // What follows the abort refuses the step all the same.
  }
  throw new Refusal(text)
}

async function obey(client, session, answer) {
  if (answer.delay_ms > 0) {
    await new Promise((resolve) => setTimeout(resolve, Math.min(answer.delay_ms, LONGEST_DELAY_MS)))
  }
  if (answer.stop) await end(client, session, answer.stop)
  if (answer.deny) throw new Refusal(answer.deny)
}

// Anything but an intended refusal stays in here.
function guarded(hook) {
  return async (...given) => {
    try {
      await hook(...given)
    } catch (error) {
      if (error instanceof Refusal) throw error
    }
  }
}

// Bus events that are told: sessions (who started whom) and finished answers (their tokens).
const TOLD = new Set(["session.created", "message.updated"])

export const OtelCost = async ({ client }) => ({
  "chat.message": guarded(async (input, output) => {
    const message = output.message
    const answer = await ask(
      "chat.message",
      { sessionID: input.sessionID, agent: input.agent },
      { message: { id: message?.id, model: message?.model, agent: message?.agent, sessionID: message?.sessionID } },
    )
    await obey(client, input.sessionID, answer)
    if (answer.model && message?.model) {
      const slash = answer.model.indexOf("/")
      message.model = {
        ...message.model,
        providerID: slash > 0 ? answer.model.slice(0, slash) : message.model.providerID,
        modelID: answer.model.slice(slash + 1),
      }
    }
  }),
  "tool.execute.before": guarded(async (input, output) => {
    const { tool, sessionID, callID } = input
    await obey(client, sessionID, await ask("tool.execute.before", { tool, sessionID, callID }, { args: output.args }))
  }),
  "tool.execute.after": guarded(async (input, output) => {
    const { tool, sessionID, callID, args } = input
    const metadata = output.metadata ?? {}
    const told = { exit: metadata.exit, parentSessionId: metadata.parentSessionId, error: metadata.error }
    const answer = await ask(
      "tool.execute.after",
      { tool, sessionID, callID, args },
      { output: output.output, metadata: told },
    )
    if (answer.warn) output.output = `${output.output ?? ""}\n\n${answer.warn}`
    if (answer.stop) await end(client, sessionID, answer.stop)
  }),
  event: guarded(async ({ event }) => {
    if (!TOLD.has(event?.type)) return
    const info = event.properties?.info ?? {}
    if (event.type === "message.updated" && !(info.role === "assistant" && info.time?.completed)) return
    const { id, parentID, role, agent, mode, tokens, cost, modelID, providerID, time, sessionID } = info
    const error = info.error && { name: info.error.name, data: { message: info.error.data?.message } }
    await ask(`event:${event.type}`, {
      type: event.type,
      properties: {
        sessionID: event.properties?.sessionID ?? sessionID ?? id,
        info: { id, parentID, role, agent, mode, tokens, cost, modelID, providerID, time, error },
      },
    })
  }),
})
