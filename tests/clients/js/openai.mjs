// The official JavaScript client.
import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { VERSION } from "openai/version";
import { z } from "zod";
import { MODEL, TOOL_RESULT, serve } from "./driver.mjs";

const Recipe = z.object({ title: z.string(), minutes: z.number() });
const tools = [zodFunction({ name: "get_weather", parameters: z.object({ city: z.string() }) })];

async function act(ask, seen) {
  const client = new OpenAI({ baseURL: ask.url, apiKey: "none" });
  const messages = [{ role: "user", content: ask.prompt }];
  await { chat, form, tool, two }[ask.action](client, messages, ask, seen);
}

async function chat(client, messages, ask, seen) {
  const body = { model: MODEL, messages };
  if (!ask.stream) return whole(await client.chat.completions.create(body), seen);
  for await (const chunk of await client.chat.completions.create({ ...body, stream: true })) {
    part(chunk, seen);
  }
}

async function form(client, messages, ask, seen) {
  const body = { model: MODEL, messages, response_format: zodResponseFormat(Recipe, "recipe") };
  seen.form = (await helped(client, body, ask, seen)).parsed;
}

async function tool(client, messages, ask, seen) {
  for (let turn = 0; turn < 2; turn += 1) {
    const message = await helped(client, { model: MODEL, messages, tools }, ask, seen);
    if (!message.tool_calls?.length) return;
    messages.push(message);
    for (const call of message.tool_calls) {
      seen.calls.push({ name: call.function.name, arguments: call.function.parsed_arguments });
      messages.push({ role: "tool", tool_call_id: call.id, content: TOOL_RESULT });
    }
  }
}

// By the parse helper, or the stream helper, which both check and parse what they gather.
async function helped(client, body, ask, seen) {
  if (!ask.stream) {
    const reply = await client.chat.completions.parse(body);
    whole(reply, seen);
    return reply.choices[0].message;
  }
  const stream = client.chat.completions.stream(body);
  for await (const chunk of stream) part(chunk, seen);
  return (await stream.finalChatCompletion()).choices[0].message;
}

async function two(client, messages, ask, seen) {
  const body = { model: MODEL, messages, n: 2, logprobs: true };
  seen.texts = ["", ""];
  if (!ask.stream) {
    const reply = await client.chat.completions.create(body);
    seen.id(reply.id);
    for (const choice of reply.choices) seen.texts[choice.index] = choice.message.content;
    return;
  }
  for await (const chunk of await client.chat.completions.create({ ...body, stream: true })) {
    seen.id(chunk.id);
    for (const choice of chunk.choices) seen.texts[choice.index] += choice.delta.content ?? "";
  }
}

function whole(reply, seen) {
  const [{ message, finish_reason }] = reply.choices;
  seen.id(reply.id);
  seen.piece(message.content);
  seen.refuse(message.refusal);
  seen.thought(message.reasoning, "message.reasoning");
  seen.finish = finish_reason;
  seen.guarded(reply.guard, "completion.guard");
}

function part(chunk, seen) {
  const { delta, finish_reason } = chunk.choices[0];
  seen.id(chunk.id);
  seen.piece(delta.content);
  seen.refuse(delta.refusal);
  seen.thought(delta.reasoning, "delta.reasoning");
  seen.finish = finish_reason ?? seen.finish;
  seen.guarded(chunk.guard, "chunk.guard");
}

await serve(`openai-js ${VERSION}`, act);
