// Vercel's AI SDK, by its provider for OpenAI-compatible servers.
import { VERSION, createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, generateText, isStepCount, streamText, tool } from "ai";
import { readFileSync } from "node:fs";
import { z } from "zod";
import { MODEL, TOOL_RESULT, failure, serve } from "./driver.mjs";

const installed = new URL("node_modules/ai/package.json", import.meta.url);
const { version } = JSON.parse(readFileSync(installed, "utf8"));
const schema = z.object({ title: z.string(), minutes: z.number() });
const options = {
  chat: {},
  form: { output: Output.object({ schema }) },
  tool: {
    stopWhen: isStepCount(2),
    tools: {
      get_weather: tool({
        description: "The weather in a city.",
        inputSchema: z.object({ city: z.string() }),
        execute: () => TOOL_RESULT,
      }),
    },
  },
};

async function act(ask, seen) {
  const provider = createOpenAICompatible({
    name: "guard",
    baseURL: ask.url,
    apiKey: "none",
    supportsStructuredOutputs: true,
  });
  const call = { model: provider.chatModel(MODEL), prompt: ask.prompt, ...options[ask.action] };
  if (ask.stream) await streamed(call, ask, seen);
  else await whole(call, ask, seen);
}

async function whole(call, ask, seen) {
  const result = await generateText({ ...call, include: { responseBody: true } });
  for (const step of result.steps) {
    seen.id(step.response.id);
    seen.piece(step.text);
    seen.thought(step.reasoningText, "reasoning part");
    note(step.toolCalls, seen);
  }
  seen.finish = result.finishReason;
  seen.guarded(result.finalStep?.response?.body?.guard ?? result.response.body?.guard, "response.body.guard");
  if (ask.action === "form") seen.form = result.output;
}

async function streamed(call, ask, seen) {
  const result = streamText({ ...call, include: { rawChunks: true }, onError: () => {} });
  for await (const part of result.stream) {
    if (part.type === "text-delta") seen.piece(part.text);
    else if (part.type === "reasoning-delta") seen.thought(part.text, "reasoning part");
    else if (part.type === "tool-call") note([part], seen);
    else if (part.type === "finish-step") seen.id(part.response.id);
    else if (part.type === "finish") seen.finish = part.finishReason;
    else if (part.type === "raw") seen.guarded(part.rawValue.guard, "raw part");
    else if (part.type === "error") seen.error = failure(part.error);
  }
  if (ask.action === "form" && seen.error === null) seen.form = await result.output;
}

function note(calls, seen) {
  for (const call of calls) seen.calls.push({ name: call.toolName, arguments: call.input });
}

await serve(`ai ${version} (@ai-sdk/openai-compatible ${VERSION})`, act);
