// Elements of the rule builder: made in one call, every control with a label, a place and a path.
const SVG = "http://www.w3.org/2000/svg";
let sprite = "";
let numbers = 0;

export function useIcons(address) {
  sprite = address;
}

export const freshId = (stem) => `${stem}-${(numbers += 1)}`;

// Keys with a dash, and role, are attributes; "on" holds listeners, "data" the data-… values.
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key === "on") for (const [name, handler] of Object.entries(value)) element.addEventListener(name, handler);
    else if (key === "data") Object.assign(element.dataset, value);
    else if (key.includes("-") || key === "role") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon icon-s");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `${sprite}#${name}`);
  svg.append(use);
  return svg;
}

export const button = (text, handler, { at, extra = "", mark } = {}) =>
  make("button", { type: "button", className: `btn btn-s ${extra}`, data: at ? { at } : {}, on: { click: handler } }, mark ? icon(mark) : null, text);

export const iconButton = (mark, label, handler, { at, disabled = false } = {}) =>
  make("button", { type: "button", className: "act", title: label, "aria-label": label, disabled, data: at ? { at } : {}, on: { click: handler } }, icon(mark));

// `pairs` are [value, title], or {label, pairs} for a heading. A value that is not offered is shown all the same.
export function choice(label, pairs, value, handler, { at, path } = {}) {
  const select = make("select", { className: "form-select", "aria-label": label, data: place(at, path), on: { change: () => handler(select.value) } });
  const option = ([key, title]) => make("option", { value: key, textContent: title, selected: key === value });
  let offered = false;
  for (const entry of pairs) {
    const inner = entry.pairs ?? [entry];
    offered ||= inner.some(([key]) => key === value);
    if (entry.pairs) select.append(make("optgroup", { label: entry.label }, ...inner.map(option)));
    else select.append(option(entry));
  }
  if (!offered) select.prepend(make("option", { value: value ?? "", textContent: value || "…", selected: true }));
  return select;
}

export function place(at, path) {
  const data = {};
  if (at) data.at = at;
  if (path !== undefined) data.path = path;
  return data;
}

// A text field. Numbers are texts too: what was typed must never vanish because it is no number.
export function entry(label, value, handler, { at, path, kind = "text", placeholder = "", before, after } = {}) {
  const dated = kind === "date" && (!value || /^\d{4}-\d{2}-\d{2}$/.test(value));
  const field = make("input", {
    className: `form-control of-${kind}`, type: dated ? "date" : "text", "aria-label": label, placeholder, value: value ?? "", autocomplete: "off",
    data: place(at, path), on: { input: () => handler(field.value) },
  });
  if (kind === "number" || kind === "span") field.inputMode = kind === "span" ? "numeric" : "decimal";
  if (!before && !after) return field;
  return make("span", { className: "affixed" }, before ? make("span", { className: "affix", textContent: before }) : null, field,
    after ? make("span", { className: "affix", textContent: after }) : null);
}

export const said = (text) => make("span", { className: "said", textContent: text });

// Where JSON breaks off: the offset of the first character that cannot stand there; null where it is sound.
export function brokenAt(text) {
  let at = 0;
  const blank = () => { while (" \t\r\n".includes(text[at]) && at < text.length) at += 1; };
  const fail = (where = at) => { throw where; };
  const expect = (sign) => { if (text[at] !== sign) fail(); at += 1; };
  function string() {
    expect('"');
    while (text[at] !== '"') {
      if (at >= text.length || text[at] < " ") fail();
      if (text[at] === "\\") {
        const escape = /^\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})/.exec(text.slice(at, at + 6));
        if (!escape) fail();
        at += escape[0].length;
      } else at += 1;
    }
    at += 1;
  }
  function listed(end, item) {
    at += 1;
    blank();
    if (text[at] === end) { at += 1; return; }
    for (;;) {
      item();
      blank();
      if (text[at] === end) { at += 1; return; }
      expect(",");
    }
  }
  function value() {
    blank();
    if (text[at] === "{") listed("}", () => { blank(); string(); blank(); expect(":"); value(); });
    else if (text[at] === "[") listed("]", value);
    else if (text[at] === '"') string();
    else {
      const plain = /^(?:-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null)/.exec(text.slice(at, at + 400));
      if (!plain) fail();
      at += plain[0].length;
    }
  }
  try {
    value();
    blank();
    return at < text.length ? at : null;
  } catch (where) {
    if (typeof where === "number") return where;
    throw where;
  }
}
