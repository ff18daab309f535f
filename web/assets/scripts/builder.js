// The rule builder: a tree of conditions over the same JSON that the text field beside it holds.
const host = document.querySelector("#builder");
const options = host && JSON.parse(document.getElementById(host.dataset.options).textContent);
const target = host && document.querySelector(`[name="${host.dataset.target}"]`);
const words = options?.words;
let rule;

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "on") for (const [name, handler] of Object.entries(value)) element.addEventListener(name, handler);
    else if (key.startsWith("aria") || key === "list") element.setAttribute(key.replace("aria", "aria-").toLowerCase(), value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

const button = (text, handler, extra = "") =>
  make("button", { type: "button", className: `btn btn-s ${extra}`, textContent: text, on: { click: handler } });

function choice(label, pairs, value, handler) {
  const select = make("select", { className: "form-select", ariaLabel: label, on: { change: () => handler(select.value) } });
  for (const [key, title] of pairs) select.append(make("option", { value: key, textContent: title, selected: key === value }));
  if (!pairs.some(([key]) => key === value)) select.prepend(make("option", { value: value ?? "", textContent: value ?? "…", selected: true }));
  return select;
}

function input(label, value, handler, type = "text", placeholder = "") {
  const field = make("input", { className: "form-control", type, ariaLabel: label, placeholder, value: value ?? "" });
  if (type === "number") field.step = "any";
  field.addEventListener("input", () => handler(field.value));
  return field;
}

// --- state -----------------------------------------------------------------

function changed(redraw = true) {
  target.value = JSON.stringify(rule, null, 2);
  target.dispatchEvent(new Event("input", { bubbles: true }));
  if (redraw) draw();
  document.querySelector("#recount")?.dispatchEvent(new Event("rulechange"));
}

const isGroup = (node) => node && (Array.isArray(node.all) || Array.isArray(node.any));
const fieldOf = (name) => options.fields.find((field) => field.name === name);
const eventOf = (name) => options.events.find((event) => event.name === name);
const number = (text) => (text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : text);

function typed(text, type) {
  if (type === "number") return number(text);
  if (type === "flag") return text === "true";
  return type ? text : number(text);
}

function defaultValue(op, type) {
  if (op === "is_set" || op === "is_not_set") return undefined;
  if (["in_last", "in_next", "anniversary_in"].includes(op)) return "30d";
  const one = type === "number" ? 1 : type === "flag" ? true : type === "date" ? new Date().toISOString().slice(0, 10) : "";
  if (op === "between") return [one, one];
  if (["in", "not_in", "matches_any"].includes(op)) return [];
  return one;
}

// --- drawing ---------------------------------------------------------------

function draw() {
  host.replaceChildren(drawNode(rule, (next) => { rule = next; }, null));
}

// `put` writes a node back into its parent; `drop` takes it out (null: it is the root).
function drawNode(node, put, drop, negated = false) {
  if (node && "not" in node && Object.keys(node).length === 1) {
    return drawNode(node.not, (next) => { node.not = next; }, drop, { off: () => { put(node.not); changed(); } });
  }
  const not = {
    on: Boolean(negated),
    flip: negated ? negated.off : () => { put({ not: node }); changed(); },
  };
  const element = isGroup(node) ? drawGroup(node, put, drop, not) : drawLeaf(node, drop, not);
  element.classList.toggle("negated", not.on);
  return element;
}

function notSwitch(not) {
  const box = button(words.not, not.flip, not.on ? "btn-bad" : "btn-quiet");
  box.setAttribute("aria-pressed", String(not.on));
  return box;
}

function drawGroup(node, put, drop, not) {
  const key = node.all ? "all" : "any";
  const children = node[key];
  const kind = choice(words.all, [["all", words.all], ["any", words.any]], key, (next) => { put({ [next]: children }); changed(); });
  const head = make("div", { className: "toolbar" }, kind, notSwitch(not));
  if (drop) head.append(make("span", { className: "grow" }), button(words.remove, drop, "btn-quiet"));
  const group = make("div", { className: "group" }, head);
  children.forEach((child, index) => {
    group.append(drawNode(child, (next) => { children[index] = next; }, () => { children.splice(index, 1); changed(); }));
  });
  const add = (next) => { children.push(next); changed(); };
  const first = options.fields[0];
  group.append(make("div", { className: "toolbar" },
    button(`+ ${words.addField}`, () => add({ field: first.name, op: first.choices.length ? "in" : "=", value: [] })),
    button(`+ ${words.addEvent}`, () => add({ event: options.events[0].name, aggregate: "count", op: ">=", value: 1, within: { last: "90d" } })),
    options.segments.length ? button(`+ ${words.addSegment}`, () => add({ segment: options.segments[0][0] })) : null,
    button(`+ ${words.addGroup}`, () => add({ any: [] })),
  ));
  return group;
}

function drawLeaf(node, drop, not) {
  const leaf = make("div", { className: "leaf" }, notSwitch(not));
  if (node && "field" in node) drawField(leaf, node);
  else if (node && "event" in node) drawEvent(leaf, node);
  else if (node && "segment" in node) {
    leaf.append(make("span", { textContent: words.addSegment }),
      choice(words.segment, options.segments, node.segment, (next) => { node.segment = next; changed(); }));
  } else leaf.append(make("code", { textContent: JSON.stringify(node) }));
  if (drop) leaf.append(make("span", { className: "end" }, button(words.remove, drop, "btn-quiet")));
  return leaf;
}

function drawField(leaf, node) {
  const attribute = node.field.startsWith("attributes.");
  const field = fieldOf(node.field);
  const pairs = options.fields.map((one) => [one.name, one.title]).concat([["attributes.", words.attribute]]);
  leaf.append(choice(words.field, pairs, attribute ? "attributes." : node.field, (next) => {
    const found = fieldOf(next);
    node.field = next;
    node.op = found?.choices.length ? "in" : found ? options.operators[found.type][0] : "=";
    node.value = defaultValue(node.op, found?.type);
    changed();
  }));
  if (attribute) {
    leaf.append(input(words.attributeName, node.field.slice(11), (text) => { node.field = `attributes.${text}`; changed(false); }));
  }
  drawCompare(leaf, node, field?.type, attribute ? options.attributeOperators : options.operators[field?.type] ?? [], field?.choices ?? []);
}

function drawCompare(place, node, type, operators, choices = []) {
  place.append(choice(words.operator, operators, node.op, (next) => {
    const list = (op) => ["in", "not_in", "matches_any"].includes(op);
    if (list(next) && list(node.op)) node.op = next;
    else {
      const before = node.value;
      node.op = next;
      node.value = defaultValue(next, type);
      if (before !== undefined && typeof before === typeof node.value && !Array.isArray(before) && !Array.isArray(node.value)) node.value = before;
      if (node.value === undefined) delete node.value;
    }
    changed();
  }));
  drawValue(place, node, type, choices);
}

function drawValue(place, node, type, choices) {
  const kind = type === "number" ? "number" : type === "date" ? "date" : "text";
  if (["is_set", "is_not_set"].includes(node.op)) return;
  if (["in_last", "in_next", "anniversary_in"].includes(node.op)) {
    place.append(input(words.value, parseInt(node.value, 10), (text) => { node.value = `${text}d`; changed(false); }, "number"), words.days);
    return;
  }
  if (node.op === "between") {
    [0, 1].forEach((side) => {
      if (side) place.append(words.and);
      place.append(input(words.value, node.value?.[side], (text) => { node.value[side] = typed(text, type); changed(false); }, kind));
    });
    return;
  }
  if (["in", "not_in", "matches_any"].includes(node.op)) {
    if (choices.length) place.append(manyOf(node, choices));
    else {
      const text = (node.value ?? []).join(", ");
      place.append(input(words.value, text, (next) => {
        node.value = next.split(/[,，]/).map((part) => part.trim()).filter(Boolean).map((part) => typed(part, type));
        changed(false);
      }, "text", words.values));
    }
    return;
  }
  if (type === "flag") {
    place.append(choice(words.value, [["true", words.yes], ["false", words.no]], String(node.value), (next) => { node.value = next === "true"; changed(); }));
  } else if (choices.length) {
    place.append(choice(words.value, choices, node.value, (next) => { node.value = next; changed(); }));
  } else place.append(input(words.value, node.value, (text) => { node.value = typed(text, type); changed(false); }, kind));
}

function manyOf(node, choices) {
  const box = make("span", { className: "toolbar" });
  for (const [key, title] of choices) {
    const on = (node.value ?? []).includes(key);
    const one = button(title, () => {
      node.value = on ? node.value.filter((value) => value !== key) : [...(node.value ?? []), key];
      changed();
    }, on ? "btn-main" : "");
    one.setAttribute("aria-pressed", String(on));
    box.append(one);
  }
  return box;
}

function drawEvent(leaf, node) {
  const event = eventOf(node.event);
  leaf.append(choice(words.event, options.events.map((one) => [one.name, one.title]), node.event, (next) => {
    node.event = next;
    delete node.where;
    delete node.of;
    node.aggregate = "count";
    changed();
  }));
  leaf.append(choice(words.aggregate, options.aggregates, node.aggregate ?? "count", (next) => {
    node.aggregate = next;
    delete node.of;
    if (!["count", "days_since"].includes(next)) {
      node.of = (event?.properties ?? []).find((one) => next === "distinct" || one.type === "number")?.name ?? "";
    }
    changed();
  }));
  if (node.of !== undefined) leaf.append(propertyChoice(event, node.of, (next, redraw) => { node.of = next; changed(redraw); }));
  drawCompare(leaf, node, "number", options.operators.number.filter(([op]) => !op.startsWith("is_")));
  drawWindow(leaf, node);
  (node.where ?? []).forEach((where, index) => {
    const type = event?.properties ? event.properties.find((one) => one.name === where.field)?.type : undefined;
    const row = make("span", { className: "where" }, words.where,
      propertyChoice(event, where.field, (next, redraw) => {
        where.field = next;
        if (redraw) { where.op = "="; where.value = ""; }
        changed(redraw);
      }));
    drawCompare(row, where, type, type ? options.operators[type] : options.attributeOperators);
    row.append(button(words.remove, () => { node.where.splice(index, 1); if (!node.where.length) delete node.where; changed(); }, "btn-quiet"));
    leaf.append(row);
  });
  leaf.append(button(words.addWhere, () => {
    const first = event?.properties?.[0];
    (node.where ??= []).push({ field: first?.name ?? "", op: "=", value: first?.type === "number" ? 0 : "" });
    changed();
  }, "btn-quiet"));
}

function propertyChoice(event, name, handler) {
  if (event?.properties) return choice(words.property, event.properties.map((one) => [one.name, one.title]), name, (next) => handler(next, true));
  return input(words.property, name, (text) => handler(text, false));
}

function drawWindow(leaf, node) {
  const kind = node.within ? Object.keys(node.within)[0] : "ever";
  const today = new Date().toISOString().slice(0, 10);
  const kinds = [["ever", words.ever], ["last", words.last], ["before", words.before], ["between", words.between]];
  leaf.append(choice(words.window, kinds, kind, (next) => {
    if (next === "ever") delete node.within;
    else node.within = { [next]: { last: "90d", before: today, between: [today.slice(0, 4) + "-01-01", today] }[next] };
    changed();
  }));
  if (kind === "last") {
    leaf.append(input(words.value, parseInt(node.within.last, 10), (text) => { node.within.last = `${text}d`; changed(false); }, "number"), words.days);
  } else if (kind === "before") leaf.append(input(words.value, node.within.before, (text) => { node.within.before = text; changed(false); }, "date"));
  else if (kind === "between") {
    [0, 1].forEach((side) => leaf.append(input(words.value, node.within.between[side], (text) => { node.within.between[side] = text; changed(false); }, "date")));
  }
}

// --- start -----------------------------------------------------------------

function load() {
  try {
    const parsed = JSON.parse(target.value);
    rule = isGroup(parsed) || "not" in parsed ? parsed : { all: [parsed] };
    draw();
  } catch {
    host.replaceChildren(make("p", { className: "muted", textContent: words.badJson }));
  }
}

if (host && target) {
  load();
  target.addEventListener("change", () => { load(); document.querySelector("#recount")?.dispatchEvent(new Event("rulechange")); });
}
