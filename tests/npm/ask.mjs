// One streamed question with npm's `ai`: node ask.mjs URL responses|chat FIELDS, where FIELDS is
// JSON that goes into the request's body. Says "begun" to stderr at the first delta, and prints what
// the package made of the stream, as JSON.
import { createOpenAI } from "@ai-sdk/openai";
import { stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [url, dialect, fields] = process.argv.slice(2);

const provider = createOpenAI({
  baseURL: url,
  apiKey: "ignored",
  // The package passes no unknown fields on; the ones that make a model foretold are.
  fetch: (to, init) =>
    fetch(to, { ...init, body: JSON.stringify({ ...JSON.parse(init.body), ...JSON.parse(fields) }) }),
});

const looked = [];
const look = tool({
  description: "Look there.",
  inputSchema: z.object({ at: z.string() }),
  execute: ({ at }) => {
    looked.push(at);
    return "It is wide.";
  },
});

const errors = [];
const result = streamText({
  model: dialect === "chat" ? provider.chat("caller") : provider.responses("caller"),
  system: "Be kind.",
  prompt: "Hello",
  tools: { look },
  stopWhen: stepCountIs(1),
  maxRetries: 0,
  onError: ({ error }) => errors.push(String(error.message ?? error)),
});

let begun = false;
const said = { text: "", reasoning: "", finish: null, usage: null };
for await (const part of result.fullStream) {
  if (part.type.endsWith("-delta") && !begun) {
    begun = true;
    console.error("begun");
  }
  if (part.type === "text-delta") said.text += part.text;
  if (part.type === "reasoning-delta") said.reasoning += part.text;
  if (part.type === "finish") {
    said.finish = part.finishReason;
    said.usage = [part.totalUsage.inputTokens, part.totalUsage.outputTokens];
  }
  if (part.type === "error") errors.push(String(part.error.message ?? part.error));
}
console.log(JSON.stringify({ ...said, looked, errors }));
