// As ../driver.py: one JSON line in, one JSON line out.
import { createInterface } from "node:readline";

export const MODEL = "simulated-mlrm";
export const TOOL_RESULT = "21 degrees";

export class Seen {
  text = "";
  pieces = 0;
  reasoning = "";
  reasoning_at = "";
  finish = null;
  refusal = null;
  guard = null;
  guard_at = "";
  ids = [];
  calls = [];
  form = null;
  texts = [];
  error = null;

  piece(text) {
    if (text) {
      this.text += text;
      this.pieces += 1;
    }
  }

  thought(text, at) {
    if (text) {
      this.reasoning += text;
      this.reasoning_at = at;
    }
  }

  refuse(text) {
    if (text) this.refusal = (this.refusal ?? "") + text;
  }

  guarded(found, at) {
    if (found) {
      this.guard = found.action;
      this.guard_at = at;
    }
  }

  id(text) {
    if (text && !this.ids.includes(text)) this.ids.push(text);
  }
}

export function failure(error) {
  const kinds = [];
  for (let at = error; at instanceof Error; at = Object.getPrototypeOf(at)) {
    const name = at.constructor.name;
    if (!kinds.includes(name)) kinds.push(name);
  }
  return {
    kind: error?.constructor?.name ?? typeof error,
    kinds,
    code: error?.code ?? error?.data?.error?.code ?? null,
    status: error?.status ?? error?.statusCode ?? null,
    message: String(error?.message ?? JSON.stringify(error)).slice(0, 500),
  };
}

export async function serve(client, act) {
  const say = (payload) => process.stdout.write(JSON.stringify(payload) + "\n");
  say({ client });
  for await (const line of createInterface({ input: process.stdin })) {
    const seen = new Seen();
    try {
      await act(JSON.parse(line), seen);
    } catch (error) {
      seen.error = failure(error);
    }
    say(seen);
  }
}
