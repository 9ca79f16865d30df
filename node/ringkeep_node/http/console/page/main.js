// Puts the page together: news come in, what they change is drawn at the next frame.

import { STATES, byId, el, say } from "./dom.js";
import { Live } from "./live.js";
import { Model } from "./model.js";
import { Ring } from "./ring.js";
import { ShardTable, showShard } from "./shards.js";
import { History, Members, nameTag, showFacts, showHeadline, showLegend, showMoves, showTraffic } from "./panels.js";
import { WhatIf, lookUp } from "./ask.js";
import { nextTheme, useKeys } from "./keys.js";

const model = new Model();
const line = { state: "connecting", heard: 0 };
const tag = (name) => nameTag(model, name);
let chosen = null;
let pointed = null;

const ring = new Ring(byId("ring-box"), model, choose, (number) => {
  pointed = number;
  sayCentre();
});
const table = new ShardTable(byId("table-box"), model, choose);
const members = new Members(model, (name) => ring.light(name === null ? null : new Set([model.colour(name)])));
const history = new History(model);
byId("foot").append(el("span", { id: "foot-shards" }), ...[["cluster", "/v1/cluster"], ["members", "/v1/cluster/members"], ["map", "/v1/cluster/map"], ["plan", "/v1/cluster/plan"], ["events", "/v1/cluster/events"], ["metrics", "/metrics"], ["OpenAPI", "/openapi.json"]]
  .map(([name, path]) => el("a", { href: path }, name)));
const whatIf = new WhatIf(model, tag);

function choose(number) {
  chosen = number;
  ring.choose(number);
  showShard(model, number, tag);
  sayCentre();
}

function sayCentre() {
  const counts = model.cluster.counts;
  const shard = model.shards[pointed ?? chosen ?? -1];
  if (shard) {
    const others = shard.inSync.filter((name) => name !== shard.primary);
    ring.say([`${shard.number}`, `${STATES[shard.state].sign} ${STATES[shard.state].word}`, `led by ${shard.primary || "nobody"}`, others.length ? `also ${others.slice(0, 3).join(", ")}${others.length > 3 ? " …" : ""}` : "no other copy"]);
  } else if (counts?.total) {
    const { total, moving, unavailable, under_replicated: few } = counts;
    const [number, word] = unavailable ? [unavailable, "unavailable"] : few ? [few, "short of copies"] : [moving, "moving"];
    ring.say(number ? [`${number}`, `of ${total} shards`, word] : [`${total}`, "shards,", "all ok"]);
  } else {
    ring.say(["–", "no shards yet"]);
  }
}

function nextProblem() {
  const { shards } = model;
  const from = chosen ?? -1;
  for (let step = 1; step <= shards.length; step += 1) {
    const shard = shards[(from + step) % shards.length];
    if (shard.state !== "ok") return choose(shard.number);
  }
  say(byId("shard-title"), "Every shard is ok");
  return undefined;
}

function beside(step) {
  if (model.shards.length) choose(((chosen ?? (step > 0 ? -1 : 0)) + step + model.shards.length) % model.shards.length);
}

function showAs(isTable) {
  byId("ring-box").hidden = byId("ring-hint").hidden = isTable;
  byId("table-box").hidden = !isTable;
  byId("show-ring").setAttribute("aria-pressed", String(!isTable));
  byId("show-table").setAttribute("aria-pressed", String(isTable));
  table.draw();
}

// --- news -----------------------------------------------------------------------------------------------------------

let changed = new Set();
let isDue = false;

function soon(parts) {
  for (const part of parts) changed.add(part);
  if (!isDue) {
    isDue = true;
    requestAnimationFrame(draw);
  }
}

function draw() {
  const parts = changed;
  changed = new Set();
  isDue = false;
  const has = (...names) => names.some((name) => parts.has(name));
  if (has("summary", "cluster", "line", "members")) showHeadline(model, line);
  if (has("cluster", "members", "rates")) showFacts(model);
  if (has("cluster")) showLegend(model);
  if (has("shards", "members", "cluster")) {
    ring.draw();
    table.draw();
    members.tell(members.lit);
    if (chosen !== null) choose(chosen);
    else {
      sayCentre();
      showShard(model, -1, tag);
    }
  }
  if (has("members", "cluster", "rates", "tick")) members.draw();
  if (has("plan", "shards", "rates", "tick")) showMoves(model);
  if (has("rates")) showTraffic(model);
  if (has("events")) history.draw();
  if (has("members", "cluster")) whatIf.draw();
  document.documentElement.dataset.drawn = "true";
}

const LINE = { live: "live", broken: "reconnecting", silent: "silent", stopping: "stopping", connecting: "connecting" };

new Live(
  (told, isFull) => soon(model.apply(told, isFull)),
  (state, heard) => {
    if (state !== line.state) soon(["line"]);
    Object.assign(line, { state, heard });
    byId("live").dataset.state = state;
    document.documentElement.dataset.line = heard ? state : "new";
    say(byId("live-text"), `${LINE[state]}${model.cluster.node ? `, seen by ${model.cluster.node}` : ""}`);
  },
);
setInterval(() => {
  const worrying = model.plan || [...model.members.values()].some((row) => row.state !== "alive");
  if (worrying && !document.hidden) soon(["tick"]);
}, 1000);

// --- controls -------------------------------------------------------------------------------------------------------

const pointAt = (shard, part) => {
  ring.point(part);
  if (shard !== null) choose(shard);
};
lookUp(model, tag, pointAt);
byId("show-ring").addEventListener("click", () => showAs(false));
byId("show-table").addEventListener("click", () => showAs(true));
byId("previous-shard").addEventListener("click", () => beside(-1));
byId("next-shard").addEventListener("click", () => beside(1));
byId("next-problem").addEventListener("click", nextProblem);

const focus = (id) => () => {
  byId(id).focus();
  byId(id).scrollIntoView({ block: "nearest" });
};
useKeys([
  ["/", "look a user up", focus("user")],
  ["r", "the ring", () => { showAs(false); focus("ring")(); }],
  ["v", "ring or table", () => showAs(byId("table-box").hidden)],
  ["n", "next shard that is not ok", nextProblem],
  ["m", "members", focus("members-title")],
  ["h", "history", focus("history")],
  ["w", "what if", focus("count")],
  ["t", "theme: auto, light, dark", nextTheme],
  ["Escape", "pick nothing any more, and show the shards of all nodes", () => { members.light(null); chosen = null; ring.choose(-1); ring.point(null); byId("found").replaceChildren(); soon(["shards"]); }],
]);
soon(["line"]);
