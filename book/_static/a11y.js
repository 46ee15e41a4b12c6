// Small repairs to what the theme and its extensions write into a page, so that a
// keyboard and a screen reader reach everything.
(() => {
  "use strict";

  function names() {
    // A label that differs from the visible text hides the text from voice control.
    for (const e of document.querySelectorAll(
      "summary[aria-label], .search-button-field[aria-label]",
    ))
      e.removeAttribute("aria-label");
    // An arrow alone opens the pages below a page.
    for (const e of document.querySelectorAll("summary:has(> .toctree-toggle)")) {
      const page = e.closest("li")?.querySelector("a")?.textContent.trim();
      e.setAttribute("aria-label", `Pages of ${page}`);
    }
    // Logo, search and pages at the left stand in no landmark of their own.
    for (const e of document.querySelectorAll(".bd-sidebar-primary")) {
      e.setAttribute("role", "complementary");
      e.setAttribute("aria-label", "The book");
    }
    // The bibliography is marked up as a list; its entries should say so.
    for (const e of document.querySelectorAll(".citation-list > [role]"))
      e.setAttribute("role", "listitem");
    // Parameters of a long signature are written as definitions of no terms.
    for (const e of document.querySelectorAll(".sig dl")) e.setAttribute("role", "list");
    for (const e of document.querySelectorAll(".sig dd")) e.setAttribute("role", "listitem");
  }

  // Paper is light.
  let theme;
  matchMedia("print").addEventListener("change", ({ matches }) => {
    const root = document.documentElement.dataset;
    if (matches) theme = root.theme;
    root.theme = matches ? "light" : theme;
  });

  if (document.readyState === "complete") names();
  else window.addEventListener("load", names);
})();
