// The document of the API in a viewer; what is tried goes out with what only our pages know.

const csrf = document.querySelector("meta[name=csrf]")?.content;

SwaggerUIBundle({
  url: "/openapi.json",
  domNode: document.getElementById("docs"),
  deepLinking: true,
  docExpansion: "none",
  validatorUrl: null,
  requestInterceptor(request) {
    if (csrf && request.url.startsWith(location.origin)) request.headers["X-CSRF-Token"] = csrf;
    return request;
  },
});
