// The rule builder: a tree of conditions over the same JSON that the text field beside it holds.
import { brokenAt, button, choice, icon, iconButton, make, useIcons } from "./builder-dom.js";
import { MARKS, eventLeaf, fieldLeaf, namedLeaf, sequenceLeaf } from "./builder-leaves.js";
import { asSaved, below, isGroup, isObject, newEvent, newField, newSequence, peel, state, take } from "./builder-model.js";

const host = document.querySelector("#builder");
const target = host && document.querySelector(`[name="${host.dataset.target}"]`);
const JSON_WAIT_MS = 250;
let refused = null; // what the server refused to save: shown in red until it is gone
let problem = null;
let writing = false;
let seen = null; // the text that the builder shows: what has not changed is not drawn again

// --- the tree --------------------------------------------------------------------

function draw() {
  host.replaceChildren(drawNode(state.rule, { id: "r", path: "", put: (next) => { state.rule = next; }, root: true }));
  showProblem();
}

// `place`: id (where it stands on the page), path (where it stands in the JSON), put and drop, move.
function drawNode(node, place) {
  const peeled = peel(node, place.path);
  const write = (inner, negated) => { place.put(negated ? { not: inner } : inner); };
  const inner = { ...place, path: peeled.path, put: (next) => write(next, peeled.negated) };
  return isGroup(peeled.inner)
    ? drawGroup(peeled.inner, peeled.negated, write, inner) : drawLeaf(peeled.inner, peeled.negated, write, inner);
}

function drawGroup(node, negated, write, place) {
  const words = state.words;
  const key = node.all ? "all" : "any";
  const children = node[key];
  const kinds = [["all", words.all], ["any", words.any], ["notAny", words.notAny], ["notAll", words.notAll]];
  const kind = negated ? { all: "notAll", any: "notAny" }[key] : key;
  const pick = choice(words.groupKind, kinds, kind, (next) => {
    const bare = { all: "all", any: "any", notAny: "any", notAll: "all" }[next];
    if (place.root) state.wrapped = false;
    write({ [bare]: children }, next.startsWith("not"));
    state.changed();
  }, { at: `${place.id}:kind` });
  const head = make("div", { className: "group-head" }, pick, acts(place, { [key]: children }, negated));
  const list = make("ol", { className: "conditions" }, ...children.map((child, index) => make("li", {},
    index ? make("span", { className: "joiner", textContent: key === "all" ? words.and : words.or }) : null,
    drawNode(child, childPlace(children, index, key, place)))));
  const empty = children.length ? null : make("p", { className: "muted small", textContent: words.emptyGroup });
  return make("div", {
    className: `group of-${key}${negated ? " is-not" : ""}`, role: "group", "aria-label": kinds.find(([name]) => name === kind)[1], data: { node: "", path: place.path },
  }, head, list, empty, adders(children, key, place));
}

function childPlace(children, index, key, place) {
  const alone = place.root && state.wrapped && children.length === 1;
  const siblings = { children, index, id: place.id };
  return {
    id: `${place.id}.${index}`,
    path: alone ? "" : below(place.path, `${key}[${index}]`),
    put: (next) => { children[index] = next; },
    siblings,
    outer: place.siblings,
  };
}

function adders(children, key, place) {
  const { words, options } = state;
  const add = (make_, at) => () => {
    children.push(make_());
    state.changed({ at: `${place.id}.${children.length - 1}:${at}` });
  };
  const one = (text, mark, make_, at) => button(text, add(make_, at), { extra: "btn-add", mark, at: `${place.id}:add-${at}` });
  const other = key === "all" ? "any" : "all";
  return make("div", { className: "group-add" },
    one(words.addField, MARKS.field, newField, "field"),
    one(words.addEvent, MARKS.event, newEvent, "event"),
    one(words.addSequence, MARKS.sequence, newSequence, "sequence"),
    options.segments.length ? one(words.addSegment, MARKS.segment, () => ({ segment: options.segments[0][0] }), "segment") : null,
    options.lists?.length ? one(words.addList, MARKS.list, () => ({ list: options.lists[0][0] }), "list") : null,
    one(words.addGroup, "parentheses", () => ({ [other]: [newField()] }), "kind"));
}

const LEAVES = { field: fieldLeaf, event: eventLeaf, sequence: sequenceLeaf, segment: namedLeaf, list: namedLeaf };

function drawLeaf(node, negated, write, place) {
  const { words } = state;
  const kind = isObject(node) ? Object.keys(LEAVES).find((name) => name in node) : undefined;
  const sound = kind !== undefined && (kind !== "sequence" || (Array.isArray(node.sequence) && node.sequence.every(isObject)));
  const not = make("button", {
    type: "button", className: "not-switch", textContent: words.not, title: words.negate, "aria-pressed": String(negated), data: { at: `${place.id}:not` },
    on: { click: () => { write(node, !negated); state.changed(); } },
  });
  const body = make("div", { className: "leaf-body" });
  if (!sound) body.append(make("div", { className: "line" }, make("code", { textContent: JSON.stringify(node) })), make("p", { className: "muted small", textContent: words.raw }));
  else if (LEAVES[kind] === namedLeaf) body.append(...namedLeaf(node, kind, place));
  else body.append(...LEAVES[kind](node, place));
  return make("div", { className: `leaf of-${kind ?? "raw"}${negated ? " is-not" : ""}`, data: { node: "", path: place.path } },
    make("div", { className: "leaf-mark" }, icon(MARKS[kind] ?? "code"), not), body, acts(place, node, negated));
}

// --- moving, copying, removing -----------------------------------------------------

function acts(place, node, negated) {
  const { words } = state;
  if (!place.siblings) return null;
  const { children, index, id } = place.siblings;
  const outer = place.outer;
  const move = (step) => {
    const [one] = children.splice(index, 1);
    if (index + step >= 0 && index + step <= children.length) {
      children.splice(index + step, 0, one);
      state.changed({ at: `${id}.${index + step}:${step < 0 ? "up" : "down"}` });
    } else { // out of the group, to before or after it
      const to = outer.index + (step < 0 ? 0 : 1);
      outer.children.splice(to, 0, one);
      state.changed({ at: `${outer.id}.${to}:${step < 0 ? "up" : "down"}` });
    }
  };
  const copy = () => {
    children.splice(index + 1, 0, structuredClone(negated ? { not: node } : node));
    state.changed({ at: `${id}.${index + 1}:copy` });
  };
  const remove = () => {
    children.splice(index, 1);
    state.changed({ at: children.length ? `${id}.${Math.min(index, children.length - 1)}:remove` : `${id}:add-field` });
  };
  const own = (name) => ({ at: `${place.id}:${name}` });
  return make("div", { className: "acts" },
    iconButton("arrow-up", words.up, () => move(-1), { ...own("up"), disabled: index === 0 && !outer }),
    iconButton("arrow-down", words.down, () => move(1), { ...own("down"), disabled: index === children.length - 1 && !outer }),
    iconButton("copy", words.copy, copy, own("copy")),
    iconButton("trash", words.remove, remove, own("remove")));
}

// --- what is wrong, beside its place -------------------------------------------------

const covers = (path, wanted) => path === "" || path === wanted || (wanted.startsWith(path) && ".[".includes(wanted[path.length]));

function elementAt(path) {
  const found = [...host.querySelectorAll("[data-path]")].filter((element) => covers(element.dataset.path, path));
  return found.reduce((best, one) => (best && best.dataset.path.length >= one.dataset.path.length ? best : one), null);
}

const isEmpty = (element) => (element.matches(".chips") ? !element.querySelector(".chip") : element.matches("input") && !element.value);

function showProblem() {
  for (const old of host.querySelectorAll(".node-problem")) old.remove();
  for (const old of host.querySelectorAll(".is-invalid, .is-wanting")) {
    old.classList.remove("is-invalid", "is-wanting");
    old.removeAttribute("aria-invalid");
    old.removeAttribute("aria-describedby");
  }
  if (!problem || problem.path === "json") return;
  const element = elementAt(problem.path);
  if (!element) return;
  const bad = refused !== null && refused.path === problem.path && refused.text === problem.text;
  const control = element.matches("input, select, .chips") ? element : null;
  control?.classList.add(bad ? "is-invalid" : "is-wanting");
  if (!bad && control && isEmpty(control)) return; // not filled in yet: no reason to shout
  const line = make("p", { className: `node-problem ${bad ? "is-bad" : "is-watch"}`, id: "node-problem" }, icon("alert-triangle"), problem.text);
  const field = control?.matches(".chips") ? control.querySelector("input") : control;
  field?.setAttribute("aria-invalid", "true");
  field?.setAttribute("aria-describedby", "node-problem");
  const node = element.closest("[data-node]");
  (node.querySelector(":scope > .leaf-body") ?? node).append(line);
}

// --- the text field -------------------------------------------------------------------

function recount() {
  document.querySelector("#recount")?.dispatchEvent(new Event("rulechange"));
}

state.changed = ({ redraw = true, at } = {}) => {
  seen = target.value = JSON.stringify(asSaved(), null, 2);
  writing = true;
  target.dispatchEvent(new Event("input", { bubbles: true })); // the form has changes now
  writing = false;
  if (redraw) {
    const focused = at ?? (host.contains(document.activeElement) ? document.activeElement.dataset.at : undefined);
    draw();
    if (focused) host.querySelector(`[data-at="${CSS.escape(focused)}"]:not(:disabled)`)?.focus({ preventScroll: at === undefined });
  }
  recount();
};

function sayBroken(text) {
  document.querySelector("#json-problem")?.remove();
  host.inert = text !== null;
  host.classList.toggle("is-stale", host.inert);
  if (text === null) return;
  const at = brokenAt(text) ?? text.length;
  const before = text.slice(0, at).split("\n");
  const message = state.words.badJsonAt.replace("{line}", before.length).replace("{column}", before.at(-1).length + 1);
  target.after(make("p", { className: "node-problem is-watch", id: "json-problem", role: "status" }, icon("alert-triangle"), message));
}

function read() {
  seen = target.value;
  if (!target.value.trim()) {
    take({ all: [] });
    sayBroken(null);
    draw();
    return;
  }
  try {
    take(JSON.parse(target.value));
  } catch {
    sayBroken(target.value);
    return;
  }
  sayBroken(null);
  draw();
}

function follow() {
  if (target.value === seen) return;
  read();
  recount();
}

function start() {
  state.options = JSON.parse(document.getElementById(host.dataset.options).textContent);
  state.words = state.options.words;
  useIcons(state.options.icons);
  state.rule = { all: [] };
  const told = /^([a-z_]+[\w.[\]]*): ([^]*)$/.exec(document.querySelector(`#${target.name}-error`)?.textContent.trim() ?? "");
  if (host.dataset.problemText) refused = { path: host.dataset.problemPath, text: host.dataset.problemText };
  else if (told) refused = { path: told[1], text: told[2] };
  problem = refused;
  read();
  if (refused) host.querySelector(".is-invalid")?.scrollIntoView({ block: "center" });
  let timer;
  target.addEventListener("input", () => {
    if (writing) return;
    clearTimeout(timer);
    timer = setTimeout(follow, JSON_WAIT_MS);
  });
  target.addEventListener("change", () => { clearTimeout(timer); follow(); });
  document.addEventListener("htmx:afterSwap", () => {
    const count = document.querySelector("#count");
    if (!count) return;
    problem = count.dataset.problemText ? { path: count.dataset.problemPath, text: count.dataset.problemText } : null;
    showProblem();
  });
}

if (host && target) start();
