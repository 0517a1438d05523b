// The search of an exported site: site_index.js, loaded before, sets the index; nothing is asked of a server.
// Model text goes into the page as text only.
"use strict";
(() => {
  const { units, tokens } = window.n2gIndex;
  const most = 200;
  const query = new URLSearchParams(location.search);
  const q = query.get("q") || "", how = query.get("how") || "caseless";
  document.querySelector("main input[name=q]").value = q;
  document.querySelector("main select[name=how]").value = how;
  if (!q) return;

  // as in the macro bare_text of the database
  const bare = (text) => text.toLowerCase().trim() || text;
  const compare = {
    caseless: (text) => bare(text) === bare(q),
    exact: (text) => text === q,
    prefix: (text) => text.startsWith(q),
  }[how];
  const best = new Map();
  let known = 0;
  for (const [text, shown, pairs] of tokens) {
    if (!compare(text)) continue;
    known += 1;
    for (let i = 0; i < pairs.length; i += 2) {
      const before = best.get(pairs[i]);
      if (!before || before.expects < pairs[i + 1]) best.set(pairs[i], { expects: pairs[i + 1], shown });
    }
  }
  const found = document.getElementById("found");
  const hits = [...best].sort((a, b) => b[1].expects - a[1].expects || a[0] - b[0]).slice(0, most);
  if (!hits.length) {
    const nothing = document.createElement("p");
    nothing.className = "notice";
    nothing.textContent = `No unit's graph fires on \u201c${q}\u201d.`;
    found.append(nothing);
    return;
  }
  const table = document.getElementById("hits").content.cloneNode(true);
  table.querySelector("caption").textContent =
    `${best.size} ${best.size === 1 ? "unit" : "units"} on ${known} ${known === 1 ? "token" : "tokens"}` + (best.size > most ? `, the strongest ${most}` : "");
  for (const [number, { expects, shown }] of hits) {
    const [study, name, address, r, pattern] = units[number];
    const row = document.getElementById("hit").content.cloneNode(true);
    const [inStudy, , inExpects, , inR, inPattern] = row.querySelector("tr").children;
    const link = row.querySelector("a");
    link.href = address;
    link.textContent = name;
    inStudy.textContent = study;
    inExpects.textContent = (expects / 100).toFixed(2);
    row.querySelector(".t").textContent = shown;
    inR.textContent = r === null ? "\u2013" : r.toFixed(2);
    inPattern.textContent = pattern;
    table.querySelector("tbody").append(row);
  }
  found.append(table);
})();
