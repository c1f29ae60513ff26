// Three small things: a live page renews itself while it is in view, branches of a tree fold, forms ask the API.
"use strict";

const RENEW_MS = 5000;
let touched = false; // somebody folds and unfolds: what they look at stays

async function renew() {
  const busy = document.hidden || touched || document.querySelector("details[open]") || String(getSelection());
  if (busy || !document.querySelector(".live")) return;
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" } });
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.getElementById("main").replaceWith(document.importNode(fresh.getElementById("main"), true));
    document.body.classList.remove("stale");
  } catch {
    document.body.classList.add("stale");
  }
}

function fold(button) {
  const row = button.closest("tr");
  const depth = Number(row.dataset.depth);
  const folded = button.textContent === "▾";
  button.textContent = folded ? "▸" : "▾";
  button.setAttribute("aria-expanded", String(!folded));
  touched = true;
  let shut = null; // depth of a folded branch inside the one that opens
  for (let next = row.nextElementSibling; next && Number(next.dataset.depth) > depth; next = next.nextElementSibling) {
    const at = Number(next.dataset.depth);
    if (shut !== null && at <= shut) shut = null;
    next.hidden = folded || shut !== null;
    const inner = next.querySelector(".fold");
    if (!folded && shut === null && inner && inner.textContent === "▸") shut = at;
  }
}

document.addEventListener("click", (event) => {
  if (event.target instanceof Element && event.target.matches("button.fold")) fold(event.target);
});
function asked(form) {
  const body = {};
  for (const [name, value] of new FormData(form)) if (value !== "") body[name] = value;
  for (const { name, value } of form.attributes) {
    if (name.startsWith("data-field-")) body[name.slice(11)] = value;
    if (name.startsWith("data-matcher-")) (body.matchers ??= {})[name.slice(13)] = value;
  }
  return body;
}

async function ask(form) {
  const said = form.querySelector("output");
  const path = form.dataset.post ?? form.dataset.delete;
  const method = form.dataset.post ? "POST" : "DELETE";
  const headers = { "content-type": "application/json" };
  try {
    const answer = await fetch(path, { method, headers, body: form.dataset.post ? JSON.stringify(asked(form)) : undefined });
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error ?? `HTTP ${answer.status}`);
    location.reload();
  } catch (error) {
    said.textContent = error.message;
  }
}

document.addEventListener("submit", (event) => {
  if (!(event.target instanceof HTMLFormElement)) return;
  event.preventDefault();
  ask(event.target);
});
setInterval(renew, RENEW_MS);
