// The API page: Swagger UI with the document of this service.

globalThis.SwaggerUIBundle?.({
  url: "docs.json",
  domNode: document.getElementById("api"),
  deepLinking: true,
  validatorUrl: null, // by default, the document is sent to a validator on another host
});
