"use strict";
// Fills each heatmap with the statistic and group that are chosen.
for (const figure of document.querySelectorAll(".heatmap")) {
  const data = JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
  const [statistic, group] = figure.querySelectorAll("select");
  const cells = figure.querySelectorAll(".cells td");
  const figures = figure.querySelectorAll(".figures td");
  const range = figure.querySelector(".range");

  const show = () => {
    const values = data.values[statistic.value][group.value];
    if (values === null) {
      range.textContent = "No row of this group has the statistic.";
      for (const cell of cells) { cell.textContent = "–"; cell.style.background = ""; cell.style.color = ""; }
      for (const cell of figures) cell.textContent = "–";
      return;
    }
    const least = Math.min(...values), most = Math.max(...values);
    const far = Math.max(-least, most);
    const [low, high] = data.aroundZero ? [-far, far] : [least, most];
    const last = data.colors.length - 1;
    range.textContent = `${statistic.value}, ${group.selectedOptions[0].text}: ${least} to ${most}`;
    cells.forEach((cell, place) => {
      const value = values[place];
      const at = high > low ? Math.round((value - low) / (high - low) * last) : data.aroundZero ? last / 2 : 0;
      const layer = Math.floor(place / data.heads) + 1, head = place % data.heads + 1;
      cell.textContent = String(Number(value.toPrecision(3)));
      cell.title = `layer ${layer}, head ${head}: ${value}`;
      [cell.style.background, cell.style.color] = data.colors[at];
      figures[place].textContent = String(value);
    });
  };
  statistic.addEventListener("change", show);
  group.addEventListener("change", show);
  show();
}
