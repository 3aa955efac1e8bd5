/* Making and keeping elements. All text goes in as text: no markup is ever built from strings, here or elsewhere on the page
   (the policy forbids it as well), so what the far side says cannot become anything but words. */

const SVG = "http://www.w3.org/2000/svg";

/** Make an element: el("p.quiet", {hidden: true, onclick: f, data: {id: 1}}, "text", child, null). */
export function el(what, props = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  const made = document.createElement(tag);
  if (classes.length) made.className = classes.join(" ");
  return fill(set(made, props), ...children);
}

export function svg(tag, props = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(props)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export function set(element, props) {
  for (const [name, value] of Object.entries(props)) {
    if (name === "data") Object.assign(element.dataset, value);
    else if (name in element && !name.startsWith("aria")) { if (element[name] !== value) element[name] = value; }
    else if (value === null || value === false) element.removeAttribute(name);
    else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value === true ? "" : value);
  }
  return element;
}

/** Replace what is in the element; null and false are left out. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== false));
  return element;
}

/** Set the text, only when it differs: a live region speaks at each change. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
  return element;
}

/** A sentence of the daemon, in which `commands` stand between backticks; only when it differs, as above. */
export function prose(element, text) {
  if (element.textContent === text.replaceAll("`", "")) return;
  fill(element, text.split("`").map((part, index) => (index % 2 ? el("code", {}, part) : part)));
}

/** Keep one child for each item, in their order, and move nothing that stands right: focus and scrolling stay where they are. */
export function keep(parent, items, key, make, update) {
  const had = new Map([...parent.children].map(child => [child.dataset.key, child]));
  const focused = document.activeElement; // an element that is put elsewhere loses it
  let at = parent.firstElementChild;
  for (const item of items) {
    const its = String(key(item));
    let child = had.get(its);
    had.delete(its);
    if (!child) {
      child = make(item);
      child.dataset.key = its;
    }
    if (child === at) at = at.nextElementSibling;
    else parent.insertBefore(child, at);
    update(child, item);
  }
  for (const child of had.values()) child.remove();
  if (parent.contains(focused) && focused !== document.activeElement) focused.focus({ preventScroll: true });
}

const PATHS = {
  up: "M6 15l6-6 6 6", down: "M6 9l6 6 6-6", top: "M6 17l6-6 6 6M6 6h12", close: "M6 6l12 12M18 6L6 18",
  left: "M15 5l-7 7 7 7", right: "M9 5l7 7-7 7", save: "M12 4v11m-5-5l5 5 5-5M5 20h14", pause: "M8 5v14M16 5v14", play: "M8 5l11 7-11 7z",
  again: "M20 11a8 8 0 1 0-2.3 6.3M20 5v6h-6", grip: "M9 6h.01M15 6h.01M9 12h.01M15 12h.01M9 18h.01M15 18h.01",
  swap: "M7 4L3 8l4 4M3 8h14M17 12l4 4-4 4M21 16H7", sliders: "M4 8h9M19 8h1M4 16h1M11 16h9M13 8a3 3 0 1 0 6 0 3 3 0 1 0-6 0M5 16a3 3 0 1 0 6 0 3 3 0 1 0-6 0",
  file: "M6 3h8l5 5v13H6zM14 3v5h5", alert: "M12 8v5M12 16.5h.01M12 3l9.5 17h-19z", picture: "M4 5h16v14H4zM4 16l5-5 4 4 2.5-2.5L20 17M15 9h.01",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  die: "M5 4h14a1 1 0 0 1 1 1v14a1 1 0 0 1-1 1H5a1 1 0 0 1-1-1V5a1 1 0 0 1 1-1zM8.5 8.5h.01M15.5 8.5h.01M12 12h.01M8.5 15.5h.01M15.5 15.5h.01",
};

/** A drawing that says nothing by itself: whoever uses it has a label. */
export function icon(name) {
  const drawn = svg("svg", { viewBox: "0 0 24 24", class: `icon icon-${name}`, "aria-hidden": "true" });
  drawn.append(svg("path", { d: PATHS[name] }));
  return drawn;
}

/** A button with a drawing and a label for who does not see it. */
export function iconButton(name, label, onclick, more = {}) {
  return el("button.round", { type: "button", title: label, "aria-label": label, onclick, ...more }, icon(name));
}
