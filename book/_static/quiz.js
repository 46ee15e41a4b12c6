// The first answer chosen to each question of a quiz stays in the reader's own browser,
// and goes nowhere unless the reader saves it as a file.
document.addEventListener("DOMContentLoaded", () => {
  const options = [...document.querySelectorAll("details.quiz-option")];
  if (!options.length) return;
  const page = location.pathname.split("/").pop().replace(/\.html$/, "");
  const key = `flatlab-quiz-${page}`;
  let kept = {};
  try {
    kept = JSON.parse(localStorage.getItem(key)) || {};
  } catch {
    // A browser that keeps nothing: the quiz works all the same.
  }
  let question = 0;
  let before = null;
  const places = options.map((option) => {
    if (!before || option.previousElementSibling !== before) question += 1;
    const first = !before || option.previousElementSibling !== before;
    before = option;
    return { option, question, first };
  });
  let choice = 0;
  for (const place of places) {
    choice = place.first ? 1 : choice + 1;
    const mine = choice;
    const right = place.option.textContent.includes("Right.");
    if (kept[place.question]?.choice === mine) place.option.open = true;
    place.option.addEventListener("toggle", () => {
      if (!place.option.open || kept[place.question]) return;
      kept[place.question] = { choice: mine, right };
      try {
        localStorage.setItem(key, JSON.stringify(kept));
      } catch {
        // Kept until the page is left.
      }
    });
  }
  const save = document.createElement("button");
  save.type = "button";
  save.className = "quiz-save";
  save.textContent = "Save my first answers as a file";
  save.addEventListener("click", () => {
    const answers = JSON.stringify({ quiz: page, answers: kept }, null, 1);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([answers], { type: "application/json" }));
    link.download = `quiz-${page}.json`;
    link.click();
    URL.revokeObjectURL(link.href);
  });
  options[options.length - 1].after(save);
});
