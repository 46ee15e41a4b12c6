// What is wider than its box. A formula is drawn a little smaller, or broken before
// its relations and operators, or else scrolls, as a wide table does; what scrolls
// fades out where it goes on, and can be reached by keyboard.
(() => {
  "use strict";

  const LITTLE = 0.9; // drawn smaller down to this before it is broken,
  const SMALLEST = 0.75; // and to this after
  const HANGING = 32; // px by which lines after the first are indented, as in book.css
  const GROUPS = ["mjx-mrow", "mjx-mstyle", "mjx-texatom"];

  // The row of symbols that a formula consists of, within groups of one.
  function rowOf(math) {
    let row = math;
    while (row.children.length === 1 && GROUPS.includes(row.children[0].localName))
      row = row.children[0];
    return row;
  }

  // Where a line may end: 1 between statements, 2 before a relation, 3 before an
  // operator. The space before a symbol says what it is.
  function joint(last, e) {
    const wide = (x) =>
      x?.matches("mjx-mspace, mjx-mstyle") && x.getBoundingClientRect().width > 12;
    if (!last || (wide(last) && !wide(e))) return 1;
    if (e.localName !== "mjx-mo") return 0;
    return { 4: 2, 3: 3 }[e.getAttribute("space")] ?? 0;
  }

  // Put what belongs together into spans: statements of sides of terms, once.
  function cut(math) {
    const row = rowOf(math);
    if (row.querySelector(":scope > .piece")) return;
    const open = [row];
    let last;
    for (const e of [...row.children]) {
      const level = joint(last, e);
      for (let i = level || 4; i < 4; i += 1) {
        const span = document.createElement("span");
        span.className = "piece";
        if (i === 1) row.insertBefore(span, e);
        else open[i - 1].append(span);
        open[i] = span;
      }
      open[3].append(e);
      last = e;
    }
    for (let e = row; e !== math; e = e.parentElement) e.classList.add("row");
  }

  // Keep a piece in one line if it has room there, else its own pieces; how wide?
  function place(piece, room) {
    piece.classList.add("whole");
    const width = piece.getBoundingClientRect().width;
    const smaller = [...piece.querySelectorAll(":scope > .piece")];
    if (width <= room || !smaller.length) return width;
    piece.classList.remove("whole");
    return Math.max(...smaller.map((e) => place(e, room)));
  }

  function shrink(formula, ratio) {
    const size = parseFloat(getComputedStyle(formula).fontSize);
    formula.style.fontSize = `${Math.floor(size * ratio * 10) / 10}px`;
  }

  function fit(formula, room) {
    const math = formula.querySelector("mjx-math");
    const display = formula.hasAttribute("display");
    const ratio = room / math.getBoundingClientRect().width;
    if (display && ratio >= LITTLE) {
      shrink(formula, ratio);
      return;
    }
    cut(math);
    formula.classList.add("broken");
    room -= display ? HANGING : 0;
    const pieces = [...rowOf(math).querySelectorAll(":scope > .piece")];
    const width = Math.max(...pieces.map((e) => place(e, room)));
    if (width > room && room / width >= SMALLEST) shrink(formula, (0.98 * room) / width);
  }

  function fitFormulas() {
    const formulas = [...document.querySelectorAll(".bd-article mjx-container")];
    for (const e of formulas) {
      e.classList.remove("broken");
      e.style.fontSize = "";
      for (const piece of e.querySelectorAll(".whole")) piece.classList.remove("whole");
    }
    const rooms = formulas.map((e) => {
      const box = e.hasAttribute("display") ? e : e.closest("p, li, dd, td, th, div");
      return box.matches("td, th") ? Infinity : box.clientWidth;
    });
    const wide = formulas.filter((e, i) => {
      const math = e.querySelector("mjx-math");
      return rooms[i] > 0 && math?.getBoundingClientRect().width > rooms[i] + 1;
    });
    for (const e of wide) fit(e, rooms[formulas.indexOf(e)]);
  }

  function boxTables() {
    for (const table of document.querySelectorAll(".bd-article table")) {
      if (table.closest(".fx, mjx-container, .table-box")) continue;
      const box = document.createElement("div");
      box.className = "table-box";
      table.replaceWith(box);
      box.append(table);
    }
  }

  const BOXES = "pre, .table-box, mjx-container, .bd-article .cell_output";

  function showMore(box) {
    const left = box.scrollLeft > 1;
    const right = box.scrollLeft + box.clientWidth < box.scrollWidth - 1;
    box.dataset.more = [left && "left", right && "right"].filter(Boolean).join(" ");
  }

  function markBoxes() {
    for (const box of document.querySelectorAll(BOXES)) {
      const scrolls =
        box.clientWidth > 0 &&
        box.scrollWidth > box.clientWidth + 1 &&
        getComputedStyle(box).overflowX !== "visible";
      if (!scrolls && !box.classList.contains("scrolls")) continue;
      box.classList.toggle("scrolls", scrolls);
      if (scrolls) {
        box.tabIndex = 0;
        showMore(box);
      } else {
        box.removeAttribute("tabindex");
        delete box.dataset.more;
      }
    }
  }

  function measure() {
    fitFormulas();
    markBoxes();
    document.documentElement.dataset.measured = innerWidth;
  }

  function start() {
    boxTables();
    measure();
    let waiting;
    const soon = () => {
      clearTimeout(waiting);
      waiting = setTimeout(measure, 100);
    };
    window.addEventListener("resize", soon);
    document.addEventListener("toggle", soon, true); // a dropdown was opened
    document.addEventListener(
      "scroll",
      ({ target }) => target.classList?.contains("scrolls") && showMore(target),
      true,
    );
    window.MathJax?.startup?.promise?.then(measure);
  }

  if (document.readyState === "complete") start();
  else window.addEventListener("load", start);
})();
