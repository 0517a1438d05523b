// What plain links and forms cannot do: keys, and lighting up what belongs together. Every page works without it.
"use strict";
const follow = (selector) => { const link = document.querySelector(selector); if (link) link.click(); return Boolean(link); };
const size = (step) => {
  const places = [...document.querySelectorAll(".sizes a, .sizes b")];
  const next = places[places.findIndex((each) => each.tagName === "B") + step];
  if (next && next.tagName === "A") next.click();
};
const keys = {
  "/": () => { const field = document.querySelector("input[type=search]"); if (field) { field.focus(); field.select(); } },
  "?": () => document.getElementById("keys").showModal(),
  ArrowLeft: () => follow("a[rel=prev]"),
  ArrowRight: () => follow("a[rel=next]"),
  u: () => follow("a[rel=up]") || follow("a.home"),
  "[": () => size(-1),
  "]": () => size(1),
};
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select, dialog, .picture");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});
