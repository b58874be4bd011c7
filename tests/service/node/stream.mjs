// Streams: with and without usage, the SDK's own collector, completions, a stream left early.
import { HELLO, client, collected, tell } from "./client.mjs";

const openai = client();
const asked = { model: "gpt-4o", messages: HELLO, max_tokens: 12, stream: true };
const plain = await collected(await openai.chat.completions.create(asked));
const counted = await collected(await openai.chat.completions.create({ ...asked, stream_options: { include_usage: true } }));
const completions = await collected(
  await openai.completions.create({ model: "gpt-3.5-turbo-instruct", prompt: "Say hello.", max_tokens: 5, stream: true }),
);
const several = await collected(await openai.chat.completions.create({ ...asked, n: 2 }));
const collector = openai.chat.completions.stream(asked);
const deltas = [];
collector.on("content", (delta) => deltas.push(delta));
const final = await collector.finalChatCompletion();
const left = await openai.chat.completions.create({ ...asked, max_tokens: 200 });
let first = null;
for await (const event of left) {
  first = event;
  break;
}
tell({ plain, counted, completions, several, deltas, final, first });
