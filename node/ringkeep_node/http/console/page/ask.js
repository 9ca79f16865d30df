// What people ask: where a user lives, and what a change would mean. Only ever GET: this page can change nothing.

import { byId, bytes, count, el, inOrder, listed, say, span } from "./dom.js";

const LIMIT_MS = 15000;

/** The only request of the page beside the stream of news. Returns the JSON; throws an Error with the node's own sentence. */
export async function get(path) {
  const response = await fetch(path, { method: "GET", headers: { Accept: "application/json" }, credentials: "omit", signal: AbortSignal.timeout(LIMIT_MS) })
    .catch(() => { throw new Error("This node does not answer."); });
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.detail ?? `The node answered ${response.status}.`);
  return body;
}

async function answered(box, form, work) {
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    box.replaceChildren(...(await work()));
    box.classList.remove("refused");
  } catch (error) {
    box.replaceChildren(error.message);
    box.classList.add("refused");
  } finally {
    button.disabled = false;
  }
}

/** found(shard, part of the turn) when a user was found; found(null, null) when the question is gone. */
export function lookUp(model, nameTag, found) {
  const form = byId("lookup");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const user = byId("user").value;
    if (!user) {
      byId("found").replaceChildren();
      found(null, null);
      return;
    }
    answered(byId("found"), form, async () => {
      const route = await get(`/v1/users/${encodeURIComponent(user)}/route`);
      found(route.shard, Number(BigInt(`0x${route.hash}`) >> 32n) / 2 ** 32);
      const others = route.in_sync.filter((place) => place.name !== route.primary.name);
      return [
        el("b", {}, route.user), " has the hash ", el("code", {}, route.hash), `, so it lives in shard ${route.shard}: `, nameTag(route.primary.name), " leads it",
        ...(others.length ? [" and ", ...others.flatMap((place, at) => [at ? ", " : "", nameTag(place.name)]), others.length === 1 ? " holds another copy." : " hold further copies."] : ["."]),
      ];
    });
  });
}

// --- what if --------------------------------------------------------------------------------------------------------

const NUMBERED = /^(.*?)(\d+)$/;

/** Who would take part if so many did: as `ringkeep scale` chooses, the lowest numbers stay and free ones come. */
export function chosen(wanted, number) {
  const names = inOrder(wanted);
  const staying = names.slice(0, number);
  const [, prefix, first] = NUMBERED.exec(names[0] ?? "n1") ?? [null, "n", "1"];
  for (let next = Math.min(1, Number(first)); staying.length < number; next += 1) {
    if (!names.includes(`${prefix}${next}`)) staying.push(`${prefix}${next}`);
  }
  return staying;
}

function shown(plan, nameTag) {
  const most = Math.max(1, ...plan.nodes.map((node) => Math.max(node.copies, node.copies_then)));
  const bar = (value, kind) => {
    const fill = el("span", { class: `bar-fill ${kind}` });
    fill.style.width = `${(100 * value) / most}%`;
    return el("span", { class: "bar-track", "aria-hidden": "true" }, fill);
  };
  const degraded = Object.entries(plan.degraded).map(([why, shards]) => el("p", { class: "warn" }, `${count(shards, "shard")}: ${why.replaceAll("_", " ")}`));
  const moves = plan.copies || plan.primaries;
  return [
    el("p", {}, el("b", {}, moves ? `${count(plan.copies, "copy", "copies")} and ${count(plan.primaries, "primary", "primaries")} move` : "Nothing moves"),
      moves ? `, ${bytes(plan.bytes)} in ${plan.seconds < 1 ? "less than a second" : `about ${span(plan.seconds)}`}; writes to a shard pause for at most ${plan.pause_s.toFixed(2)} s.` : ". The data lies already where it would.",
      plan.copies ? ` No plan could move fewer than ${plan.lower_bound}.` : ""),
    ...degraded,
    el("table", { class: "then" }, el("caption", { class: "unseen" }, "Copies of each node now and then"),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Node"), el("th", { scope: "col", class: "num" }, "Now"), el("th", { scope: "col" }), el("th", { scope: "col", class: "num" }, "Then"), el("th", { scope: "col", class: "num" }, "Led then"))),
      el("tbody", {}, ...plan.nodes.map((node) => el("tr", {}, el("th", { scope: "row" }, nameTag(node.name)), el("td", { class: "num" }, String(node.copies)),
        el("td", { class: "bars" }, bar(node.copies, "before"), bar(node.copies_then, "")), el("td", { class: "num" }, String(node.copies_then)), el("td", { class: "num" }, String(node.primaries_then)))))),
  ];
}

export class WhatIf {
  constructor(model, nameTag) {
    this.model = model;
    this.plan = (box, form, query) => answered(box, form, async () => shown(await get(`/v1/cluster/plan?steps=false&${query}`), nameTag));
    byId("what-scale").addEventListener("submit", (event) => {
      event.preventDefault();
      const wanted = Math.max(1, Math.min(999, Number(byId("count").value) || 1));
      this.plan(byId("plan"), event.target, `members=${chosen(model.cluster.wanted ?? [], wanted).map(encodeURIComponent).join(",")}`);
    });
    byId("what-drain").addEventListener("submit", (event) => {
      event.preventDefault();
      this.plan(byId("plan"), event.target, `drain=${encodeURIComponent(byId("drain").value)}`);
    });
  }

  /** Offer the members there are. */
  draw() {
    const names = inOrder(this.model.members.keys());
    const select = byId("drain");
    if (listed([...select.options].map((option) => option.value), 999) !== listed(names, 999)) {
      const before = select.value;
      select.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
      if (names.includes(before)) select.value = before;
    }
    if (!byId("count").value && this.model.cluster.wanted) byId("count").value = String(this.model.cluster.wanted.length + 1);
    say(byId("foot-shards"), `${count(this.model.shards.length, "shard")}, ${count(this.model.cluster.copies ?? 0, "copy", "copies")} of each`);
  }
}
