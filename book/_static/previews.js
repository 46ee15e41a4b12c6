// Shows what a reference leads to while the pointer or the focus is on it.
(() => {
  "use strict";
  const DELAY = 250;

  function start() {
    const source = document.getElementById("previews");
    if (!source) return;
    const texts = JSON.parse(source.textContent);
    const box = document.createElement("div");
    box.id = "preview";
    box.role = "tooltip";
    box.hidden = true;
    document.body.append(box);
    let timer, current;

    function place(link) {
      const at = link.getBoundingClientRect();
      const room = document.documentElement.clientWidth;
      box.style.left = `${Math.max(8, Math.min(at.left, room - box.offsetWidth - 8))}px`;
      const below = at.bottom + box.offsetHeight + 8 < window.innerHeight;
      const top = below ? at.bottom + 6 : at.top - box.offsetHeight - 6;
      box.style.top = `${Math.max(4, top)}px`;
    }

    function show(link) {
      box.innerHTML = texts[link.getAttribute("href")];
      box.hidden = false;
      current = link;
      link.setAttribute("aria-describedby", box.id);
      place(link);
      window.MathJax?.typesetPromise?.([box]).then(() => current === link && place(link));
    }

    function hide() {
      clearTimeout(timer);
      current?.removeAttribute("aria-describedby");
      current = undefined;
      box.hidden = true;
    }

    // The pointer has gone; what it pointed at is itself pointed at, to read or to copy
    // it, or the focus is on its link.
    const leave = () =>
      box.matches(":hover") || current?.matches(":focus-visible") || hide();

    for (const link of document.querySelectorAll("article a[href*='#']")) {
      if (!(link.getAttribute("href") in texts)) continue;
      link.removeAttribute("title"); // the same text
      link.addEventListener("mouseenter", () => {
        clearTimeout(timer);
        timer = setTimeout(show, DELAY, link);
      });
      link.addEventListener("mouseleave", () => {
        clearTimeout(timer);
        timer = setTimeout(leave, DELAY);
      });
      link.addEventListener("focus", () => link.matches(":focus-visible") && show(link));
      link.addEventListener("blur", hide);
    }
    box.addEventListener("mouseleave", leave);
    document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
    // the focus may move the page: what is shown stays beside its link
    document.addEventListener("scroll", () => current && place(current), {
      passive: true,
    });
  }

  if (document.readyState === "loading")
    document.addEventListener("DOMContentLoaded", start);
  else start();
})();
