// Refreshes the elements marked as live in place. The page works without it.
"use strict";

const LONGEST_ANSWER = 15000;

const live = () => [...document.querySelectorAll("[data-live]")];

// Milliseconds to the next refresh; the pages give seconds.
const pause = () => Math.min(...live().map((shown) => shown.dataset.live)) * 1000;

// Changes only what differs, so that the focus, a click in progress and opened details stay.
function become(shown, fresh) {
  if (shown.nodeType !== Node.ELEMENT_NODE) {
    if (shown.data !== fresh.data) shown.data = fresh.data;
    return;
  }
  for (const { name, value } of fresh.attributes) {
    if (name !== "open" && shown.getAttribute(name) !== value) shown.setAttribute(name, value);
  }
  for (const { name } of [...shown.attributes]) {
    if (name !== "open" && !fresh.hasAttribute(name)) shown.removeAttribute(name);
  }
  const [before, after] = [[...shown.childNodes], [...fresh.childNodes]];
  const isSameShape =
    before.length === after.length && before.every((node, place) => node.nodeName === after[place].nodeName);
  if (isSameShape) before.forEach((node, place) => become(node, after[place]));
  else shown.replaceChildren(...after);
}

async function refresh() {
  // Marks the request as automatic: it does not extend the session.
  const headers = { "x-console-refresh": "1" };
  const answer = await fetch(location.href, { headers, signal: AbortSignal.timeout(LONGEST_ANSWER) });
  if (!answer.ok) throw new Error(`the console answered ${answer.status}`);
  const now = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const shown of live()) {
    const fresh = now.getElementById(shown.id);
    if (fresh) become(shown, fresh);
  }
}

async function keepUp() {
  const stale = document.getElementById("stale");
  try {
    if (!document.hidden) await refresh();
    stale.textContent = "";
  } catch (error) {
    stale.textContent = `This page is out of date: ${error.message}.`;
  }
  // A page without live elements is not refreshed.
  if (live().length > 0) setTimeout(keepUp, pause());
}

if (live().length > 0) setTimeout(keepUp, pause());
