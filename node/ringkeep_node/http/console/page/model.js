// What the page knows: the node's picture, put together from its first whole and the news since.

import { inOrder } from "./dom.js";

const HISTORY_MAX = 400;
const POINTS_MAX = 90;
export const COLOURS = 20;

/** Rows are [epoch, revision, primary, in sync, learners, need, state]. */
export class Shard {
  constructor(number, row) {
    this.number = number;
    [this.epoch, this.revision, this.primary, this.inSync, this.learners, this.need, this.state] = row;
  }
}

export class Model {
  constructor() {
    this.summary = null;
    this.cluster = {};
    this.plan = null;
    this.members = new Map();
    this.rates = new Map();
    this.shards = [];
    this.events = [];
    this.points = [];
    this.skewS = 0;
    this.slots = [];
    this.colours = new Map();
  }

  /** Take in the data of an event; return the names of the parts that changed. */
  apply(told, isFull) {
    if (isFull) {
      this.members.clear();
      this.rates.clear();
      this.events = [];
      if (this.shards.length !== told.shards.length) this.slots = [];
      this.shards = [];
    }
    if ("at" in told) this.skewS = told.at - Date.now() / 1000;
    for (const part of ["summary", "cluster", "plan"]) if (part in told) this[part] = told[part];
    for (const part of ["members", "rates"]) {
      for (const [name, row] of Object.entries(told[part] ?? {})) {
        if (row === null) this[part].delete(name);
        else this[part].set(name, row);
      }
    }
    for (const [number, row] of Object.entries(told.shards ?? {})) this.#shard(Number(number), row);
    if (told.events) this.events = [...this.events, ...told.events].slice(-HISTORY_MAX);
    if (told.members) this.#colour();
    if (told.rates?.[""]) this.points = [...this.points, told.rates[""]].slice(-POINTS_MAX);
    return new Set(Object.keys(told));
  }

  /** Now, as the node's clock has it: ages must not depend on this machine's. */
  now() {
    return Date.now() / 1000 + this.skewS;
  }

  #shard(number, row) {
    const shard = new Shard(number, row);
    this.shards[number] = shard;
    // A copy keeps its track as long as it is there, so that a change is seen where it happens and nowhere else.
    const before = this.slots[number] ?? [];
    const others = shard.inSync.filter((name) => name !== shard.primary);
    const slots = before.map((name) => (others.includes(name) ? name : null));
    for (const name of others) {
      if (slots.includes(name)) continue;
      const free = slots.indexOf(null);
      if (free >= 0) slots[free] = name;
      else slots.push(name);
    }
    while (slots.length && slots[slots.length - 1] === null) slots.pop();
    this.slots[number] = slots;
  }

  #colour() {
    const used = new Set();
    for (const [name, colour] of this.colours) if (this.members.has(name)) used.add(colour);
    for (const name of inOrder(this.members.keys())) {
      if (this.colours.has(name)) continue;
      let colour = 0;
      while (used.has(colour) && used.size < COLOURS) colour += 1;
      this.colours.set(name, colour % COLOURS);
      used.add(colour % COLOURS);
    }
  }

  colour(name) {
    return this.colours.get(name) ?? COLOURS - 1;
  }

  /** How many tracks of further copies the ring has. */
  tracks() {
    const most = this.slots.reduce((most, slots) => Math.max(most, slots.length), 0);
    return Math.max(1, (this.cluster.copies ?? 1) - 1, Math.min(most, 6));
  }
}
