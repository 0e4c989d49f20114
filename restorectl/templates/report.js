"use strict";
// A click on a column's heading sorts the table.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const text = (row) => row.cells[column].textContent.replaceAll("−", "-").replace("∞", "Infinity");
      const key = column < 2 ? text : (row) => (text(row) === "–" ? -Infinity : Number(text(row)));
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => (key(a) < key(b) ? -1 : Number(key(a) > key(b))));
      if (down) rows.reverse();
      table.tBodies[0].append(...rows);
    });
  });
}
// A picture opens large; the arrow keys show the other pictures of its row in the same place, so that differences are easy to see.
const dialog = document.querySelector("dialog");
let row = [];
let at = 0;
function show(next) {
  at = (next + row.length) % row.length;
  const image = row[at].querySelector("img");
  dialog.querySelector("img").src = image.src;
  dialog.querySelector("img").alt = image.alt;
  dialog.querySelector("span").textContent = `${at + 1} of ${row.length}: ${image.alt}`;
}
for (const strip of document.querySelectorAll(".strip")) {
  const buttons = [...strip.querySelectorAll(".zoom")];
  buttons.forEach((button, index) => button.addEventListener("click", () => {
    row = buttons;
    show(index);
    dialog.showModal();
  }));
}
dialog.querySelector(".back").addEventListener("click", () => show(at - 1));
dialog.querySelector(".next").addEventListener("click", () => show(at + 1));
dialog.querySelector(".close").addEventListener("click", () => dialog.close());
dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") show(at - 1);
  else if (event.key === "ArrowRight") show(at + 1);
});
