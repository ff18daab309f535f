// The rule as JSON, and what the language knows: types, operators, windows, sequences. No elements here.
export const state = { options: null, words: null, rule: null, wrapped: false, changed: () => {} };

export const PRESENCE = ["is_set", "is_not_set"];
export const NEAR = ["in_last", "in_next", "anniversary_in"];
export const MANY = ["in", "not_in", "matches_any"];
const SPAN = /^(\d+)([dh])$/;

export const isObject = (node) => typeof node === "object" && node !== null && !Array.isArray(node);
export const isGroup = (node) => isObject(node) && (Array.isArray(node.all) || Array.isArray(node.any)) && Object.keys(node).length === 1;
export const isNot = (node) => isObject(node) && "not" in node && Object.keys(node).length === 1;
export const below = (path, part) => (path ? `${path}.${part}` : part);

// A node without the "not"s around it: what they say together, and the path of what is inside.
export function peel(node, path) {
  let inner = node;
  let negated = false;
  let place = path;
  while (isNot(inner)) {
    inner = inner.not;
    negated = !negated;
    place = below(place, "not");
  }
  return { inner, negated, path: place };
}

// The rule as it is saved. A rule of one condition is shown inside a group that it does not have.
export const asSaved = () => (state.wrapped && state.rule.all?.length === 1 ? state.rule.all[0] : state.rule);

export function take(parsed) {
  state.wrapped = !isGroup(peel(parsed, "").inner);
  state.rule = state.wrapped ? { all: [parsed] } : parsed;
}

export const fieldOf = (name) => state.options.fields.find((field) => field.name === name);
export const eventOf = (name) => state.options.events.find((event) => event.name === name);
export const propertyOf = (event, name) => eventOf(event)?.properties?.find((property) => property.name === name);
export const today = () => new Date().toISOString().slice(0, 10);
export const spanOf = (value) => SPAN.exec(value ?? "");
export const isSpan = (value) => typeof value === "string" && /[dh]$/.test(value);

// What was typed as a value of its type. “007” stays a text: as a number it would be another.
export function typed(text, type) {
  const plain = text.trim();
  const number = plain !== "" && Number.isFinite(Number(plain)) ? Number(plain) : null;
  if (type === "number") return number ?? text;
  if (type) return text;
  return number !== null && String(number) === plain ? number : text;
}

export function operatorsOf(type) {
  return type ? state.options.operators[type] ?? [] : state.options.attributeOperators;
}

const blank = (type) => (type === "number" ? 1 : type === "flag" ? true : type === "date" ? today() : "");

export function defaultValue(op, type) {
  if (PRESENCE.includes(op)) return undefined;
  if (NEAR.includes(op)) return "30d";
  if (op === "between") return type === "number" ? [1, 10] : [blank(type), blank(type)];
  return MANY.includes(op) ? [] : blank(type);
}

// Another operator keeps of the value what it can.
export function changeOperator(node, op, type) {
  const before = node.value;
  const fresh = defaultValue(op, type);
  const one = Array.isArray(before) ? before[0] : before;
  const usable = one !== undefined && one !== "" && !NEAR.includes(node.op);
  if (fresh === undefined) delete node.value;
  else if (NEAR.includes(op)) node.value = NEAR.includes(node.op) ? before : fresh;
  else if (MANY.includes(op)) node.value = MANY.includes(node.op) ? before : usable ? [one] : fresh;
  else if (op === "between") node.value = node.op === "between" ? before : usable ? [one, one] : fresh;
  else node.value = usable ? one : fresh;
  node.op = op;
}

// --- new conditions ----------------------------------------------------------

export function newField(name = state.options.fields[0].name) {
  const field = fieldOf(name);
  const op = field ? (field.choices.length ? "in" : state.options.operators[field.type][0]) : "=";
  const node = { field: name, op };
  const value = defaultValue(op, field?.type);
  if (value !== undefined) node.value = value;
  return node;
}

export const newEvent = () => ({ event: state.options.events[0].name, aggregate: "count", op: ">=", value: 1, within: { last: "90d" } });

export function newSequence() {
  const own = state.options.events.find((event) => !event.properties);
  return { sequence: [{ event: (own ?? state.options.events.at(-1)).name }, { not: { event: "order" }, within: "3d" }] };
}

export function newWhere(event) {
  const first = eventOf(event)?.properties?.[0];
  return { field: first?.name ?? "", op: first?.type === "number" ? ">=" : "=", value: first?.type === "number" ? 1 : "" };
}

// What the result of an aggregate is: a number, a date, or the type of the property it takes.
export function resultType(node) {
  if (!["first", "last"].includes(node.aggregate)) return "number";
  return node.of === undefined ? "date" : propertyOf(node.event, node.of)?.type;
}

export function changeAggregate(node, aggregate) {
  const before = resultType(node);
  node.aggregate = aggregate;
  if (["count", "days_since", "first", "last"].includes(aggregate)) delete node.of;
  else {
    const fits = (eventOf(node.event)?.properties ?? []).filter((one) => aggregate === "distinct" || one.type === "number");
    if (!fits.some((one) => one.name === node.of)) node.of = fits[0]?.name ?? "";
  }
  retype(node, before);
}

// After a change of its property or measure a condition may compare another type.
export function retype(node, before) {
  const type = resultType(node);
  if (type === before && operatorsOf(type).some(([op]) => op === node.op)) return;
  const allowed = operatorsOf(type).map(([op]) => op);
  node.op = type === "number" ? ">=" : type === "date" ? "in_last" : allowed[0];
  node.value = defaultValue(node.op, type);
  if (node.value === undefined) delete node.value;
}

// --- windows -----------------------------------------------------------------

export function windowKind(within) {
  const kind = isObject(within) ? ["last", "before", "between", "since_event"].find((key) => key in within) : undefined;
  if (kind === "before") return isSpan(within.before) ? "before_span" : "before";
  if (kind === "between") return isSpan(within.between?.[0]) ? "between_spans" : "between";
  return kind ?? "ever";
}

export function newWindow(kind) {
  return {
    last: () => ({ last: "90d" }),
    before_span: () => ({ before: "30d" }),
    between_spans: () => ({ between: ["60d", "30d"] }),
    before: () => ({ before: today() }),
    between: () => ({ between: [`${today().slice(0, 4)}-01-01`, today()] }),
    since_event: () => ({ since_event: { event: "order", which: "last" }, for: "7d" }),
  }[kind]?.();
}

// --- sequences ---------------------------------------------------------------

export const happens = (step) => !(isObject(step) && "not" in step);
export const happening = (step) => (happens(step) ? step : step.not);
export const lastThatHappens = (steps) => steps.findLastIndex(happens);

// What the language asks of a sequence: it starts with something that happens, only a “not” at the
// end and a step that happens later have a time limit, and a “not” at the end must have one.
export function tidy(steps) {
  if (!happens(steps[0])) steps[0] = { ...steps[0].not };
  delete steps[0].within;
  const last = lastThatHappens(steps);
  steps.forEach((step, index) => {
    if (happens(step)) return;
    if (index > last) step.within ??= "3d";
    else delete step.within;
  });
}
