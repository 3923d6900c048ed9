// SPDX-License-Identifier: GPL-2.0-only
// What screen readers and keyboards miss in the theme's markup.
document.addEventListener("DOMContentLoaded", () => {
  const set = (where, name, value) =>
    document.querySelectorAll(where).forEach((e) => e.setAttribute(name, value));
  set("p.caption[role=heading]", "aria-level", "2");
  set(".highlight pre", "tabindex", "0"); // output wider than the window scrolls
  set("aside.sidebar-drawer", "aria-label", "Pages");
  set("aside.toc-drawer", "aria-label", "On this page");
});
