// Elements and words. Names of users and nodes come from strangers: text goes in as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
export const byId = (id) => document.getElementById(id);

/** Say something in an element; nothing happens if it says so already. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A link, if the address is one that a browser may follow; else only its text. */
export function link(url, text) {
  return /^https?:\/\/[^\s]+$/i.test(url) ? el("a", { href: url, rel: "noreferrer" }, text) : el("span", {}, text);
}

export const STATES = {
  ok: { word: "ok", sign: "✓" },
  moving: { word: "moving", sign: "➜" },
  under_replicated: { word: "under-replicated", sign: "▲" },
  unavailable: { word: "unavailable", sign: "✕" },
};
export const HEALTH = {
  alive: "✓", joining: "➜", suspect: "▲", dead: "✕", left: "–",
};

export const count = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

export function short(number) {
  if (number === null || number === undefined) return "–";
  if (number >= 1e6) return `${(number / 1e6).toFixed(1)}M`;
  if (number >= 1e4) return `${(number / 1e3).toFixed(0)}k`;
  if (number >= 1e3) return `${(number / 1e3).toFixed(1)}k`;
  return number >= 10 || Number.isInteger(number) ? number.toFixed(0) : number.toFixed(1);
}

export function bytes(number) {
  if (number === null || number === undefined) return "–";
  const units = ["B", "KB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  for (; number >= 1000 && unit < units.length - 1; unit += 1) number /= 1000;
  return `${number < 10 && unit ? number.toFixed(1) : Math.round(number)} ${units[unit]}`;
}

export function ms(number) {
  if (number === null || number === undefined) return "–";
  if (number >= 1000) return `${(number / 1000).toFixed(1)} s`;
  return `${number < 10 ? number.toFixed(1) : Math.round(number)} ms`;
}

export function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 90) return `${whole} s`;
  if (whole < 5400) return `${Math.round(whole / 60)} min`;
  return whole < 172800 ? `${Math.round(whole / 3600)} h` : `${Math.round(whole / 86400)} days`;
}

export function clock(at) {
  return new Date(at * 1000).toLocaleTimeString("en-GB");
}

/** "n1, n2 and n3" */
export function listed(names, most = 12) {
  const shown = names.length > most ? [...names.slice(0, most), `${names.length - most} more`] : names;
  return shown.length < 2 ? shown.join("") : `${shown.slice(0, -1).join(", ")} and ${shown[shown.length - 1]}`;
}

/** Names with their numbers in order: n2 before n10. */
export const inOrder = (names) => [...names].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
