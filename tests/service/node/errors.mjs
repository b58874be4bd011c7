// Errors about the request, which must be the provider's own, in plain answers and in the middle of streams.
import { client, collected, failure, tell } from "./client.mjs";

const openai = client();
const chat = openai.chat.completions;
const asking = (simulate, more = {}) => ({
  model: "gpt-4o",
  max_tokens: 12,
  messages: [{ role: "user", content: `Say hello. [[simulate: ${simulate}]]` }],
  ...more,
});
const cases = {
  refused: () => chat.create(asking("status=400")),
  unprocessable: () => chat.create(asking("status=422")),
  limited: () => chat.create(asking("status=429,code=rate_limit_exceeded")),
  broken: () => chat.create(asking("status=500")),
  overloaded: () => chat.create(asking("status=503")),
  wrong: () => chat.create(asking("tokens=3", { temperature: "hot" })),
  refused_stream: async () => collected(await chat.create(asking("status=400", { stream: true }))),
  broken_stream: async () => collected(await chat.create(asking("tokens=20,error_event", { stream: true }))),
};
const told = {};
for (const [name, ask] of Object.entries(cases)) told[name] = await failure(ask());
tell(told);
