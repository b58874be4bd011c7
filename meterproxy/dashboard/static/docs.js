// The document of the API in a viewer; what is tried goes out with what only our pages know.

const csrf = document.querySelector("meta[name=csrf]")?.content;
const docs = document.getElementById("docs");

// The viewer puts a link into the button that opens an operation: a control in a control, which no screen reader reaches.
const openedByButtons = ({ React }) => ({
  components: { DeepLink: ({ text }) => React.createElement("span", null, text) },
});

// What the viewer leaves without a name, or without a way in by keyboard; asked again whenever it has drawn something.
function mend() {
  for (const field of docs.querySelectorAll(":is(input, select, textarea):not([aria-label])")) {
    if (field.labels?.length) continue;
    field.ariaLabel = field.closest("[data-param-name]")?.dataset.paramName ?? "Body";
  }
  for (const code of docs.querySelectorAll(".microlight:not([tabindex])")) code.tabIndex = 0;
  for (const table of docs.querySelectorAll(".responses-table:not([aria-label])")) table.ariaLabel = table.id.replaceAll("_", " ");
}

let asked = false;
new MutationObserver(() => {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    mend();
  });
}).observe(docs, { childList: true, subtree: true });

SwaggerUIBundle({
  url: "/openapi.json",
  domNode: docs,
  deepLinking: true,
  docExpansion: "none",
  validatorUrl: null,
  plugins: [openedByButtons],
  requestInterceptor(request) {
    if (csrf && request.url.startsWith(location.origin)) request.headers["X-CSRF-Token"] = csrf;
    return request;
  },
});
