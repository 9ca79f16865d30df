// Single keys, their help, and the theme. Keys work outside of fields only, and can be switched off (WCAG 2.1.4).

import { byId, el, say } from "./dom.js";

const THEMES = ["auto", "light", "dark"];

const stored = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
const store = (name, value) => { try { localStorage.setItem(name, value); } catch { /* only for this visit then */ } };

export function nextTheme() {
  const now = document.documentElement.dataset.theme ?? "auto";
  showTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
}

export function showTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  say(byId("theme-name"), theme);
  store("ringkeep-theme", theme);
}

/** keys: [[key, what it does, action]] */
export function useKeys(keys) {
  const help = byId("help");
  const on = byId("keys-on");
  on.checked = stored("ringkeep-keys") !== "off";
  on.addEventListener("change", () => store("ringkeep-keys", on.checked ? "on" : "off"));
  const all = [["?", "this help", () => help.showModal()], ...keys];
  const told = [...all.map(([key, what]) => [key === "Escape" ? "Esc" : key, what]), ["← →", "on the ring: the shard beside; PageUp, PageDown: a sixteenth; Home, End"]];
  byId("keys").append(...told.flatMap(([key, what]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, what)]));
  byId("help-button").addEventListener("click", () => help.showModal());
  byId("help-close").addEventListener("click", () => help.close());
  help.addEventListener("click", (event) => event.target === help && help.close());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    if (event.key !== "Escape" && (!on.checked || event.target.closest("input, select, textarea"))) return;
    const found = all.find(([key]) => key === event.key);
    if (!found) return;
    event.preventDefault();
    found[2]();
  });
  showTheme(document.documentElement.dataset.theme ?? "auto");
  byId("theme").addEventListener("click", nextTheme);
}
