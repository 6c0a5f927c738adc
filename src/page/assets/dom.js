// Elements, and numbers and times as people read them. Text becomes text, never markup: files may be named anything.

const SVG = "http://www.w3.org/2000/svg";

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

export const element = (name, attributes = {}, ...children) =>
  build(document.createElement(name), attributes, children);

export const svg = (name, attributes = {}, ...children) =>
  build(document.createElementNS(SVG, name), attributes, children);

/** The element of that id in the page. */
export const the = (id) => document.getElementById(id);

/** Sets the text, and leaves the node alone where it is that already: nothing is selected or announced anew. */
export function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
}

/** Shows or hides. */
export function show(node, visible) {
  node.hidden = !visible;
}

/**
 * Makes the children of `parent` those of `items`, in their order. A child stays the same element for as long as its
 * key is there, with its focus and its transitions. `make` builds one, `update` fills it.
 */
export function list(parent, items, key, make, update) {
  const before = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, index) => {
    const name = String(key(item));
    const child = before.get(name) ?? make(item);
    before.delete(name);
    child.dataset.key = name;
    update(child, item);
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
  });
  // Those of the items stand first now. The others are not all in `before`: two may have had the same key.
  while (parent.children.length > items.length) parent.lastElementChild.remove();
}

/** What a person chooses is drawn by whoever listens. */
export const tellChosen = () => document.dispatchEvent(new Event("chosen"));

/** Buttons of which one is pressed: the one of the name `pressed`. */
export function choice(parent, choices, pressed, title, choose) {
  const make = ({ name }) => {
    const button = element("button", { type: "button" });
    button.addEventListener("click", () => {
      choose(name);
      tellChosen();
    });
    return button;
  };
  list(parent, choices, (it) => it.name, make, (button, it) => {
    button.setAttribute("aria-pressed", String(it.name === pressed));
    text(button, title(it));
  });
}

/** A button that shows the rest of a list, while `shown` of the `there` are shown. There may be more elsewhere. */
export function whole(parent, there, shown, all, choose) {
  show(parent, shown < all);
  const button = parent.firstElementChild;
  show(button, shown < there);
  text(button, there < all ? `Show ${count(there)} of ${count(all)}` : `Show all ${count(all)}`);
  text(parent.lastElementChild, shown < there ? "" : `${count(shown)} of ${count(all)} are shown`);
  button.onclick = () => {
    choose();
    tellChosen();
  };
}

const thousands = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });

/** 10,301 */
export const count = (number) => thousands.format(number);

/** 99.6, with so many digits behind the point; – for what is not known. */
export const decimal = (number, digits) => (number === null ? "–"
  : number.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }));

/** "1 file", "2 files" */
export const counted = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** 0.9 s, 12 s, 3 min, 2 h, 5 d */
export function duration(seconds) {
  if (seconds < 10) return `${tenths.format(seconds)} s`;
  if (seconds < 120) return `${count(seconds)} s`;
  if (seconds < 7_200) return `${count(seconds / 60)} min`;
  if (seconds < 172_800) return `${count(seconds / 3_600)} h`;
  return `${count(seconds / 86_400)} d`;
}

/** 12 kB */
export function bytes(number) {
  if (number < 1_000) return `${count(number)} B`;
  const [size, unit] = number < 1e6 ? [number / 1e3, "kB"] : number < 1e9 ? [number / 1e6, "MB"] : [number / 1e9, "GB"];
  return `${size < 10 ? tenths.format(size) : count(size)} ${unit}`;
}

/** How far the server's clock is ahead of the browser's, in milliseconds. */
const clock = { ahead: 0 };

/** The server says what time it is. */
export function setClock(at) {
  clock.ahead = Date.parse(at) - Date.now();
}

/** A time as an age that goes on by itself: 3 s ago. */
export function setTime(node, at) {
  if (node.dateTime !== at) {
    node.dateTime = at;
    node.title = new Date(at).toLocaleString();
  }
  tell(node);
}

/** A moment as people read it, to the second, in the time of the browser. */
export const moment = (at) => new Date(at).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });

/** What the server has to say; what it says instead, as an error. */
export async function ask(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error((await answer.text()).trim() || `freshet answers ${answer.status}`);
  return answer.json();
}

/** Asks, unless an answer is outstanding: `take` gets the answer, and `known` a failure. Draws while it waits, and then. */
export async function askOnce(known, path, take, draw) {
  if (known.isAsking) return;
  Object.assign(known, { isAsking: true, failure: "" });
  draw();
  try {
    take(await ask(path));
  } catch (error) {
    known.failure = error.message;
  }
  known.isAsking = false;
  draw();
}

/** A button that copies what `of` has, also where the browser gives no clipboard because the page is not secure. */
export function copyButton(of) {
  const button = element("button", { type: "button", class: "copy" }, "Copy");
  button.addEventListener("click", async () => {
    const node = of();
    try {
      await navigator.clipboard.writeText(node.textContent);
      text(button, "Copied");
    } catch {
      getSelection().selectAllChildren(node);
      text(button, document.execCommand("copy") ? "Copied" : "Selected: press Ctrl-C");
    }
    setTimeout(() => text(button, "Copy"), 2_000);
  });
  return button;
}

function tell(node) {
  const seconds = (Date.now() + clock.ahead - Date.parse(node.dateTime)) / 1_000;
  text(node, seconds < 1.5 ? "now" : `${duration(Math.round(seconds)).replace(/\.0/, "")} ago`);
}

setInterval(() => document.querySelectorAll("time[datetime]").forEach(tell), 1_000);
