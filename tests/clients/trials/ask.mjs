// One client of npm's `ai`: node ask.mjs PROVIDER TURNS, where PROVIDER is an export of
// configured.mjs and TURNS are the prompts as JSON. Prints what came of each turn as JSON.
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import * as configured from "./configured.mjs";

const [provider, turns] = process.argv.slice(2);
const prompts = JSON.parse(turns);
const model = configured[provider];

const look = tool({
  description: "Look there.",
  inputSchema: z.object({ at: z.string() }),
  execute: ({ at }) => `${at} is wide`,
});

const trials = {
  text: async () => (await generateText({ model, prompt: prompts.text, maxRetries: 0 })).text,
  stream: async () => {
    const pieces = [];
    for await (const piece of streamText({ model, prompt: prompts.text, maxRetries: 0 }).textStream)
      pieces.push(piece);
    return pieces;
  },
  tool: async () =>
    (
      await generateText({
        model,
        prompt: prompts.tool,
        tools: { look },
        stopWhen: stepCountIs(3),
        maxRetries: 0,
      })
    ).text,
  structured: async () =>
    (
      await generateObject({
        model,
        prompt: prompts.structured,
        schema: z.object({ name: z.string(), age: z.number() }),
        maxRetries: 0,
      })
    ).object,
};

const outcome = {};
for (const [kind, trial] of Object.entries(trials)) {
  try {
    outcome[kind] = await trial();
  } catch (error) {
    console.error(error);
    outcome[kind] = { error: String(error.message ?? error) };
  }
}
console.log("\n" + JSON.stringify(outcome));
