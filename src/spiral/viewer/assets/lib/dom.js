// Elements without markup: text goes in as text nodes only, so that nothing that a model wrote is read as HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [key, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "style") for (const [name, part] of Object.entries(value)) element.style.setProperty(name, part);
    else if (key === "value") element.value = value;
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Put children in the place of those that an element has; lists are laid flat, and what is null or false is left out. */
export function put(element, ...children) {
  element.replaceChildren();
  return fill(element, {}, children);
}

/** Make an element: `h("p", {class: "soft"}, "text", child)`. `on...` are listeners, `style` is an object. */
export function h(tag, properties, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** The same for SVG. */
export function svg(tag, properties, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

/** A labelled control. */
export function field(label, control) {
  return h("label", { class: "field" }, h("span", {}, label), control);
}

/** A select of [value, label] pairs. */
export function select(choices, value, onchange, properties) {
  const element = h("select", { onchange: () => onchange(element.value), ...properties });
  for (const [choice, label] of choices)
    element.append(h("option", { value: choice, selected: choice === value }, label));
  return element;
}

/** One of several buttons is pressed: [value, label] pairs. */
export function segments(label, choices, value, onchange) {
  const group = h("div", { class: "segments", role: "group", "aria-label": label });
  const press = (chosen) => {
    for (const button of group.children) button.setAttribute("aria-pressed", String(button.dataset.value === chosen));
  };
  for (const [choice, text] of choices) {
    group.append(
      h(
        "button",
        {
          type: "button",
          "data-value": choice,
          onclick: () => {
            press(choice);
            onchange(choice);
          },
        },
        text,
      ),
    );
  }
  press(value);
  group.choose = (choice) => {
    press(choice);
    onchange(choice);
  };
  return group;
}

let toastTimer = 0;

/** Say something briefly at the foot of the page. */
export function toast(message) {
  const element = document.getElementById("toast");
  element.textContent = message;
  element.classList.add("on");
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => element.classList.remove("on"), 2600);
}

/** Open a dialog that is removed when it closes. */
export function openDialog(title, content, { narrow = false } = {}) {
  const heading = h("h2", { id: "dialog-title" }, title);
  const dialog = h(
    "dialog",
    { class: narrow ? "narrow" : null, "aria-labelledby": "dialog-title" },
    h("header", {}, heading, h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Close")),
    content,
  );
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Wait until calls stop for a moment, then call once. */
export function debounce(call, milliseconds) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...values), milliseconds);
  };
}

/** The colour that a CSS variable has now, for what is drawn on a canvas. */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
