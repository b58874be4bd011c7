// The SDK's client for a base URL and a key from the environment, and how each script tells what it got.
import OpenAI from "openai";

export const HELLO = [{ role: "user", content: "Say hello." }];

export function client(options = {}) {
  return new OpenAI({
    baseURL: process.env.TEST_BASE_URL,
    apiKey: process.env.TEST_API_KEY,
    maxRetries: 0,
    ...options,
  });
}

export async function collected(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

// What a program sees of an error: its class and the members of OpenAI's envelope.
export async function failure(promise) {
  try {
    return { answered: await promise };
  } catch (error) {
    const { status, code, type, param, message } = error;
    return { name: error.constructor.name, status, code, type, param, message, request_id: typeof error.requestID };
  }
}

export function tell(told) {
  process.stdout.write(JSON.stringify(told));
}
