// The template editor: the message beside the text, errors beside their fields, a member to preview as.
const form = document.querySelector("#template-form");
const stage = document.querySelector("#stage");
const WAIT_MS = 600;
let timer = null;
let shownFrame = null;

const look = () => form.querySelector("[name=look]:checked")?.value ?? "desktop";

// A fresh frame for each answer: its first page replaces the blank one, so that “Back” still leaves the
// editor; the old one stays until the new one is there, so that nothing flickers.
function drawFrame() {
  const name = `draft-${Date.now()}`;
  const frame = document.createElement("iframe");
  frame.name = name;
  frame.title = stage.dataset.title;
  frame.setAttribute("sandbox", "");
  frame.className = "is-coming";
  stage.append(frame);
  const copy = document.createElement("form");
  copy.method = "post";
  copy.action = stage.dataset.action;
  copy.target = name;
  copy.hidden = true;
  for (const [key, value] of new FormData(form)) {
    const field = document.createElement("textarea");
    field.name = key;
    field.value = value;
    copy.append(field);
  }
  document.body.append(copy);
  frame.addEventListener("load", () => {
    if (!frame.isConnected) return;
    shownFrame?.remove();
    shownFrame = frame;
    frame.className = "";
  });
  HTMLFormElement.prototype.submit.call(copy);
  copy.remove();
}

function show() {
  if (!stage) return;
  stage.dataset.look = look();
  for (const old of stage.querySelectorAll("iframe.is-coming")) old.remove();
  drawFrame();
}

function later() {
  clearTimeout(timer);
  timer = setTimeout(show, WAIT_MS);
}

// Errors of the last answer stand beside their fields; the answer names them by the field's id.
function placeErrors() {
  for (const old of form.querySelectorAll(".error[data-live]")) old.remove();
  for (const field of form.querySelectorAll(".is-invalid[data-live]")) {
    field.classList.remove("is-invalid");
    field.removeAttribute("aria-invalid");
    field.removeAttribute("data-live");
  }
  const told = document.querySelector("#live-errors");
  for (const item of told?.querySelectorAll("[data-field]") ?? []) {
    const field = document.getElementById(item.dataset.field);
    if (!field || field.classList.contains("is-invalid")) continue;
    field.classList.add("is-invalid");
    field.setAttribute("aria-invalid", "true");
    field.setAttribute("data-live", "");
    const error = document.createElement("span");
    error.className = "error";
    error.setAttribute("data-live", "");
    error.textContent = item.textContent;
    field.closest(".field").append(error);
  }
}

function pickMember(button) {
  form.querySelector("[name=member]").value = button.dataset.member;
  document.querySelector("#member-name").textContent = button.dataset.name;
  document.querySelector("#member-found").replaceChildren();
  document.querySelector("#member-search").value = "";
  form.dispatchEvent(new Event("refresh"));
  show();
}

if (form) {
  form.addEventListener("input", (event) => {
    if (event.target.name === "look") show();
    else if (event.target.id !== "member-search") later();
  });
  form.addEventListener("change", (event) => {
    if (event.target.name === "preview") show();
  });
  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.target.id === "live") placeErrors();
  });
  document.addEventListener("click", (event) => {
    const button = event.target instanceof Element ? event.target.closest("[data-member]") : null;
    if (button) pickMember(button);
  });
  document.querySelector("#member-search")?.addEventListener("keydown", (event) => {
    if (event.key === "Enter") event.preventDefault();
  });
  show();
}
