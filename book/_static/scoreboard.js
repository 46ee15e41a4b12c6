// Leaves the rows of the scoreboard that the chosen chapter, kind and verdict have.
document.addEventListener("DOMContentLoaded", () => {
  const board = document.querySelector(".scoreboard-filter");
  if (!board) return;
  const choices = [...board.querySelectorAll("select")];
  const rows = [...document.querySelectorAll("table.scoreboard tbody tr")];
  const said = board.querySelector("output");
  const filter = () => {
    let shown = 0;
    for (const row of rows) {
      row.hidden = choices.some((c) => c.value && row.dataset[c.name] !== c.value);
      if (!row.hidden) shown += 1;
    }
    said.textContent = `${shown} of ${rows.length} claims`;
  };
  for (const choice of choices) choice.addEventListener("change", filter);
  board.hidden = false; // without a script there is nothing to choose
  filter();
});
