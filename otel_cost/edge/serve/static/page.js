// Two small things: a live page renews itself while it is in view, and branches of a tree fold.
"use strict";

const RENEW_MS = 5000;

async function renew() {
  const busy = document.hidden || document.querySelector("details[open], tr[hidden]") || String(getSelection());
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
setInterval(renew, RENEW_MS);
