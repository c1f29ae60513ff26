// Three small things: a live page shows what the service sends, branches of a tree fold, forms ask the API.
"use strict";

let touched = false; // somebody folds and unfolds: what they look at stays
let stream = null;
let waiting = null; // what came while somebody was busy here

function busy() {
  return touched || document.querySelector("details[open]") || String(getSelection());
}

function show(html) {
  if (busy()) {
    waiting = html;
    return;
  }
  waiting = null;
  const main = document.getElementById("main");
  const focus = main.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  const fresh = new DOMParser().parseFromString(html, "text/html");
  main.replaceChildren(...[...fresh.body.childNodes].map((node) => document.importNode(node, true)));
  if (focus) main.querySelector(`a[href="${CSS.escape(focus)}"]`)?.focus();
}

// Only while it is in view: a browser keeps few connections to one server.
function listen() {
  if (!document.querySelector(".live") || document.hidden === (stream === null)) return;
  if (document.hidden) {
    stream.close();
    stream = null;
    return;
  }
  const asked = new URLSearchParams(location.search);
  asked.set("page", location.pathname);
  stream = new EventSource(`/live?${asked}`);
  stream.addEventListener("page", (event) => show(event.data));
  stream.addEventListener("open", () => document.body.classList.remove("stale"));
  stream.addEventListener("error", () => document.body.classList.add("stale"));
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
document.addEventListener("visibilitychange", listen);
setInterval(() => waiting !== null && show(waiting), 1000);
listen();
