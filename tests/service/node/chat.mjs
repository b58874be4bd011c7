// Plain answers: chat, tools, structured output, completions, embeddings, models.
import { HELLO, client, tell } from "./client.mjs";

const openai = client();
const model = "gpt-4o";
const parameters = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};
const { data, request_id } = await openai.chat.completions.create({ model, messages: HELLO, max_tokens: 12 }).withResponse();
const called = await openai.chat.completions.create({
  model,
  messages: HELLO,
  tools: [{ type: "function", function: { name: "get_weather", parameters } }],
  tool_choice: "required",
});
const parsed = await openai.chat.completions.parse({
  model,
  messages: HELLO,
  response_format: { type: "json_schema", json_schema: { name: "place", schema: parameters, strict: true } },
});
const completed = await openai.completions.create({ model: "gpt-3.5-turbo-instruct", prompt: "Say hello.", max_tokens: 5 });
const vectors = await openai.embeddings.create({ model: "text-embedding-3-small", input: ["a", "b"] });
const several = await openai.chat.completions.create({ model, messages: HELLO, n: 3, max_tokens: 4 });
const raw = await openai.chat.completions.create({ model, messages: HELLO, max_tokens: 3 }).asResponse();
tell({
  data,
  request_id: typeof request_id,
  called,
  parsed,
  completed,
  vectors,
  several,
  raw: { status: raw.status, type: raw.headers.get("content-type"), body: await raw.json() },
});
