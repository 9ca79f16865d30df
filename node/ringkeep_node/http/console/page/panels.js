// Everything around the ring: what is wrong and what is done, key figures, members, moves, requests, history.

import { HEALTH, STATES, byId, bytes, clock, count, el, inOrder, link, listed, ms, say, short, span, svg } from "./dom.js";
import { COLOURS } from "./model.js";
import { fillOf } from "./ring.js";
import { number } from "./shards.js";

const SIGNS = { ok: "✓", working: "➜", degraded: "▲", broken: "✕" };
const WHY = {
  refused: "connection refused", reset: "connection reset", unreachable: "unreachable", connected: "connected", silent: "did not answer probes",
  told: "said by others", expired: "suspicion ran out", joined: "joined", restarted: "restarted", refuted: "refuted it", registered: "registered", leaving: "said it leaves",
};
/** Said of a member before anything was wrong with it. */
const CLEARING = new Set(["joined", "registered", "connected", "restarted", "refuted"]);
const SHARDS_NAMED = 16;

/** A coloured square, the same as in the ring. */
export function swatch(model, name) {
  const colour = model.colour(name);
  const box = svg("svg", { class: "swatch", viewBox: "0 0 14 14", "aria-hidden": "true" }, svg("rect", { width: 14, height: 14, rx: 3, class: `c${colour % (COLOURS / 2)}` }));
  const fill = fillOf(colour);
  if (fill) box.firstChild.style.fill = fill;
  return box;
}

export function nameTag(model, name) {
  return el("span", { class: "node" }, model.members.has(name) ? swatch(model, name) : null, name || "none");
}

// --- headline and key figures ---------------------------------------------------------------------------------------

let spoken = "";

/** Say what is done by itself and what a person should do; what stays the same is not touched, so that it can be copied. */
function advise(box, { doing = "", advice = "", command = "" }) {
  if (box.childElementCount !== 2 || box.lastChild.tagName !== "CODE") box.replaceChildren(el("span"), " ", el("code"));
  say(box.firstChild, [doing, advice].filter(Boolean).join(" "));
  say(box.lastChild, command);
  box.lastChild.hidden = !command;
}

function showMore(findings) {
  const list = byId("findings");
  while (list.children.length > findings.length) list.lastChild.remove();
  findings.forEach((one, at) => {
    const item = list.children[at] ?? list.appendChild(el("li", {}, el("b"), " ", el("span"), " ", el("span")));
    const [what, means, rest] = item.children;
    say(what, one.what);
    say(means, one.means);
    advise(rest, one);
  });
}

export function showHeadline(model, line) {
  const summary = model.summary ?? { level: "waiting", text: "Asking this node how the cluster is.", doing: "" };
  const box = byId("headline");
  const { node = "this node" } = model.cluster;
  let { level, text, doing } = summary;
  if (line.state !== "live" && line.heard) {
    const others = inOrder([...model.members].filter(([name, row]) => row.state === "alive" && name !== node).map(([name]) => name));
    level = "silent";
    text = line.state === "stopping" ? `${node} is stopping.` : `${node} does not answer.`;
    doing = others.length ? `What you see is from ${clock(line.heard / 1000 + model.skewS)}. Others that were alive then: ` : `What you see is from ${clock(line.heard / 1000 + model.skewS)}.`;
    say(byId("headline-text"), text);
    byId("headline-doing").replaceChildren(doing, ...others.slice(0, 5).flatMap((name, at) => [at ? ", " : "", link(model.members.get(name).url, name)]));
  } else {
    if (line.state === "broken" && !line.heard) {
      level = "silent";
      text = "This node gives no news.";
      doing = "It stops, or as many consoles look at it as may. This page tries again every 2 s; any other node shows the same.";
    }
    say(byId("headline-text"), text);
    advise(byId("headline-doing"), line.state === "live" || line.heard ? summary : { doing });
  }
  showMore(level === "silent" ? [] : summary.more ?? []);
  // Ages change every second; whoever listens is told only of what is new.
  const key = `${level} ${summary.key ?? ""}`;
  if (key !== spoken) {
    spoken = key;
    say(byId("spoken"), text);
  }
  box.dataset.level = level;
  say(byId("sign"), SIGNS[level] ?? "…");
  const counts = model.cluster.counts ?? {};
  const wrong = (counts.unavailable ?? 0) + (counts.under_replicated ?? 0);
  document.title = `${level === "ok" ? "" : `${SIGNS[level] ?? "…"} `}${wrong ? `${wrong} not ok · ` : ""}Ringkeep ${node}`;
}

/** The worst first; moving is no harm: such a shard is served as ever. */
function shardFact(counts) {
  const { total, unavailable, under_replicated: few, moving } = counts;
  if (unavailable) return [`${unavailable} of ${total} unavailable`, "bad"];
  if (few) return [`${few} of ${total} short of copies`, "warn"];
  return moving ? [`${moving} of ${total} moving`, ""] : [total ? `all ${total} ok` : "none yet", ""];
}

export function showFacts(model) {
  const { cluster } = model;
  const counts = cluster.counts ?? { total: 0 };
  const all = model.rates.get("") ?? {};
  const states = new Map();
  for (const row of model.members.values()) states.set(row.state, (states.get(row.state) ?? 0) + 1);
  const health = ["alive", "suspect", "dead", "joining"].filter((state) => states.get(state)).map((state) => `${states.get(state)} ${state}`);
  const perS = all.reads_per_s === undefined ? null : all.reads_per_s + all.writes_per_s;
  const facts = [
    ["Shards", ...shardFact(counts)],
    ["Members", listed(health) || "–", states.get("dead") ? "bad" : states.get("suspect") ? "warn" : ""],
    ["Leader", cluster.leader ? `${cluster.leader}, term ${number(cluster.term)}` : "none known", cluster.leader ? "" : "bad"],
    ["Map", cluster.index === undefined ? "–" : `version ${cluster.index}${cluster.generation > 1 ? `, generation ${cluster.generation}` : ""}`, ""],
    ["Requests", perS === null ? "–" : `${short(perS)}/s`, ""],
    ["p99 read, write", `${ms(all.reads_ms?.[1])}, ${ms(all.writes_ms?.[1])}`, ""],
    ["Failed", all.failed_per_s === undefined ? "–" : `${short(all.failed_per_s)}/s`, all.failed_per_s > 0 ? "bad" : ""],
  ];
  const box = byId("facts");
  facts.forEach(([name, value, level], at) => {
    const fact = box.children[at] ?? box.appendChild(el("div", {}, el("dt"), el("dd")));
    say(fact.firstChild, name);
    say(fact.lastChild, value);
    fact.className = level;
  });
  say(byId("cluster-id"), cluster.id ? `cluster ${cluster.id}` : "no cluster yet");
}

export function showLegend(model) {
  const counts = model.cluster.counts ?? {};
  const box = byId("legend");
  Object.entries(STATES).forEach(([state, { word, sign }], at) => {
    const item = box.children[at] ?? box.appendChild(el("li", { class: `state ${state}`, "data-state": state }, el("i", { "aria-hidden": "true" }, sign), el("b"), ` ${word}`));
    say(item.querySelector("b"), String(counts[state] ?? 0));
    item.classList.toggle("none", !counts[state]);
  });
}

// --- members --------------------------------------------------------------------------------------------------------

export class Members {
  #rows = new Map();
  lit = null;

  /** lit(name or null): show only this node's shards on the ring. */
  constructor(model, lit) {
    this.model = model;
    this.body = byId("members").tBodies[0];
    this.tell = lit;
  }

  #row(name) {
    const button = el("button", { type: "button", class: "link name", "aria-pressed": "false", title: "Show only its shards on the ring" }, swatch(this.model, name), name);
    const bar = el("span", { class: "bar-fill" });
    // On a phone the rows are laid out as grids, which takes their meaning as rows away: so it is said.
    const cells = {
      name: el("th", { scope: "row", role: "rowheader" }, button, el("span", { class: "tags" })),
      state: el("td", { role: "cell", class: "health" }, el("span", { class: "state" }), el("span", { class: "evidence" })),
      copies: el("td", { role: "cell", class: "bars" }, el("span", { class: "bar-track", "aria-hidden": "true" }, bar), el("span", { class: "bar-text" })),
      perS: el("td", { role: "cell", class: "num", "data-unit": "req/s" }), p99: el("td", { role: "cell", class: "num", "data-unit": "p99" }), free: el("td", { role: "cell", class: "num" }),
    };
    const row = el("tr", { role: "row", "data-node": name }, ...Object.values(cells));
    button.addEventListener("click", () => this.light(this.lit === name ? null : name));
    for (const [event, to] of [["pointerenter", name], ["pointerleave", null]]) row.addEventListener(event, () => this.tell(to ?? this.lit));
    return { row, button, bar, ...cells };
  }

  light(name) {
    this.lit = name;
    for (const [other, parts] of this.#rows) parts.button.setAttribute("aria-pressed", String(other === name));
    this.tell(name);
  }

  draw() {
    const { model } = this;
    const names = inOrder(model.members.keys());
    const most = Math.max(1, ...[...model.members.values()].map((row) => row.copies));
    for (const [name, parts] of this.#rows) {
      if (!model.members.has(name)) {
        parts.row.remove();
        this.#rows.delete(name);
      }
    }
    names.forEach((name, at) => {
      let parts = this.#rows.get(name);
      if (!parts) this.#rows.set(name, (parts = this.#row(name)));
      if (this.body.children[at] !== parts.row) this.body.insertBefore(parts.row, this.body.children[at] ?? null);
      this.#fill(parts, name, model.members.get(name), most);
    });
    const zones = new Set([...model.members.values()].map((row) => row.zone).filter(Boolean));
    say(byId("members-note"), zones.size > 1 ? `${zones.size} zones` : "");
  }

  #fill(parts, name, row, most) {
    const { cluster, rates } = this.model;
    const rate = rates.get(name) ?? {};
    const tags = [name === cluster.leader && "leader", name === cluster.node && "this node", row.draining && "draining", row.weight === 0 && "gateway", row.zone].filter(Boolean);
    say(parts.name.lastChild, tags.join(" · "));
    parts.row.dataset.health = row.state;
    const [state, evidence] = parts.state.children;
    state.className = `state ${{ alive: "ok", joining: "moving", suspect: "under_replicated", dead: "unavailable", left: "gone" }[row.state]}`;
    say(state, `${HEALTH[row.state] ?? ""} ${row.state}`);
    say(evidence, row.state === "alive" ? "" : this.#evidence(row));
    parts.state.title = this.#evidence(row);
    parts.bar.style.width = `${(100 * row.copies) / most}%`;
    say(parts.copies.lastChild, `${row.copies} (${row.primaries} led)`);
    say(parts.perS, rate.reads_per_s === undefined ? "–" : short(rate.reads_per_s + rate.writes_per_s));
    const worst = Math.max(rate.reads_ms?.[1] ?? -1, rate.writes_ms?.[1] ?? -1);
    say(parts.p99, worst < 0 ? "–" : ms(worst));
    say(parts.free, rate.disk_full ? "full" : rate.disk_stalled ? "stalled" : bytes(rate.disk_free_bytes));
    parts.free.classList.toggle("bad", Boolean(rate.disk_full || rate.disk_stalled));
  }

  #evidence(row) {
    const said = new Map();
    const accused = row.state === "dead" || row.state === "suspect";
    for (const [by, , reason] of row.evidence.filter(([, , one]) => !accused || !CLEARING.has(one))) said.set(reason, new Set([...(said.get(reason) ?? []), by]));
    const why = [...said].map(([reason, by]) => `${WHY[reason] ?? reason} (${listed([...by])})`);
    return [row.since ? `for ${span(this.model.now() - row.since)}` : "", ...why].filter(Boolean).join(", ");
  }
}

// --- moves ----------------------------------------------------------------------------------------------------------

export function showMoves(model) {
  const { plan } = model;
  const all = model.rates.get("") ?? {};
  const moving = model.shards.filter((shard) => shard.learners.length);
  say(byId("moves-rate"), (plan || moving.length) && all.received_bytes_per_s ? `${bytes(all.received_bytes_per_s)}/s` : "");
  const parts = [];
  if (plan) {
    const left = plan.copies - plan.copies_done;
    const pace = plan.copies_per_s && left ? `${short(plan.copies_per_s)} copies/s, about ${span(plan.eta_s ?? 0)} left` : left ? "no copy is there yet" : "every copy is there";
    parts.push(
      el("p", {}, el("b", {}, plan.reason ? `${plan.reason[0].toUpperCase()}${plan.reason.slice(1)}` : "A plan runs"), ` for ${span(model.now() - plan.since)}`),
      el("progress", { max: Math.max(1, plan.copies), value: plan.copies_done, "aria-label": "Copies that are there" }),
      el("p", {}, `${plan.copies_done} of ${count(plan.copies, "copy", "copies")}; ${pace}; ${count(plan.primaries, "primary", "primaries")} still to move.`),
      ...plan.waiting.slice(0, 4).map((sentence) => el("p", { class: "quiet" }, sentence)),
    );
  }
  // By where they go: what one node waits for is one thing to know, however many shards it has.
  const targets = new Map();
  for (const shard of moving) for (const name of shard.learners) targets.set(name, [...(targets.get(name) ?? []), shard]);
  if (targets.size) {
    const rows = inOrder(targets.keys()).map((name) => {
      const shards = targets.get(name);
      const state = model.members.get(name)?.state;
      const what = state === "dead" || state === "suspect" ? `is ${state}; ${count(shards.length, "copy waits", "copies wait")} for it` : `gets ${count(shards.length, "copy", "copies")} up to date`;
      const which = shards.length > SHARDS_NAMED ? "" : `: ${count(shards.length, "shard")} ${shards.map((shard) => shard.number).join(", ")}`;
      return el("li", {}, nameTag(model, name), ` ${what}`, el("span", { class: "quiet" }, which.replace(/^: \d+ shards? /, ": shard ")));
    });
    parts.push(el("ul", { class: "streams", "aria-label": "Copies on their way" }, ...rows));
  }
  if (!parts.length) parts.push(el("p", { class: "quiet" }, model.shards.length ? "Nothing moves, and no plan has anything left to do." : ""));
  byId("moves").replaceChildren(...parts);
}

// --- requests -------------------------------------------------------------------------------------------------------

const SPARKS = [
  ["Reads", (one) => one.reads_per_s, (value) => `${short(value)}/s`],
  ["Writes", (one) => one.writes_per_s, (value) => `${short(value)}/s`],
  ["Read p50, p99", (one) => one.reads_ms?.[1], ms, (one) => one.reads_ms?.[0]],
  ["Write p50, p99", (one) => one.writes_ms?.[1], ms, (one) => one.writes_ms?.[0]],
  ["Failed", (one) => one.failed_per_s, (value) => `${short(value)}/s`],
  ["Sent on to other nodes", (one) => one.forwards_per_s, (value) => `${short(value)}/s`],
];

function line(values, most) {
  const step = 100 / Math.max(1, values.length - 1);
  let path = "";
  values.forEach((value, at) => {
    if (value !== null && value !== undefined) path += `${path ? "L" : "M"}${(at * step).toFixed(1)} ${(23 - (22 * value) / most).toFixed(1)}`;
  });
  return path;
}

export function showTraffic(model) {
  const box = byId("traffic");
  const latest = model.points[model.points.length - 1] ?? {};
  SPARKS.forEach(([name, value, told, lower], at) => {
    const spark = box.children[at] ?? box.appendChild(el("div", { class: "spark" }, el("span", { class: "quiet" }, name), el("b"),
      svg("svg", { viewBox: "0 0 100 24", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("path", { class: "lower" }), svg("path"))));
    const values = model.points.map(value);
    const most = Math.max(1e-9, ...values.map((one) => one ?? 0));
    say(spark.children[1], lower ? `${told(lower(latest))}, ${told(value(latest))}` : told(value(latest) ?? null));
    const [low, high] = spark.lastChild.children;
    low.setAttribute("d", lower ? line(model.points.map(lower), most) : "");
    high.setAttribute("d", line(values, most));
  });
  say(byId("traffic-note"), latest.nodes === undefined ? "no figures yet" : `${latest.nodes} of ${count(model.members.size, "node")} heard; ${count(latest.in_flight ?? 0, "request")} in flight`);
}

// --- history --------------------------------------------------------------------------------------------------------

const KINDS = { all: "All", failovers: "Failovers", moves: "Moves", members: "Members" };
const SHOWN_MAX = 120;
const TOGETHER_S = 5;
const DETAIL_MAX = 2000;

const OF_MEMBERS = new Set(["member", "boot", "leave", "left", "leader", "refused"]);

function kindOf([, , kind, text, reason, , moved]) {
  if (OF_MEMBERS.has(kind)) return "members";
  if (/\bdead\b|fail|suspect|lost/i.test(reason || text)) return "failovers";
  return kind === "shards" || kind === "wanted" || Object.keys(moved).length ? "moves" : "members";
}

const MOVED = {
  primaries_moved: (number) => count(number, "primary moved", "primaries moved"),
  copies_added: (number) => count(number, "copy added", "copies added"),
  copies_in_sync: (number) => count(number, "copy in sync again", "copies in sync again"),
  copies_out_of_sync: (number) => count(number, "copy out of sync", "copies out of sync"),
  copies_removed: (number) => count(number, "copy removed", "copies removed"),
};
const GLYPHS = { failovers: "✕", moves: "➜", members: "●" };

/** Put together what follows closely on each other for the same reason: a plan takes many steps, and is one thing to know. */
function steps(events) {
  const made = [];
  for (const event of events) {
    const [number, at, what, text, why, detail, moved] = event;
    const kind = kindOf(event);
    const isMoved = what === "shards" && why !== "";
    const last = made[made.length - 1];
    if (isMoved && last?.isMoved && last.sentence === why && at < last.at + TOGETHER_S) {
      for (const [name, value] of Object.entries(moved)) last.moved[name] = (last.moved[name] ?? 0) + value;
      last.detail = last.detail.length < DETAIL_MAX ? [last.detail, detail].filter(Boolean).join("; ") : last.detail;
      Object.assign(last, { at, times: last.times + 1 });
      continue;
    }
    made.push({ first: number, at, kind, isMoved, text, detail, moved: { ...moved }, times: 1, sentence: isMoved ? why : text, reason: isMoved || text.includes(why) ? "" : why });
  }
  return made;
}

export class History {
  #kind = "all";
  #rows = new Map();

  constructor(model) {
    this.model = model;
    this.list = byId("history");
    byId("history-filter").append(...Object.entries(KINDS).map(([kind, word]) => {
      const button = el("button", { type: "button", "aria-pressed": String(kind === "all") }, word);
      button.addEventListener("click", () => {
        this.#kind = kind;
        for (const other of byId("history-filter").children) other.setAttribute("aria-pressed", String(other === button));
        this.draw();
      });
      return button;
    }));
  }

  draw() {
    const wanted = this.model.events.filter((event) => this.#kind === "all" || kindOf(event) === this.#kind);
    const rows = steps(wanted).slice(-SHOWN_MAX).reverse().map((step) => this.#row(step));
    this.list.replaceChildren(...(rows.length ? rows : [el("li", { class: "quiet" }, "Nothing of this kind since this node started.")]));
  }

  #row({ first, at, kind, sentence, reason, text, detail, moved, times }) {
    const key = `${first} ${at}`;
    let row = this.#rows.get(key);
    if (row && row.dataset.times === String(times)) return row;
    const date = new Date(at * 1000);
    const numbers = Object.entries(moved).map(([name, value]) => MOVED[name]?.(value)).filter(Boolean).join(", ");
    const said = this.model.members.has(sentence.split(" ")[0]) ? sentence : `${sentence[0].toUpperCase()}${sentence.slice(1)}`;
    row = el("li", { class: kind, "data-times": times }, el("time", { datetime: date.toISOString(), title: date.toLocaleString() }, clock(at)), el("i", { "aria-hidden": "true" }, GLYPHS[kind]),
      el("div", {}, el("span", { title: text }, said), times > 1 ? el("span", { class: "quiet" }, ` in ${times} steps`) : null, numbers ? el("span", { class: "why" }, numbers) : null,
        reason ? el("span", { class: "why" }, reason) : null, detail ? el("details", { class: "why" }, el("summary", {}, "which shards"), detail) : null));
    this.#rows.set(key, row);
    if (this.#rows.size > 600) this.#rows.delete(this.#rows.keys().next().value);
    return row;
  }
}
