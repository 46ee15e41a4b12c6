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
    // The bibliography is marked up as a list; its entries should say so.
    for (const e of document.querySelectorAll(".citation-list > [role]"))
      e.setAttribute("role", "listitem");
    // Parameters of a long signature are written as definitions of no terms.
    for (const e of document.querySelectorAll(".sig dl")) e.setAttribute("role", "list");
    for (const e of document.querySelectorAll(".sig dd")) e.setAttribute("role", "listitem");
  }

  const BOXES = "pre, .cell_output, div.math, mjx-container, .bd-article table";

  function measure() {
    // An inline formula wider than its paragraph scrolls by itself; the page does not.
    for (const e of document.querySelectorAll("mjx-container:not([display])")) {
      e.classList.remove("too-wide");
      const room = e.parentElement.clientWidth;
      if (room > 0 && e.getBoundingClientRect().width > room) e.classList.add("too-wide");
    }
    // What scrolls must be reachable by keyboard.
    for (const e of document.querySelectorAll(BOXES)) {
      if (e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0) {
        if (e.tabIndex < 0) e.tabIndex = 0;
      } else if (e.matches("pre, .bd-article table")) e.removeAttribute("tabindex");
    }
  }

  function start() {
    names();
    measure();
    let waiting;
    const soon = () => {
      clearTimeout(waiting);
      waiting = setTimeout(measure, 100);
    };
    window.addEventListener("resize", soon);
    document.addEventListener("toggle", soon, true); // a dropdown was opened
    window.MathJax?.startup?.promise?.then(measure);
  }

  if (document.readyState === "complete") start();
  else window.addEventListener("load", start);
})();
