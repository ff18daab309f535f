// Small manners of every page: search key, menu, guarded forms, typed confirmations, repeated rows.
import htmx from "htmx.org";

htmx.config.allowEval = false;
htmx.config.includeIndicatorStyles = false;
htmx.config.selfRequestsOnly = true;
htmx.config.historyCacheSize = 0;
window.htmx = htmx;

const token = document.querySelector("meta[name=csrf-token]")?.content;
document.addEventListener("htmx:configRequest", (event) => {
  if (token) event.detail.headers["X-CSRFToken"] = token;
});

const typing = (element) =>
  element instanceof HTMLElement && (element.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(element.tagName));

document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !typing(event.target) && !event.ctrlKey && !event.metaKey && !event.altKey) {
    const search = document.querySelector("#search");
    if (search) {
      event.preventDefault();
      search.focus();
      search.select();
    }
  }
  if (event.key === "Escape") closeMenus();
});

function closeMenus(except) {
  for (const menu of document.querySelectorAll("details.menu[open]")) if (menu !== except) menu.open = false;
  document.body.classList.remove("rail-open");
  document.querySelector("#rail-toggle")?.setAttribute("aria-expanded", "false");
}

document.addEventListener("click", (event) => {
  const target = event.target instanceof Element ? event.target : null;
  if (!target) return;
  if (target.closest("#rail-toggle")) {
    const open = document.body.classList.toggle("rail-open");
    document.querySelector("#rail-toggle").setAttribute("aria-expanded", String(open));
    return;
  }
  if (!target.closest("#rail")) closeMenus(target.closest("details.menu"));

  const copy = target.closest("[data-copy]");
  if (copy) {
    navigator.clipboard?.writeText(document.querySelector(copy.dataset.copy)?.textContent.trim() ?? "");
    copy.classList.add("is-done");
  }
  const opener = target.closest("[data-dialog]");
  if (opener) document.querySelector(opener.dataset.dialog)?.showModal();
  if (target.closest("[data-close]")) target.closest("dialog")?.close();
  const add = target.closest("[data-add-row]");
  if (add) addRow(document.querySelector(add.dataset.addRow));
  const remove = target.closest("[data-remove-row]");
  if (remove) {
    const row = remove.closest("[data-row]");
    const form = row.closest("form");
    row.remove();
    form?.dispatchEvent(new Event("input", { bubbles: true }));
  }
});

// A form in a dialog that came back with a mistake is in sight again.
for (const dialog of document.querySelectorAll("dialog[data-open]")) dialog.showModal();

// A repeated row is a <template> beside its list; __i__ in names becomes the next free number.
function addRow(list) {
  const template = list?.parentElement.querySelector("template");
  if (!template) return;
  const next = Number(list.dataset.next || list.querySelectorAll("[data-row]").length);
  list.dataset.next = String(next + 1);
  list.insertAdjacentHTML("beforeend", template.innerHTML.replaceAll("__i__", String(next)));
  list.lastElementChild?.querySelector("input,select")?.focus();
}

// Leaving with changes asks first; sending the form does not.
let dirty = false;
document.addEventListener("input", (event) => {
  if (event.target instanceof Element && event.target.closest("form[data-guard]")) dirty = true;
});
document.addEventListener("submit", (event) => {
  if (!event.submitter?.formTarget) dirty = false;
  // A second click must not send twice; the button keeps its value because it is disabled after this tick.
  const button = event.submitter;
  if (button && event.target.method === "post" && !button.formTarget) setTimeout(() => (button.disabled = true));
});
window.addEventListener("pageshow", () => {
  for (const button of document.querySelectorAll("button[type=submit]:disabled:not([data-locked])")) button.disabled = false;
});
window.addEventListener("beforeunload", (event) => {
  if (dirty) event.preventDefault();
});

// The button of a typed confirmation wakes when the word is right.
function watchConfirm(input) {
  const button = input.closest("form")?.querySelector("[data-locked]");
  if (button) button.disabled = input.value.trim() !== input.dataset.confirmWord;
}
document.addEventListener("input", (event) => {
  if (event.target instanceof HTMLInputElement && event.target.dataset.confirmWord) watchConfirm(event.target);
});
document.querySelectorAll("[data-confirm-word]").forEach(watchConfirm);

// A choice that shows and hides parts of its form: data-shows="value" inside data-switch="field".
function applySwitches(root = document) {
  for (const box of root.querySelectorAll("[data-switch]")) {
    const scope = box.closest("[data-row]") || box.closest("form") || document;
    const field =
      scope.querySelector(`[name="${box.dataset.switch}"]:checked`) ||
      scope.querySelector(`select[name="${box.dataset.switch}"]`);
    box.hidden = !field || !box.dataset.shows.split(" ").includes(field.value);
  }
}
document.addEventListener("change", () => applySwitches());
document.addEventListener("htmx:afterSwap", () => applySwitches());
applySwitches();
