// The ring: one track of primaries, one for each further copy, one for copies on their way, and marks outside for what is
// not ok. One path for each node and track, so that 256 shards cost a few dozen elements and a change costs little.
// A node is told by its colour, and from the tenth on by stripes; what is not ok is told by its shape.

import { STATES, svg } from "./dom.js";
import { COLOURS } from "./model.js";

const GROUPS_MAX = 1024;
const OUTER = 456;
const PRIMARY = 64;
const INNER = 292;
const LEARNERS = 18;
const WORST = ["unavailable", "under_replicated", "moving", "ok"];
const turn = Math.PI * 2;

function point(radius, angle) {
  return `${(radius * Math.sin(angle)).toFixed(1)} ${(-radius * Math.cos(angle)).toFixed(1)}`;
}

function arc(inner, outer, from, to) {
  const large = to - from > Math.PI ? 1 : 0;
  return `M${point(outer, from)}A${outer} ${outer} 0 ${large} 1 ${point(outer, to)}`
    + `L${point(inner, to)}A${inner} ${inner} 0 ${large} 0 ${point(inner, from)}Z`;
}

function patterns() {
  const made = [];
  for (let colour = COLOURS / 2; colour < COLOURS; colour += 1) {
    made.push(svg("pattern", { id: `stripes-${colour}`, width: 7, height: 7, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      svg("rect", { width: 7, height: 7, class: `c${colour - COLOURS / 2}` }),
      svg("rect", { width: 2.6, height: 7, class: "stripe" })));
  }
  made.push(svg("pattern", { id: "hatch", width: 8, height: 8, patternUnits: "userSpaceOnUse", patternTransform: "rotate(-45)" },
    svg("rect", { width: 8, height: 8, class: "hatch-ground" }), svg("rect", { width: 3, height: 8, class: "hatch-line" })));
  return svg("defs", {}, ...made);
}

export const fillOf = (colour) => (colour < COLOURS / 2 ? null : `url(#stripes-${colour})`);

export class Ring {
  #paths = new Map();
  #arcs = new Map();
  #model;
  #walked = 0;
  #hovered = null;

  /** picked(shard number) when somebody points at a shard to keep it; pointed(number or null) while they only look. */
  constructor(box, model, picked, pointed) {
    this.#model = model;
    this.picked = picked;
    this.pointed = pointed;
    this.segments = svg("g", { class: "segments" });
    this.marks = svg("g", { class: "marks" });
    this.band = svg("path", { class: "band" });
    this.chosen = svg("path", { class: "chosen" });
    this.needle = svg("g", { class: "needle" });
    this.centre = [svg("text", { class: "big", y: -14 }), svg("text", { class: "line", y: 34 }), svg("text", { class: "line", y: 72 }), svg("text", { class: "line", y: 110 })];
    // The first digit of the hashes that lie there: where a turn begins, and which way it goes.
    const digits = ["0", "4", "8", "c"].map((digit, at) => {
      const [x, y] = point(INNER - LEARNERS - 28, at * turn / 4).split(" ");
      return svg("text", { x, y }, digit);
    });
    this.svg = svg("svg", {
      viewBox: "-500 -500 1000 1000", class: "ring", id: "ring", tabindex: 0, role: "slider",
      "aria-label": "Ring of shards", "aria-valuemin": 0, "aria-valuemax": 0, "aria-valuenow": 0, "aria-keyshortcuts": "r",
    }, patterns(), this.band, this.segments, this.marks, this.chosen, this.needle, svg("g", { class: "digits", "aria-hidden": "true" }, ...digits), svg("g", { class: "centre", "aria-hidden": "true" }, ...this.centre));
    box.append(this.svg);
    this.svg.addEventListener("pointermove", (event) => this.#hover(this.#at(event)));
    this.svg.addEventListener("pointerleave", () => this.#hover(null));
    this.svg.addEventListener("click", (event) => {
      const number = this.#at(event);
      if (number !== null) this.picked(number);
    });
    this.svg.addEventListener("keydown", (event) => this.#walk(event));
    this.svg.addEventListener("focus", () => this.#model.shards.length && this.picked(this.#walked));
  }

  get groups() {
    return Math.min(this.#model.shards.length, GROUPS_MAX);
  }

  #per() {
    return Math.max(1, Math.floor(this.#model.shards.length / GROUPS_MAX));
  }

  #worst(group) {
    const per = this.#per();
    const shards = this.#model.shards.slice(group * per, (group + 1) * per);
    return shards.reduce((worst, one) => (WORST.indexOf(one.state) < WORST.indexOf(worst.state) ? one : worst));
  }

  /** Draw everything anew from the model. */
  draw() {
    const model = this.#model;
    const groups = this.groups;
    const drawn = new Map();
    const marked = new Map();
    if (!groups) return this.#show(drawn, marked);
    const tracks = model.tracks();
    const step = turn / groups;
    const add = (key, text) => drawn.set(key, (drawn.get(key) ?? "") + text);
    for (let group = 0; group < groups; group += 1) {
      const shard = this.#worst(group);
      add(`0 ${model.colour(shard.primary)}`, this.#arc(0, tracks, group, step));
      if (shard.state === "unavailable") add("0 hatch", this.#arc(0, tracks, group, step));
      const slots = model.slots[shard.number] ?? [];
      for (let track = 0; track < tracks; track += 1) {
        const name = slots[track];
        if (name) add(`${track + 1} ${model.colour(name)}`, this.#arc(track + 1, tracks, group, step));
      }
      for (const name of shard.learners.slice(0, 1)) add(`l ${model.colour(name)}${model.members.get(name)?.state === "dead" ? " awaited" : ""}`, this.#arc("l", tracks, group, step));
      if (shard.state !== "ok") marked.set(shard.state, (marked.get(shard.state) ?? "") + this.#mark(shard.state, (group + 0.5) * step, step));
    }
    const limits = this.#limits(tracks, tracks);
    this.band.setAttribute("d", arc(limits[0], OUTER, 0, Math.PI) + arc(limits[0], OUTER, Math.PI, turn));
    this.#show(drawn, marked);
    this.svg.setAttribute("aria-valuemax", model.shards.length - 1);
  }

  #limits(track, tracks) {
    if (track === 0) return [OUTER - PRIMARY, OUTER];
    if (track === "l") return [INNER - LEARNERS - 8, INNER - 8];
    const each = (OUTER - PRIMARY - INNER) / tracks;
    const outer = OUTER - PRIMARY - (track - 1) * each - 7;
    return [outer - each + 7, outer];
  }

  #arc(track, tracks, group, step) {
    const key = `${track} ${tracks} ${step}`;
    let arcs = this.#arcs.get(key);
    if (!arcs) this.#arcs.set(key, (arcs = []));
    if (!arcs[group]) {
      const gap = Math.min(step * 0.1, 0.0035);
      const [inner, outer] = this.#limits(track, tracks);
      arcs[group] = arc(inner, outer, group * step + gap, (group + 1) * step - gap);
    }
    return arcs[group];
  }

  #mark(state, angle, step) {
    const half = Math.min(step / 2 * 0.8, 0.02);
    const [low, high] = [464, 486];
    if (state === "under_replicated") return `M${point(low, angle - half)}L${point(high, angle)}L${point(low, angle + half)}Z`;
    if (state === "moving") return `M${point(low, angle - half)}L${point(low + 11, angle + half)}L${point(high, angle - half)}`;
    return `M${point(low, angle - half)}L${point(high, angle + half)}M${point(high, angle - half)}L${point(low, angle + half)}`;
  }

  #show(drawn, marked) {
    for (const [key, path] of this.#paths) {
      if (!drawn.has(key)) {
        path.remove();
        this.#paths.delete(key);
      }
    }
    for (const [key, data] of drawn) {
      let path = this.#paths.get(key);
      if (!path) {
        const [track, colour, awaited] = key.split(" ");
        const number = Number(colour);
        path = colour === "hatch" ? svg("path", { class: "seg down", fill: "url(#hatch)" })
          : svg("path", { class: `seg c${number % (COLOURS / 2)}${track === "l" ? " learner" : ""}${awaited ? " awaited" : ""}`, "data-colour": number, "data-track": track });
        const fill = colour === "hatch" || track === "l" ? null : fillOf(number);
        if (fill) path.style.fill = fill;
        this.#paths.set(key, path);
        if (colour === "hatch") this.segments.append(path);
        else this.segments.prepend(path);
      }
      if (path.getAttribute("d") !== data) path.setAttribute("d", data);
    }
    this.marks.replaceChildren(...[...marked].map(([state, data]) => svg("path", { class: `mark ${state}`, d: data })));
  }

  /** Show the shards of some nodes only (by colour number); null: all. */
  light(colours) {
    this.segments.classList.toggle("dimmed", colours !== null);
    for (const path of this.#paths.values()) path.classList.toggle("lit", colours !== null && colours.has(Number(path.dataset.colour)));
  }

  /** Point at the shard that is shown beside the ring. */
  choose(number) {
    const shard = this.#model.shards[number];
    if (!shard) {
      this.chosen.removeAttribute("d");
      return;
    }
    this.#walked = number;
    const step = turn / this.groups;
    const group = Math.floor(number / this.#per());
    this.chosen.setAttribute("d", arc(INNER - LEARNERS - 14, OUTER + 4, group * step, (group + 1) * step));
    this.svg.setAttribute("aria-valuenow", number);
    this.svg.setAttribute("aria-valuetext", this.#told(shard));
  }

  #told(shard) {
    const copies = shard.inSync.length ? `in sync ${shard.inSync.join(", ")}` : "no copy in sync";
    const learners = shard.learners.length ? `, on its way to ${shard.learners.join(", ")}` : "";
    return `Shard ${shard.number}, ${STATES[shard.state].word}, primary ${shard.primary || "none"}, ${copies}${learners}`;
  }

  /** Show where a hash lies: a part of the whole turn. */
  point(part) {
    if (part === null) return this.needle.replaceChildren();
    const angle = part * turn;
    const [x1, y1] = point(INNER - LEARNERS - 16, angle).split(" ");
    const [x2, y2] = point(494, angle).split(" ");
    this.needle.replaceChildren(svg("line", { x1: 0, y1: 0, x2: x1, y2: y1, class: "faint" }), svg("line", { x1, y1, x2, y2 }), svg("circle", { cx: x2, cy: y2, r: 6 }));
    return undefined;
  }

  /** Say four lines in the middle. */
  say(lines) {
    this.centre.forEach((text, at) => {
      const line = lines[at] ?? "";
      if (text.textContent !== line) text.textContent = line;
    });
    this.centre[0].classList.toggle("less", (lines[0] ?? "").length > 7);
  }

  #at(event) {
    const count = this.#model.shards.length;
    if (!count) return null;
    const box = this.svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * 1000 - 500;
    const y = ((event.clientY - box.top) / box.height) * 1000 - 500;
    const radius = Math.hypot(x, y);
    if (radius < INNER - LEARNERS - 14 || radius > 496) return null;
    const angle = (Math.atan2(x, -y) + turn) % turn;
    return Math.min(count - 1, Math.floor((angle / turn) * count));
  }

  #hover(number) {
    if (number !== this.#hovered) {
      this.#hovered = number;
      this.pointed(number);
    }
  }

  #walk(event) {
    const count = this.#model.shards.length;
    const per = this.#per();
    const steps = { ArrowRight: per, ArrowUp: per, ArrowLeft: -per, ArrowDown: -per, PageUp: count / 16, PageDown: -count / 16 };
    let to = null;
    if (event.key in steps) to = (this.#walked + steps[event.key] + count) % count;
    else if (event.key === "Home") to = 0;
    else if (event.key === "End") to = count - 1;
    if (to === null || !count || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.picked(Math.floor(to));
  }
}
