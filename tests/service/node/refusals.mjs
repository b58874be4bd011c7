// Refusals of our own, by the classes that programs catch; a retry would be a second request to the provider.
import { HELLO, client, failure, tell } from "./client.mjs";

const asked = { model: "gpt-4o", messages: HELLO, max_tokens: 12 };
const create = (options, more = {}) => failure(client(options).chat.completions.create({ ...asked, ...more }));
tell({
  unknown_key: await create({ apiKey: "mp-unknown" }),
  poor_key: await create({ apiKey: process.env.TEST_POOR_KEY, maxRetries: 2 }),
  unknown_model: await create({}, { model: "nothing" }),
  wrong_type: await create({}, { max_tokens: "many" }),
  unknown_path: await failure(client().get("/nothing")),
});
