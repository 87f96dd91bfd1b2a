"use strict";
// The page of `attn retrieve serve`: everything it shows is text of the answers, never markup.
const at = (id) => document.getElementById(id);
let asked = 0; // answers that were overtaken are dropped

async function answer(address, options) {
  let response, values;
  try {
    response = await fetch(address, options);
    values = await response.json();
  } catch {
    throw new Error("The server does not answer. Start it again: attn retrieve serve INDEX");
  }
  if (!response.ok) throw new Error(values.error || `The server answers with status ${response.status}.`);
  return values;
}

function say(text) {
  at("status").textContent = text;
}

function element(name, text) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  return made;
}

function shown(hit) {
  const item = element("li"), figure = element("figure"), caption = element("figcaption");
  const name = hit.path || hit.id;
  if (hit.thumbnail) {
    const image = element("img");
    image.src = hit.thumbnail;
    image.alt = hit.id;
    image.loading = "lazy";
    figure.append(image);
  } else if (typeof hit.meta.text === "string" && hit.meta.text) {
    const text = element("blockquote", hit.meta.text);
    text.tabIndex = 0; // a long one scrolls, by keys, too
    figure.append(text);
  }
  caption.append(element("strong", `${hit.rank}. ${name.split(/[/\\]/).pop()}`), ` ${hit.score.toFixed(4)}`);
  if (hit.path) caption.append(element("br"), hit.path);
  const more = element("button", "More like this");
  more.type = "button";
  more.setAttribute("aria-label", `More like ${name}`);
  more.addEventListener("click", () => go({ id: hit.id }));
  figure.append(caption, more);
  item.append(figure);
  return item;
}

async function show(address, options, what) {
  const mine = ++asked;
  at("error").hidden = true;
  at("hits").classList.add("waiting");
  say("Searching …");
  try {
    const values = await answer(address, options);
    if (mine !== asked) return;
    const hits = values.results[0].hits;
    at("hits").replaceChildren(...hits.map(shown));
    say([hits.length ? `${hits.length} hits for ${what}` : `Nothing found for ${what}`, ...values.warnings].join(". "));
  } catch (error) {
    if (mine !== asked) return;
    at("hits").replaceChildren();
    at("error").textContent = error.message;
    at("error").hidden = false;
    say("");
  } finally {
    if (mine === asked) at("hits").classList.remove("waiting");
  }
}

function limits() {
  const more = {};
  if (at("k").value) more.k = at("k").value;
  if (at("where").value.trim()) more.where = at("where").value;
  return more;
}

// What is asked stands in the address of the page, so that going back, reloading and bookmarks work.
function go(query) {
  history.pushState(null, "", `?${new URLSearchParams({ ...query, ...limits() })}`);
  run();
}

function run() {
  const query = new URLSearchParams(location.search);
  at("text").value = query.get("text") || "";
  at("k").value = query.get("k") || at("k").value;
  at("where").value = query.get("where") || "";
  if (query.has("id")) return show(`similar?${query}`, {}, `entries like ${query.get("id")}`);
  if (query.get("text")) return show(`search?${query}`, {}, `“${query.get("text")}”`);
  asked++;
  at("hits").replaceChildren();
  at("error").hidden = true;
  say("");
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (at("text").value.trim()) go({ text: at("text").value });
});
at("photo").addEventListener("change", () => {
  const photo = at("photo").files[0];
  if (!photo) return;
  const body = { method: "POST", body: photo, headers: { "Content-Type": "application/octet-stream" } };
  show(`similar?${new URLSearchParams(limits())}`, body, photo.name);
  at("photo").value = ""; // so that the same photo may be chosen again
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|TEXTAREA)$/.test(document.activeElement.tagName)) {
    event.preventDefault();
    at("text").focus();
  }
});
window.addEventListener("popstate", run);
answer("info", {}).then((about) => {
  at("index").textContent = about.index;
  document.title = `${about.index}: attn retrieve`;
  at("facts").textContent = [`${about.entries} entries, ${about.model}`, ...about.warnings].join(". ");
  at("k").max = about.limits.k;
  at("by-photo").hidden = !about.reads.includes("image");
}).catch((error) => {
  at("error").textContent = error.message;
  at("error").hidden = false;
});
run();
