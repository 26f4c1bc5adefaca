"use strict";
// Fills each heatmap with the statistic and group that are chosen.
for (const figure of document.querySelectorAll(".heatmap")) {
  const data = JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
  const [statistic, group] = figure.querySelectorAll("select");
  const cells = figure.querySelectorAll("td");
  const range = figure.querySelector(".range");

  const show = () => {
    const values = data.values[statistic.value][group.value];
    if (values === null) {
      range.textContent = "No row of this group has the statistic.";
      for (const cell of cells) { cell.textContent = "–"; cell.style.background = ""; cell.style.color = ""; }
      return;
    }
    const least = Math.min(...values), most = Math.max(...values);
    const last = data.colors.length - 1;
    range.textContent = `${statistic.value}, ${group.selectedOptions[0].text}: ${least} to ${most}`;
    cells.forEach((cell, place) => {
      const value = values[place];
      const at = most > least ? Math.round((value - least) / (most - least) * last) : 0;
      const layer = Math.floor(place / data.heads) + 1, head = place % data.heads + 1;
      cell.textContent = String(Number(value.toPrecision(3)));
      cell.title = `layer ${layer}, head ${head}: ${value}`;
      cell.style.background = data.colors[at];
      cell.style.color = at > last / 2 ? "#000" : "#fff";
    });
  };
  statistic.addEventListener("change", show);
  group.addEventListener("change", show);
  show();
}
