// What all pages do where there is JavaScript: times in the viewer's zone, copying, questions before what cannot be undone,
// and parts that change by themselves.

export function localTimes(root) {
  const shown = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  for (const time of root.querySelectorAll("time[datetime]")) time.textContent = shown.format(new Date(time.dateTime));
}

function copy(button) {
  const text = document.getElementById(button.dataset.copy).textContent;
  const copied = navigator.clipboard?.writeText(text) ?? Promise.reject(); // there for https and localhost only
  copied.then(
    () => { button.textContent = "Copied"; },
    () => { button.textContent = "Press Ctrl+C"; getSelection().selectAllChildren(document.getElementById(button.dataset.copy)); },
  );
}

async function refresh(part) {
  const answer = await fetch(part.dataset.live, { headers: { Accept: "text/html" } });
  if (!answer.ok || answer.redirected) return;
  const focused = part.contains(document.activeElement);
  if (focused) return; // nothing is taken away from under somebody's hands
  part.innerHTML = await answer.text(); // our own page, escaped where it was made
  localTimes(part);
}

const PAUSE = 3000; // between two looks at a busy account: its first change is shown at once

function keepLive(parts) {
  const events = new EventSource("/live");
  let wanted = false, running = false;
  const run = async () => {
    wanted = true;
    if (running) return;
    running = true;
    while (wanted) {
      wanted = false;
      await Promise.all([...parts].map(refresh));
      await new Promise((done) => setTimeout(done, PAUSE));
    }
    running = false;
  };
  events.addEventListener("changed", run);
  addEventListener("pagehide", () => events.close());
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) copy(button);
});
document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});
if (matchMedia("(max-width: 56rem)").matches) document.querySelector(".menu")?.removeAttribute("open");
localTimes(document);
const parts = document.querySelectorAll("[data-live]");
if (parts.length) keepLive(parts);
