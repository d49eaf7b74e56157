// The access token, if the service needs one. The page asks for it once; it stays in the tab until that is closed.

const KEY = "digits-token";

let form = null;

// Like `fetch`, with the token. After a 401 the page shows a field for the token, and `entered` is called with the next one.
export async function fetchWithToken(path, options, entered) {
  const token = sessionStorage.getItem(KEY);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) askFor(entered);
  return response;
}

function askFor(entered) {
  if (form) return;
  form = document.createElement("form");
  form.id = "token";
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "password", required: true, autocomplete: "off" });
  const button = Object.assign(document.createElement("button"), { type: "submit", textContent: "Use" });
  label.append("Access token ", input);
  form.append(label, " ", button);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem(KEY, input.value.trim());
    form.remove();
    form = null;
    entered();
  });
  document.querySelector("main").before(form);
  input.focus();
}
