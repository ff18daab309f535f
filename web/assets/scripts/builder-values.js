// Inputs for values: texts with suggestions from the data, chips for several, spans, money, dates.
import { choice, entry, freshId, icon, make, place, said } from "./builder-dom.js";
import { MANY, NEAR, PRESENCE, below, changeOperator, operatorsOf, spanOf, state, typed } from "./builder-model.js";

const WAIT_MS = 180;
const known = new Map();

// Suggestions are asked for once typing rests; an answer that is not wanted any more is dropped.
async function ask(query, signal) {
  const address = `${state.options.suggest}?${new URLSearchParams(query)}`;
  if (!known.has(address)) {
    const answer = await fetch(address, { signal, headers: { Accept: "application/json" }, credentials: "same-origin" });
    if (!answer.ok || answer.redirected) return [];
    known.set(address, (await answer.json()).values);
  }
  return known.get(address);
}

// A text field with a list below it. `source` is {query} for the data's values or {choices} for given ones.
function combobox({ label, value = "", at, path, source, onText, onPick, onKey }) {
  const words = state.words;
  const id = freshId("list");
  const list = make("ul", { className: "combo-list", id, role: "listbox", "aria-label": words.suggestions, hidden: true });
  const field = make("input", {
    className: "form-control", type: "text", value, autocomplete: "off", role: "combobox", placeholder: source ? words.typeValue : "",
    "aria-label": label, "aria-expanded": "false", "aria-autocomplete": "list", "aria-controls": id, data: place(at, path),
  });
  let current = -1;
  let timer;
  let running;
  const close = () => {
    clearTimeout(timer);
    running?.abort();
    list.hidden = true;
    current = -1;
    field.setAttribute("aria-expanded", "false");
    field.removeAttribute("aria-activedescendant");
  };
  const pick = (entry) => {
    onPick(entry.value, field);
    close();
  };
  const mark = (next) => {
    const items = [...list.querySelectorAll("[role=option]")];
    if (!items.length) return;
    current = (next + items.length) % items.length;
    items.forEach((item, index) => item.setAttribute("aria-selected", String(index === current)));
    items[current].scrollIntoView({ block: "nearest" });
    field.setAttribute("aria-activedescendant", items[current].id);
  };
  const show = (entries) => {
    const items = entries.map((entry) => make("li", {
      role: "option", id: freshId("option"), "aria-selected": "false",
      on: { pointerdown: (event) => event.preventDefault(), click: () => pick(entry) },
    }, make("span", { className: "grow", textContent: entry.title ?? entry.value }), make("span", { className: "muted small", textContent: entry.shown ?? "" })));
    list.replaceChildren(...(items.length ? items : [make("li", { className: "muted small", role: "presentation", textContent: words.noSuggestions })]));
    list.hidden = !items.length && !field.value;
    current = -1;
    field.setAttribute("aria-expanded", String(!list.hidden));
  };
  const open = () => {
    if (!source) return;
    clearTimeout(timer);
    timer = setTimeout(async () => {
      running?.abort();
      running = new AbortController();
      try {
        const found = await source(field.value.trim(), running.signal);
        if (document.activeElement === field) show(found);
      } catch (error) {
        if (error.name !== "AbortError") list.hidden = true;
      }
    }, WAIT_MS);
  };
  field.addEventListener("input", () => { onText?.(field.value); open(); });
  field.addEventListener("click", open);
  field.addEventListener("blur", close);
  field.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) open();
      else mark(current + (event.key === "ArrowDown" ? 1 : -1));
    } else if (event.key === "Enter") {
      event.preventDefault(); // it must not send the form
      if (!list.hidden && current >= 0) list.querySelectorAll("[role=option]")[current].click();
      else onKey?.(event, field);
    } else if (event.key === "Escape" && !list.hidden) {
      event.stopPropagation();
      close();
    } else onKey?.(event, field);
  });
  return { box: make("span", { className: "combo" }, field, list), field, reopen: open };
}

const fromData = (query) => (query ? (text, signal) => ask({ ...query, q: text }, signal) : undefined);

// Given choices, filtered by what is typed, with how many members have each where the data tells.
function fromChoices(choices, query, taken = () => []) {
  return async (text, signal) => {
    const counts = query ? await ask({ ...query, q: "", limit: 100 }, signal).catch(() => []) : [];
    const shown = new Map(counts.map((one) => [one.value, one.shown]));
    return choices
      .filter(([value, title]) => !taken().includes(value) && `${title} ${value}`.toLowerCase().includes(text.toLowerCase()))
      .map(([value, title]) => ({ value, title, shown: shown.get(value) ?? "" }));
  };
}

// The name of an attribute, a property or an event of the shop's own.
export function nameInput(label, value, query, handler, { at, path }) {
  return combobox({
    label, value, at, path, source: fromData(query), onText: handler,
    onPick: (picked, field) => { field.value = picked; handler(picked); },
  }).box;
}

function chips(node, type, { choices, query, at, path }) {
  const words = state.words;
  const title = (value) => choices.find(([key]) => key === value)?.[1] ?? String(value);
  const values = () => (Array.isArray(node.value) ? node.value : node.value === undefined ? [] : [node.value]);
  const box = make("div", { className: "chips", data: { path } });
  const write = (next) => {
    node.value = next;
    draw();
    state.changed({ redraw: false });
  };
  const add = (texts) => {
    const fresh = texts.map((text) => text.trim()).filter(Boolean).map((text) => (choices.length ? text : typed(text, type)));
    let next = [...new Set([...values(), ...fresh])];
    // Of an attribute the values are either all numbers or all texts.
    if (!type && next.some((one) => typeof one === "string")) next = [...new Set(next.map(String))];
    if (next.length !== values().length) write(next);
  };
  const finish = (field) => {
    if (!field.value.trim() || choices.length) return;
    const text = field.value;
    field.value = "";
    add(text.split(/[,，;；\n\t]/));
  };
  const input = combobox({
    label: words.addValue, at,
    source: choices.length ? fromChoices(choices, query, values) : fromData(query),
    onText: (text) => { if (/[,，;；\n\t]/.test(text)) finish(input.field); },
    onPick: (value, field) => { field.value = ""; add([String(value)]); setTimeout(input.reopen); },
    onKey: (event, field) => {
      if (event.key === "Enter") finish(field);
      else if (event.key === "Backspace" && !field.value && values().length) write(values().slice(0, -1));
    },
  });
  input.field.addEventListener("blur", () => finish(input.field));
  function draw() {
    for (const chip of box.querySelectorAll(".chip")) chip.remove();
    input.box.before(...values().map((value, index) => make("span", { className: "chip" }, title(value),
      make("button", {
        type: "button", "aria-label": words.removeValue.replace("{value}", title(value)),
        on: { click: () => { write(values().filter((_, place) => place !== index)); input.field.focus(); } },
      }, icon("x")))));
    input.field.placeholder = values().length ? "" : words.typeValue;
  }
  box.append(input.box);
  box.addEventListener("click", (event) => { if (event.target === box) input.field.focus(); });
  draw();
  return box;
}

// A span like 30d: a number and its unit. What is no span yet stays as it was typed.
export function span(label, value, handler, { at, path, units = "dh" }) {
  const words = state.words;
  const found = spanOf(value);
  let amount = found ? found[1] : String(value ?? "").replace(/[dh]$/, "");
  let unit = found?.[2] ?? "d";
  const write = () => handler(`${amount.trim()}${unit}`);
  const field = entry(label, amount, (text) => { amount = text; write(); }, { at, path, kind: "span" });
  if (units === "d") return make("span", { className: "joined-inline" }, field, said(words.days));
  const pick = choice(words.unit, [["d", words.days], ["h", words.hours]], unit, (next) => { unit = next; write(); }, { at: `${at}-unit` });
  return make("span", { className: "joined-inline" }, field, pick);
}

const quietly = (node, key, at) => (next) => { node[key] = next; state.changed({ redraw: false, at }); };

// The operator and the value of a condition. `about`: type, choices, money, query (of suggestions).
export function comparison(node, about, { id, path, operators = operatorsOf(about.type) }) {
  const words = state.words;
  const pick = choice(words.operator, operators, node.op, (next) => {
    changeOperator(node, next, about.type);
    state.changed();
  }, { at: `${id}:op`, path: below(path, "op") });
  return [pick, ...values(node, about, { at: `${id}:value`, path: below(path, "value") })];
}

function values(node, about, { at, path }) {
  const words = state.words;
  if (PRESENCE.includes(node.op)) return [];
  if (NEAR.includes(node.op)) return [span(words.value, node.value, quietly(node, "value"), { at, path, units: "d" })];
  if (MANY.includes(node.op)) return [chips(node, about.type, { choices: about.choices ?? [], query: about.query, at, path })];
  if (node.op === "between") {
    const pair = Array.isArray(node.value) ? node.value : [node.value ?? "", ""];
    node.value = pair;
    return [0, 1].flatMap((side) => {
      const one = scalar(pair[side], (next) => { pair[side] = next; state.changed({ redraw: false }); }, { ...about, choices: [] },
        { at: `${at}${side}`, path: `${path}[${side}]`, label: side ? words.to : words.from });
      return side ? [said(words.upTo), one] : [one];
    });
  }
  const bare = ["contains", "starts_with"].includes(node.op);
  const free = bare || [">", ">=", "<", "<="].includes(node.op);
  const rest = free ? { ...about, choices: [], query: undefined, type: bare ? "text" : about.type } : about;
  return [scalar(node.value, quietly(node, "value"), rest, { at, path, label: words.value })];
}

function scalar(value, handler, about, { at, path, label }) {
  const words = state.words;
  if (about.type === "flag") {
    return choice(label, [["true", words.yes], ["false", words.no]], String(value), (next) => { handler(next === "true"); }, { at, path });
  }
  if (about.choices?.length) return choice(label, about.choices, value, handler, { at, path });
  const shown = value === undefined ? "" : String(value);
  if (about.type === "number" || about.type === "date") {
    return entry(label, shown, (text) => handler(typed(text, about.type)), { at, path, kind: about.type, before: about.money ? state.options.currency : undefined });
  }
  return combobox({
    label, value: shown, at, path, source: fromData(about.query), onText: (text) => handler(typed(text, about.type)),
    onPick: (picked, field) => { field.value = picked; handler(typed(String(picked), about.type)); },
  }).box;
}
