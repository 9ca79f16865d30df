// Runs before the first paint, so that a chosen theme never flashes. auto: whatever the system prefers.
(() => {
  let theme = "auto";
  try { theme = localStorage.getItem("ringkeep-theme") || "auto"; } catch { /* storage may be forbidden */ }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
