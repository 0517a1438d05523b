// What plain links and forms cannot do: keys, folding, zoom, and lighting up what belongs together.
// Every page works without it.
"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const follow = (selector) => { const link = document.querySelector(selector); if (link) link.click(); return Boolean(link); };

// ---- keys
const size = (step) => {
  const places = all(".sizes a, .sizes b");
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

// ---- folding: a heading folds its section
for (const heading of all("section > h2")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "fold";
  button.append(...heading.childNodes);
  heading.append(button);
  button.setAttribute("aria-expanded", "true");
  button.addEventListener("click", () => {
    button.setAttribute("aria-expanded", String(!heading.parentElement.classList.toggle("folded")));
  });
}

// ---- a token and the rule that spoke there light up together
const light = (node) => {
  for (const each of all(".lit")) each.classList.remove("lit");
  if (node === undefined || node === "-1") return;
  for (const each of all(`[data-n="${CSS.escape(node)}"]`)) each.classList.add("lit");
};
const main = document.getElementById("main");
main.addEventListener("mouseover", (event) => {
  const each = event.target.closest("[data-n]");
  light(each ? each.dataset.n : undefined);
});
main.addEventListener("click", (event) => {
  const each = event.target.closest("[data-n]");
  const rule = each && document.querySelector(`tr[data-n="${CSS.escape(each.dataset.n)}"]`);
  if (!rule || event.target.closest("a")) return;
  light(each.dataset.n);
  rule.scrollIntoView({ block: "nearest" });
});

// ---- a text of the reader's own is predicted while it is typed
for (const form of all("form[data-live]")) {
  let waiting = null, asked = 0;
  form.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(async () => {
      const number = ++asked, address = "?" + new URLSearchParams(new FormData(form));
      const answer = await fetch(address);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const found = page.getElementById("live") || page.getElementById("main");
      if (number !== asked || !found) return;
      document.getElementById("live").replaceChildren(...found.childNodes);
      history.replaceState(null, "", address);
    }, 250);
  });
}

// ---- a part of another page that takes longer is shown here once the reader comes near; its link stays where that fails
const near = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    near.unobserve(target);
    load(target);
  }
}, { rootMargin: "300px" });
const load = async (place) => {
  const link = place.querySelector("a");
  place.setAttribute("aria-busy", "true");
  const answer = await fetch(link.href).catch(() => null);
  if (answer && answer.ok) {
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    place.replaceChildren(...page.querySelector(`[data-part="${place.dataset.load}"]`).childNodes);
  }
  place.removeAttribute("aria-busy");
};
for (const place of all("[data-load]")) near.observe(place);

// ---- pictures: zoom by buttons, pan by scrolling or dragging, and a PNG made here
for (const picture of all(".picture")) {
  const svg = picture.querySelector("svg");
  if (!svg) continue;
  const width = svg.width.baseVal.value, height = svg.height.baseVal.value;
  let zoom = null;  // the style sheet fits it to the width until then, unless it could not be read
  const set = (value) => {
    zoom = Math.min(4, Math.max(0.25, value));
    picture.classList.add("zoomed");
    svg.setAttribute("width", width * zoom);
    svg.setAttribute("height", height * zoom);
  };
  const buttons = document.createElement("span");
  buttons.className = "zoom";
  for (const [label, name, change] of [["−", "smaller", 0.8], ["+", "larger", 1.25], ["fit", "fit the width", 0]]) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.setAttribute("aria-label", name);
    button.addEventListener("click", () => set(change ? (zoom || svg.clientWidth / width) * change : picture.clientWidth / width));
    buttons.append(button);
  }
  const take = picture.nextElementSibling;
  if (take) take.append(buttons);
  let from = null;
  picture.addEventListener("pointerdown", (event) => {
    if (!event.target.closest("a")) from = { x: event.clientX + picture.scrollLeft, y: event.clientY + picture.scrollTop };
  });
  picture.addEventListener("pointermove", (event) => {
    if (!from) return;
    picture.scrollLeft = from.x - event.clientX;
    picture.scrollTop = from.y - event.clientY;
  });
  for (const name of ["pointerup", "pointerleave"]) picture.addEventListener(name, () => { from = null; });
  const png = take && take.querySelector(".png");
  if (!png) continue;
  png.hidden = false;
  png.addEventListener("click", () => {
    const image = new Image();
    image.onload = () => {
      const canvas = document.createElement("canvas");
      canvas.width = 2 * width;
      canvas.height = 2 * height;
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      const link = document.createElement("a");
      link.href = canvas.toDataURL("image/png");
      link.download = "graph.png";
      link.click();
    };
    image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(new XMLSerializer().serializeToString(svg));
  });
}
