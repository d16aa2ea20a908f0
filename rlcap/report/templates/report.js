"use strict";
// Filter, search and sort of the held-out clips. Without it the page shows them all.
const form = document.getElementById("clip-controls");
if (form) {
  const list = document.getElementById("clip-list");
  const items = [...list.children];
  const count = document.getElementById("clip-count");
  const verdictRank = { baseline: 0, tie: 1, tuned: 2 };
  const orders = {
    position: (a, b) => a.dataset.position - b.dataset.position,
    verdict: (a, b) => (verdictRank[a.dataset.verdict] ?? 3) - (verdictRank[b.dataset.verdict] ?? 3) || orders.position(a, b),
    clip: (a, b) => a.dataset.clip.localeCompare(b.dataset.clip, "en", { numeric: true }),
    truth: (a, b) => a.dataset.truth.localeCompare(b.dataset.truth, "en") || orders.position(a, b),
  };
  const update = () => {
    const verdict = form.elements.verdict.value;
    const text = form.elements.text.value.trim().toLowerCase();
    let shown = 0;
    for (const item of items) {
      item.hidden = Boolean(verdict && item.dataset.verdict !== verdict) || !item.textContent.toLowerCase().includes(text);
      shown += item.hidden ? 0 : 1;
    }
    count.textContent = shown === items.length ? "" : `${shown} of ${items.length} clips`;
    document.getElementById("no-clip").hidden = shown > 0;
  };
  form.elements.order.addEventListener("change", () => list.append(...items.sort(orders[form.elements.order.value])));
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  update();
}
