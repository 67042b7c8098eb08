// Keeps what is marked as live as it is now, without moving the reader. The page works without it.
"use strict";

const PAUSE = 2000;

async function refresh() {
  const answer = await fetch(location.href);
  if (!answer.ok) throw new Error(`the console answers ${answer.status}`);
  const now = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const shown of document.querySelectorAll("[data-live]")) {
    const fresh = now.getElementById(shown.id);
    if (fresh && fresh.innerHTML !== shown.innerHTML) shown.replaceChildren(...fresh.childNodes);
  }
}

async function keepUp() {
  const stale = document.getElementById("stale");
  try {
    if (!document.hidden) await refresh();
    stale.textContent = "";
  } catch (error) {
    stale.textContent = `What you see is old: ${error.message}.`;
  }
  setTimeout(keepUp, PAUSE);
}

if (document.querySelector("[data-live]")) setTimeout(keepUp, PAUSE);
