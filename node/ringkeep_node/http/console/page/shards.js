// The same ring as a table, and one shard in full: for screen readers, and for whoever wants numbers.

import { STATES, byId, el, say } from "./dom.js";

const ROWS_MAX = 512;
const PARTS = ["Shard", "State", "Primary", "In sync", "Learners", "Need", "Epoch", "Revision"];

/** Numbers of later generations begin at a floor of 2^40 each; people count from there. */
export const number = (value) => (value >= 2 ** 40 ? `${Math.floor(value / 2 ** 40) + 1}·${value % 2 ** 40}` : String(value));

export const stateTag = (state) => el("span", { class: `state ${state}` }, el("i", { "aria-hidden": "true" }, STATES[state].sign), ` ${STATES[state].word}`);

export class ShardTable {
  #rows = new Map();
  #note;

  constructor(box, model, picked) {
    this.model = model;
    this.box = box;
    this.only = el("input", { type: "checkbox", id: "only-problems" });
    this.only.addEventListener("change", () => this.draw());
    this.body = el("tbody");
    this.#note = el("p", { class: "quiet" });
    const head = el("tr", {}, ...PARTS.map((part, at) => el("th", { scope: "col", class: at > 4 ? "num" : null }, part)));
    box.append(
      el("label", { class: "check" }, this.only, " Only what is not ok"),
      el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of shards" },
        el("table", { class: "shards" }, el("caption", { class: "unseen" }, "Every shard: who holds it and how it is"), el("thead", {}, head), this.body)),
      this.#note,
    );
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row) picked(Number(row.dataset.shard));
    });
  }

  draw() {
    if (this.box.hidden) return;
    const wanted = this.model.shards.filter((shard) => !this.only.checked || shard.state !== "ok");
    const shown = wanted.slice(0, ROWS_MAX);
    const rows = shown.map((shard) => this.#row(shard));
    // Rows that stay are not touched: focus and reading position stay with them.
    if (rows.length !== this.body.children.length || rows.some((row, at) => this.body.children[at] !== row)) this.body.replaceChildren(...rows);
    say(this.#note, wanted.length > shown.length ? `The first ${shown.length} of ${wanted.length}; all of them: /v1/cluster/map` : wanted.length ? "" : "Every shard is ok.");
  }

  #row(shard) {
    const key = JSON.stringify(shard);
    const known = this.#rows.get(shard.number);
    if (known?.key === key) return known.row;
    const row = known?.row ?? el("tr", { "data-shard": shard.number });
    row.replaceChildren(
      el("th", { scope: "row" }, el("button", { type: "button", class: "link" }, String(shard.number))),
      el("td", {}, stateTag(shard.state)),
      ...[shard.primary, shard.inSync.join(" "), shard.learners.join(" ")].map((text) => el("td", {}, text || "–")),
      ...[shard.need, number(shard.epoch), number(shard.revision)].map((text) => el("td", { class: "num" }, String(text))),
    );
    this.#rows.set(shard.number, { key, row });
    return row;
  }
}

/** Show one shard in full. */
export function showShard(model, at, nameTag) {
  const shard = model.shards[at];
  say(byId("shard-title"), shard ? `Shard ${shard.number}` : "Shard");
  const pair = (name, ...values) => [el("dt", {}, name), el("dd", {}, ...values)];
  const tags = (names) => (names.length ? names.flatMap((name, index) => (index ? [" ", nameTag(name)] : [nameTag(name)])) : ["none"]);
  if (!shard) {
    byId("shard").replaceChildren(...pair("State", "Point at a segment of the ring, or walk it with the arrow keys."));
    return;
  }
  const full = model.cluster.copies ?? shard.inSync.length;
  const missing = Math.max(0, full - shard.inSync.length);
  const others = shard.inSync.filter((name) => name !== shard.primary);
  const digits = 16 / 4;
  const share = 2n ** 64n / BigInt(model.shards.length);
  const hex = (value) => value.toString(16).padStart(16, "0").slice(0, digits);
  byId("shard").replaceChildren(
    ...pair("State", stateTag(shard.state), missing && shard.state !== "unavailable" ? ` ${missing} of ${full} copies missing` : ""),
    ...pair("Primary", nameTag(shard.primary), model.members.get(shard.primary)?.state === "dead" ? " dead" : ""),
    ...pair("In sync", ...tags(others)),
    ...pair("Learners", ...tags(shard.learners)),
    ...pair("Need", `at least ${shard.need} of ${full} copies on disk for every write`),
    ...pair("Epoch", `${number(shard.epoch)}, revision ${number(shard.revision)}`),
    ...pair("Hashes", el("code", {}, `${hex(BigInt(shard.number) * share)}… to ${hex(BigInt(shard.number + 1) * share - 1n)}…`)),
  );
}
