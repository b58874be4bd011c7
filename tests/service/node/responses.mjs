// Responses: plain, streamed, followed up, stored, listed, deleted, in the background; and conversations.
import { client, collected, failure, tell } from "./client.mjs";

const openai = client();
const model = "gpt-4o";
const asked = { model, input: "Say hello.", max_output_tokens: 32 };
const plain = await openai.responses.create(asked);
const streamed = await collected(await openai.responses.create({ ...asked, stream: true }));
const collector = openai.responses.stream(asked);
const deltas = [];
collector.on("response.output_text.delta", (event) => deltas.push(event.delta));
const final = await collector.finalResponse();
const followed = await openai.responses.create({ ...asked, input: "And again.", previous_response_id: plain.id });
const got = await openai.responses.retrieve(plain.id);
const items = await openai.responses.inputItems.list(plain.id);
const deleted = await failure(openai.responses.delete(plain.id));
const gone = await failure(openai.responses.retrieve(plain.id));
const begun = await openai.responses.create({ ...asked, background: true });
let background = begun;
while (["queued", "in_progress"].includes(background.status)) {
  await new Promise((resolve) => setTimeout(resolve, 20));
  background = await openai.responses.retrieve(begun.id);
}
const conversation = await openai.conversations.create({ metadata: { topic: "demo" } });
const within = await openai.responses.create({ ...asked, conversation: conversation.id });
const said = await openai.conversations.items.list(conversation.id);
const moderated = await openai.moderations.create({ input: "hello" });
tell({
  plain,
  text: plain.output_text,
  streamed,
  deltas,
  final,
  followed,
  got,
  items: items.data,
  deleted,
  gone,
  background,
  conversation,
  within,
  said: said.data,
  moderated,
});
