// The chat: streams an answer by the same way that every request takes, and tells what it used and cost.

const log = document.getElementById("log"), ask = document.getElementById("ask"), text = document.getElementById("text");
const stop = document.getElementById("stop"), total = document.getElementById("total"), model = document.getElementById("model");
const organization = document.querySelector(".chat").dataset.organization;
const csrf = document.querySelector("meta[name=csrf]").content;
let messages = [], conversation = newId(), running = null, spent = 0n;

// crypto.randomUUID is there for https and localhost only.
function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function show(role, content) {
  const message = document.createElement("article");
  message.className = `message ${role}`;
  message.append(document.createTextNode(content));
  log.append(message);
  log.scrollTop = log.scrollHeight;
  return message;
}

function note(message, content) {
  const footer = message.querySelector("footer") ?? message.appendChild(document.createElement("footer"));
  footer.textContent = content;
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    held += value;
    const lines = held.split("\n");
    held = lines.pop();
    for (const line of lines) if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
  }
}

async function cost(requestId) {
  await fetch(`/api/credits/balance?fresh=1&organization_id=${organization}`); // waits until it is in the books
  const answer = await fetch(`/api/usage/requests/${requestId}?organization_id=${organization}`);
  return answer.ok ? (await answer.json()).amount : null;
}

function nanos(amount) {
  const [whole, part = ""] = amount.split(".");
  return BigInt(whole) * 1000000000n + BigInt(part.padEnd(9, "0"));
}

async function answered(answer) {
  const message = show("assistant", "");
  let content = "", usage = null;
  for await (const event of events(answer.body)) {
    if (event.error) throw new Error(event.error.message);
    content += event.choices?.[0]?.delta?.content ?? "";
    usage = event.usage ?? usage;
    message.firstChild.data = content;
    log.scrollTop = log.scrollHeight;
  }
  messages.push({ role: "assistant", content });
  const tokens = usage ? `${usage.prompt_tokens} tokens in, ${usage.completion_tokens} out` : "";
  note(message, tokens);
  const amount = await cost(answer.headers.get("x-meterproxy-request-id"));
  if (amount === null) return;
  note(message, `${tokens} · $${amount}`);
  spent += nanos(amount);
  const digits = String(spent).padStart(10, "0");
  total.textContent = `This conversation: $${digits.slice(0, -9)}.${digits.slice(-9).replace(/0{1,7}$/, "")}`;
}

ask.addEventListener("submit", async (event) => {
  event.preventDefault();
  const content = text.value.trim();
  if (!content || running) return;
  running = new AbortController();
  stop.disabled = false;
  text.value = "";
  messages.push({ role: "user", content });
  show("user", content);
  try {
    const answer = await fetch(`/api/ai/chat/stream?organization_id=${organization}`, {
      method: "POST", signal: running.signal,
      headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf, "X-Meterproxy-Conversation": conversation },
      body: JSON.stringify({ model: model.value, messages }),
    });
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    await answered(answer);
  } catch (error) {
    if (error.name !== "AbortError") show("failed", error.message);
  } finally {
    running = null;
    stop.disabled = true;
    text.focus();
  }
});
text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); ask.requestSubmit(); }
});
stop.addEventListener("click", () => running?.abort());
document.getElementById("anew").addEventListener("click", () => {
  messages = []; conversation = newId(); spent = 0n; log.replaceChildren(); total.textContent = ""; text.focus();
});
