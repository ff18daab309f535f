// The conditions: of a field, an event, a sequence, a segment, a list; with where rows and windows.
import { button, choice, entry, icon, iconButton, make, said } from "./builder-dom.js";
import {
  below, changeAggregate, defaultValue, eventOf, fieldOf, happening, happens, isObject, lastThatHappens, newField, newWhere, newWindow,
  operatorsOf, propertyOf, resultType, retype, state, tidy, windowKind,
} from "./builder-model.js";
import { comparison, nameInput, span } from "./builder-values.js";

const ATTRIBUTE = "attributes.";
const OTHER = "*";
export const MARKS = { field: "user", event: "bolt", sequence: "list-numbers", segment: "filter", list: "list" };

const row = (className, ...children) => make("div", { className: `line ${className}` }, ...children);

// --- a field -------------------------------------------------------------------

function fieldChoices() {
  const { fields, groups } = state.options;
  const listed = groups.map(([key, label]) => ({ label, pairs: fields.filter((one) => one.group === key).map((one) => [one.name, one.title]) }));
  return [...listed, { label: state.words.attributes, pairs: [[ATTRIBUTE, state.words.attribute]] }];
}

export function fieldLeaf(node, { id, path, put }) {
  const words = state.words;
  const name = String(node.field ?? "");
  const attribute = name.startsWith(ATTRIBUTE);
  const field = fieldOf(name);
  const line = row("", choice(words.field, fieldChoices(), attribute ? ATTRIBUTE : name, (next) => { put(newField(next)); state.changed(); },
    { at: `${id}:field`, path: below(path, "field") }));
  if (attribute) {
    line.append(nameInput(words.attributeName, name.slice(ATTRIBUTE.length), { names: "attributes" }, (text) => {
      node.field = ATTRIBUTE + text;
      state.changed({ redraw: false });
    }, { at: `${id}:attribute`, path: below(path, "field") }));
  }
  const about = { type: attribute ? undefined : field?.type, choices: field?.choices ?? [], money: field?.money, query: queryOf(field, name, attribute) };
  const operators = attribute || field ? operatorsOf(about.type) : state.options.attributeOperators;
  line.append(...comparison(node, about, { id, path, operators }));
  return [line];
}

function queryOf(field, name, attribute) {
  if (attribute) return name.length > ATTRIBUTE.length ? { field: name } : undefined;
  return field && ["text", "tags"].includes(field.type) ? { field: name } : undefined;
}

// --- an event --------------------------------------------------------------------

function eventPick(what, { id, path, label = state.words.event }) {
  const known = eventOf(what.event) !== undefined;
  const pairs = [...state.options.events.map((one) => [one.name, one.title]), [OTHER, state.words.otherEvent]];
  const change = (next) => {
    what.event = next === OTHER ? "" : next;
    delete what.where;
    if ("aggregate" in what) {
      changeAggregate(what, ["count", "days_since"].includes(what.aggregate) ? what.aggregate : "count");
    }
    state.changed();
  };
  const pick = choice(label, pairs, known ? what.event : OTHER, change, { at: `${id}:event`, path: below(path, "event") });
  if (known) return [pick];
  return [pick, entry(state.words.eventName, what.event, (text) => { what.event = text; state.changed({ redraw: false }); },
    { at: `${id}:event-name`, path: below(path, "event") })];
}

function propertyPick(event, name, handler, { at, path, dated = false }) {
  const words = state.words;
  const properties = eventOf(event)?.properties;
  if (!properties) {
    return nameInput(words.property, name ?? "", { names: "properties", event }, (text) => handler(text || (dated ? undefined : ""), false), { at, path });
  }
  const pairs = [...(dated ? [["", words.itsDate]] : []), ...properties.map((one) => [one.name, one.title])];
  return choice(words.property, pairs, name ?? "", (next) => handler(next || undefined, true), { at, path });
}

export function eventLeaf(node, { id, path }) {
  const words = state.words;
  node.aggregate ??= "count";
  const line = row("", ...eventPick(node, { id, path }),
    choice(words.aggregate, state.options.aggregates, node.aggregate, (next) => { changeAggregate(node, next); state.changed(); },
      { at: `${id}:aggregate`, path: below(path, "aggregate") }));
  if (!["count", "days_since"].includes(node.aggregate)) {
    const dated = ["first", "last"].includes(node.aggregate);
    line.append(propertyPick(node.event, node.of, (next, redraw) => {
      const before = resultType(node);
      if (next === undefined) delete node.of;
      else node.of = next;
      const turned = redraw || resultType(node) !== before;
      if (turned) retype(node, before);
      state.changed({ redraw: turned });
    }, { at: `${id}:of`, path: below(path, "of"), dated }));
  }
  const type = resultType(node);
  const about = {
    type, money: ["sum", "avg", "min", "max", "first", "last"].includes(node.aggregate) && propertyOf(node.event, node.of)?.money,
    query: node.of && type !== "number" && type !== "date" ? { field: node.of, event: node.event } : undefined,
  };
  const operators = operatorsOf(type).filter(([op]) => !op.startsWith("is_") || ["first", "last"].includes(node.aggregate));
  line.append(...comparison(node, about, { id, path, operators }));
  return [line, ...whereRows(node, { id, path, line }), windowRow(node, { id, path, since: true })];
}

// --- where -----------------------------------------------------------------------

// The rows of “where”. The button for the first one stands at the end of `line`, so that it costs no row.
function whereRows(what, { id, path, line: head }) {
  const words = state.words;
  const rows = (Array.isArray(what.where) ? what.where : []).map((where, index) => {
    const own = `${id}:where${index}`;
    const place = below(path, `where[${index}]`);
    const property = propertyOf(what.event, where.field);
    const known = eventOf(what.event)?.properties;
    const line = row("where", said(index ? words.and : words.where),
      propertyPick(what.event, where.field, (next, redraw) => {
        where.field = next ?? "";
        if (redraw) {
          const type = propertyOf(what.event, where.field)?.type;
          where.op = type === "number" ? ">=" : "=";
          where.value = defaultValue(where.op, type);
        }
        state.changed({ redraw });
      }, { at: `${own}:property`, path: below(place, "field") }));
    const about = { type: known ? property?.type : undefined, money: property?.money, query: where.field ? { field: where.field, event: what.event } : undefined };
    if (about.type === "number") about.query = undefined;
    line.append(...comparison(where, about, { id: own, path: place, operators: operatorsOf(about.type) }));
    line.append(iconButton("x", words.remove, () => {
      what.where.splice(index, 1);
      if (!what.where.length) delete what.where;
      state.changed({ at: `${id}:add-where` });
    }, { at: `${own}:remove` }));
    return line;
  });
  if (rows.length >= state.options.maxWhere) return rows;
  const add = button(words.addWhere, () => {
    (what.where ??= []).push(newWhere(what.event));
    state.changed({ at: `${id}:where${what.where.length - 1}:property` });
  }, { at: `${id}:add-where`, extra: "btn-quiet add-where", mark: "plus" });
  (rows.at(-1) ?? head).append(add);
  return rows;
}

// --- windows ---------------------------------------------------------------------

function windowRow(node, { id, path, since }) {
  const words = state.words;
  const kind = windowKind(node.within);
  const place = below(path, "within");
  const kinds = state.options.windows.filter(([name]) => since || name !== "since_event");
  const pick = choice(words.window, kinds, kind, (next) => {
    const fresh = newWindow(next);
    if (fresh) node.within = fresh;
    else delete node.within;
    state.changed();
  }, { at: `${id}:window`, path: place });
  const line = row("window", icon("clock"), pick, ...windowBounds(node.within, kind, { id, place }));
  if (kind !== "since_event" || !isObject(node.within.since_event)) return line;
  return make("div", { className: "since" }, line, ...whereRows(node.within.since_event, { id: `${id}:since`, path: below(place, "since_event"), line }));
}

function windowBounds(within, kind, { id, place }) {
  const words = state.words;
  const quiet = (key) => (next) => { within[key] = next; state.changed({ redraw: false }); };
  const of = (key) => ({ at: `${id}:${key}`, path: `${place}.${key}` });
  const side = (index) => ({ at: `${id}:between${index}`, path: `${place}.between[${index}]` });
  const write = (index) => (next) => { within.between[index] = next; state.changed({ redraw: false }); };
  if (kind === "last") return [span(words.value, within.last, quiet("last"), of("last"))];
  if (kind === "before") return [entry(words.value, within.before, quiet("before"), { ...of("before"), kind: "date" })];
  if (kind === "before_span") return [span(words.value, within.before, quiet("before"), of("before"))];
  if (kind === "between" || kind === "between_spans") {
    const one = (index) => (kind === "between"
      ? entry(index ? words.to : words.from, within.between?.[index], write(index), { ...side(index), kind: "date" })
      : span(index ? words.to : words.from, within.between[index], write(index), side(index)));
    return [one(0), said(words.upTo), one(1), ...(kind === "between" ? [] : [said(words.ago)])];
  }
  return kind === "since_event" && isObject(within.since_event) ? sinceBounds(within, { id, place }) : [];
}

function sinceBounds(within, { id, place }) {
  const words = state.words;
  const anchor = within.since_event;
  const own = `${id}:since`;
  const which = choice(words.which, [["last", words.theirLast], ["first", words.theirFirst]], anchor.which ?? "last", (next) => {
    anchor.which = next;
    state.changed({ redraw: false });
  }, { at: `${own}:which`, path: `${place}.since_event.which` });
  const parts = [which, ...eventPick(anchor, { id: own, path: `${place}.since_event` })];
  const limited = within.for !== undefined && within.for !== null;
  parts.push(choice(words.forAtMost, [["", words.noLimit], ["for", words.forAtMost]], limited ? "for" : "", (next) => {
    if (next) within.for = "7d";
    else delete within.for;
    state.changed();
  }, { at: `${own}:limited` }));
  if (limited) parts.push(span(words.forAtMost, within.for, (next) => { within.for = next; state.changed({ redraw: false }); }, { at: `${own}:for`, path: `${place}.for` }));
  return parts;
}

// --- a sequence ------------------------------------------------------------------

export function sequenceLeaf(node, { id, path }) {
  const words = state.words;
  const steps = node.sequence;
  const list = make("ol", { className: "sequence" }, ...steps.map((step, index) => stepRow(steps, step, index, { id, path })));
  const parts = [list];
  if (steps.length < state.options.maxSteps) {
    parts.push(row("", button(words.addStep, () => {
      steps.push({ event: "order" });
      tidy(steps);
      state.changed({ at: `${id}:step${steps.length - 1}:event` });
    }, { at: `${id}:add-step`, extra: "btn-quiet", mark: "plus" })));
  }
  return [...parts, windowRow(node, { id, path, since: false })];
}

function stepRow(steps, step, index, { id, path }) {
  const words = state.words;
  const place = below(path, `sequence[${index}]`);
  const own = `${id}:step${index}`;
  const yes = happens(step);
  const what = happening(step);
  const line = row("");
  if (index) {
    line.append(choice(words.step, [["yes", words.then], ["no", words.thenNot]], yes ? "yes" : "no", (next) => {
      const { within, ...rest } = yes ? step : { ...step.not, within: step.within };
      steps[index] = next === "yes" ? { ...rest, ...(within ? { within } : {}) } : { not: rest, ...(within ? { within } : {}) };
      tidy(steps);
      state.changed();
    }, { at: `${own}:kind`, path: place }));
  } else line.append(said(words.happens));
  line.append(...eventPick(what, { id: own, path: yes ? place : `${place}.not` }));
  if (index) line.append(...limitOf(steps, step, index, { own, place, yes }));
  const acts = make("span", { className: "acts" },
    iconButton("arrow-up", words.up, () => swap(steps, index, index - 1, id), { at: `${own}:up`, disabled: index === 0 }),
    iconButton("arrow-down", words.down, () => swap(steps, index, index + 1, id), { at: `${own}:down`, disabled: index === steps.length - 1 }),
    iconButton("x", words.remove, () => { steps.splice(index, 1); tidy(steps); state.changed({ at: `${id}:add-step` }); },
      { at: `${own}:remove`, disabled: steps.length <= 2 }));
  const rows = whereRows(what, { id: own, path: yes ? place : `${place}.not`, line });
  return make("li", { data: { node: "", path: place }, className: yes ? "" : "is-not" }, make("div", { className: "step" }, line, acts), ...rows);
}

function limitOf(steps, step, index, { own, place, yes }) {
  const words = state.words;
  const limit = span(words.within, step.within, (next) => { step.within = next; state.changed({ redraw: false }); }, { at: `${own}:within`, path: `${place}.within` });
  if (!yes) return [index > lastThatHappens(steps) ? make("span", { className: "joined-inline" }, said(words.within), limit) : said(words.inBetween)];
  const limited = step.within !== undefined && step.within !== null;
  const pick = choice(words.within, [["", words.anyTimeLater], ["within", words.within]], limited ? "within" : "", (next) => {
    if (next) step.within = "7d";
    else delete step.within;
    state.changed();
  }, { at: `${own}:limited` });
  return limited ? [pick, limit] : [pick];
}

function swap(steps, from, to, id) {
  [steps[from], steps[to]] = [steps[to], steps[from]];
  tidy(steps);
  state.changed({ at: `${id}:step${to}:${to < from ? "up" : "down"}` });
}

// --- a segment, a list -------------------------------------------------------------

export function namedLeaf(node, key, { id, path }) {
  const words = state.words;
  const [pairs, text, label] = key === "segment"
    ? [state.options.segments, words.inSegment, words.segment] : [state.options.lists ?? [], words.onList, words.list];
  return [row("", said(text), choice(label, pairs, node[key], (next) => { node[key] = next; state.changed(); }, { at: `${id}:${key}`, path: below(path, key) }))];
}
