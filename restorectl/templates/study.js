"use strict";
const study = JSON.parse(document.getElementById("data").textContent);
const total = study.tasks.length;
const store = `restorectl-preference-${study.study}-${study.page}`; // holds the answers of every rater in this browser
const $ = (id) => document.getElementById(id);
const state = { rater: "", at: 0, answers: {} };
let keeps = true;

function stored() {
  try {
    return JSON.parse(localStorage.getItem(store)) ?? { last: "", raters: {} };
  } catch {
    keeps = false; // some browsers store nothing for local files
    return { last: "", raters: {} };
  }
}

function save() {
  const all = stored();
  if (!keeps) return;
  try {
    all.last = state.rater;
    all.raters[`rater ${state.rater}`] = { at: state.at, answers: state.answers };
    localStorage.setItem(store, JSON.stringify(all));
  } catch {
    keeps = false;
    say("This browser does not keep answers: export them before you close the page.");
  }
}

function say(text) {
  $("message").textContent = text;
}

function complete(answer) {
  return Boolean(answer && answer.better && answer.hallucination);
}

function answered() {
  return study.tasks.filter((_, i) => complete(state.answers[i])).length;
}

function progress() {
  const done = answered();
  $("bar").max = total;
  $("bar").value = done;
  $("count").textContent = `${done} of ${total} answered`;
  $("export").disabled = done === 0 || !state.rater;
}

function view(name) {
  for (const each of ["start", "task", "end"]) $(each).hidden = each !== name;
}

function zoom(on, event) {
  const panels = document.querySelector(".panels");
  panels.classList.toggle("zoomed", on);
  $("zoom").setAttribute("aria-pressed", String(on));
  if (event) follow(event);
}

function follow(event) {
  const box = event.currentTarget.getBoundingClientRect();
  const panels = document.querySelector(".panels");
  panels.style.setProperty("--x", `${(100 * (event.clientX - box.left)) / box.width}%`);
  panels.style.setProperty("--y", `${(100 * (event.clientY - box.top)) / box.height}%`);
}

function zoomed() {
  return document.querySelector(".panels").classList.contains("zoomed");
}

function showTask(at) {
  state.at = Math.min(Math.max(at, 0), total - 1);
  const task = study.tasks[state.at];
  for (const side of ["input", "A", "B"]) $(`picture-${side}`).src = study.pictures[task[side]];
  $("note").textContent = `Task ${state.at + 1} of ${total}${task.note ? ` · ${task.note}` : ""}`;
  const answer = state.answers[state.at] ?? {};
  for (const input of document.querySelectorAll("fieldset input")) {
    input.checked = answer[input.name] === input.value;
  }
  $("back").disabled = state.at === 0;
  zoom(false);
  say("");
  view("task");
  progress();
  save();
}

function answer(name, value) {
  state.answers[state.at] = { ...state.answers[state.at], [name]: value };
  for (const input of document.querySelectorAll(`input[name="${name}"]`)) {
    input.checked = input.value === value;
  }
  say("");
  progress();
  save();
}

function next() {
  if (!complete(state.answers[state.at])) {
    say("Answer both questions first.");
    return;
  }
  if (state.at + 1 < total) {
    showTask(state.at + 1);
    return;
  }
  const open = study.tasks.findIndex((_, i) => !complete(state.answers[i]));
  if (open < 0) finish();
  else showTask(open);
}

function finish() {
  $("done").textContent = `All ${total} tasks are answered, ${state.rater}. Export the answers as a file.`;
  view("end");
  progress();
  $("export-end").focus();
}

function exported() {
  const given = Object.entries(state.answers).filter(([, each]) => complete(each));
  const answers = Object.fromEntries(given.map(([i, each]) => [study.numbers[i], each]));
  const { tool, version, kind, key } = study;
  return { tool, version, kind, study: study.study, rater: state.rater, tasks: total, key, answers };
}

function download() {
  const content = `${JSON.stringify(exported(), null, 1)}\n`;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type: "application/json" }));
  const rater = state.rater.replace(/[^\p{L}\p{N}_-]+/gu, "_");
  link.download = `preference-${study.study}-${rater}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  say(`Saved ${link.download}: ${answered()} of ${total} tasks.`);
}

$("who").addEventListener("submit", (event) => {
  event.preventDefault();
  state.rater = $("rater").value.trim();
  if (!state.rater) return;
  Object.assign(state, stored().raters[`rater ${state.rater}`]);
  document.activeElement.blur();
  showTask(state.at);
});
for (const input of document.querySelectorAll("fieldset input")) {
  input.addEventListener("change", () => answer(input.name, input.value));
}
for (const label of document.querySelectorAll("fieldset label")) {
  // After a click the arrow keys change the task; on a choice reached by Tab they change the choice
  label.addEventListener("click", () => setTimeout(() => label.querySelector("input").blur()));
}
for (const frame of document.querySelectorAll(".frame")) {
  frame.addEventListener("click", (event) => zoom(!zoomed(), event));
  frame.addEventListener("mousemove", (event) => zoomed() && follow(event));
}
$("back").addEventListener("click", () => showTask(state.at - 1));
$("next").addEventListener("click", next);
$("zoom").addEventListener("click", () => zoom(!zoomed()));
$("review").addEventListener("click", () => showTask(state.at));
$("export").addEventListener("click", download);
$("export-end").addEventListener("click", download);

const KEYS = {
  1: () => answer("better", "A"),
  2: () => answer("better", "B"),
  0: () => answer("better", "none"),
  3: () => answer("hallucination", "neither"),
  4: () => answer("hallucination", "A"),
  5: () => answer("hallucination", "B"),
  6: () => answer("hallucination", "both"),
  z: () => zoom(!zoomed()),
  ArrowLeft: () => state.at > 0 && showTask(state.at - 1),
  ArrowRight: next,
  Enter: next,
};
document.addEventListener("keydown", (event) => {
  const chosen = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if ($("task").hidden || !chosen || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key.startsWith("Arrow") && event.target instanceof HTMLInputElement) return;
  // A focused button answers Enter itself
  if (event.key === "Enter" && event.target instanceof HTMLButtonElement) return;
  event.preventDefault();
  chosen();
});

for (const note of study.notes) {
  const item = document.createElement("li");
  item.textContent = note;
  $("notes").append(item);
}
$("rater").value = stored().last;
progress();
$("rater").focus();
