// Brings the widgets of a page to life without a kernel.
//
// A built page carries the saved state of its widgets as JSON and, where a widget was
// displayed, a <script> with its model's id. For each of these this script builds the
// model, imports the widget's own ES module and lets it draw beside the script. What a
// widget does in the notebook through its module works here; what it would ask of
// Python does not, and plain ipywidgets (which have no module of their own) stay
// unseen: their cells show a static figure instead.
(() => {
  "use strict";
  const STATE = 'script[type="application/vnd.jupyter.widget-state+json"]';
  const VIEW = 'script[type="application/vnd.jupyter.widget-view+json"]';

  const saved = {}; // model id -> what the notebook stored
  const models = new Map(); // model id -> live model
  const modules = new Map(); // text of an ES module -> promise of the module
  const styles = new Set(); // texts of style sheets already in the page

  const decode = (text) =>
    new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);

  // Buffers are stored beside the state, each with the path of its place in it.
  function restore({ state, buffers = [] }) {
    const data = structuredClone(state);
    for (const { path, data: text } of buffers) {
      const parent = path.slice(0, -1).reduce((node, key) => node[key], data);
      parent[path[path.length - 1]] = decode(text);
    }
    return data;
  }

  function model(reference) {
    const id = String(reference).replace("IPY_MODEL_", "");
    if (models.has(id)) return models.get(id);
    if (!saved[id]) throw new Error(`no saved state for widget ${id}`);
    const data = restore(saved[id]);
    const listeners = new Map(); // event name -> set of callbacks

    const fire = (name, ...args) => {
      for (const callback of [...(listeners.get(name) ?? [])]) callback(...args);
    };
    const live = {
      get: (name) => data[name],
      set(name, value) {
        const changes = typeof name === "object" ? name : { [name]: value };
        const changed = Object.keys(changes).filter((k) => data[k] !== changes[k]);
        Object.assign(data, changes);
        for (const key of changed) fire(`change:${key}`, live, data[key]);
        if (changed.length) fire("change", live);
        return live;
      },
      on(names, callback) {
        for (const name of names.split(/\s+/)) {
          if (!listeners.has(name)) listeners.set(name, new Set());
          listeners.get(name).add(callback);
        }
        return live;
      },
      off(names, callback) {
        if (!names) listeners.clear();
        else
          for (const name of names.split(/\s+/))
            if (callback) listeners.get(name)?.delete(callback);
            else listeners.delete(name);
        return live;
      },
      save_changes() {}, // nobody to save to
      send() {},
      widget_manager: { get_model: async (child) => model(child) },
    };
    models.set(id, live);
    return live;
  }

  function load(text) {
    if (!modules.has(text)) {
      const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
      modules.set(text, import(url).finally(() => URL.revokeObjectURL(url)));
    }
    return modules.get(text);
  }

  // anywidget accepts named exports, a default object, or a function that returns one.
  async function behaviour(live) {
    const module = await load(live.get("_esm"));
    const found = module.default ?? module;
    return typeof found === "function" ? await found() : found;
  }

  function addStyle(text) {
    if (!text || styles.has(text)) return;
    styles.add(text);
    document.head.append(Object.assign(document.createElement("style"), { textContent: text }));
  }

  const initialised = new Map(); // model -> promise; two views share one model
  async function show(script) {
    const live = model(JSON.parse(script.textContent).model_id);
    if (!live.get("_esm")) return;
    const widget = await behaviour(live);
    if (!initialised.has(live))
      initialised.set(live, Promise.resolve(widget.initialize?.({ model: live })));
    await initialised.get(live);
    const element = Object.assign(document.createElement("div"), { className: "static-widget" });
    addStyle(live.get("_css"));
    await widget.render?.({ model: live, el: element });
    script.after(element); // only now: a widget that fails leaves its figure in place
    offerFigure(element);
  }

  // A switch between a widget and the static figure of its cell, which it hides.
  function offerFigure(element) {
    const cell = element.closest(".cell_output");
    if (!cell?.querySelector(":scope > :is(img, figure)")) return;
    const button = Object.assign(document.createElement("button"), {
      className: "figure-switch",
      textContent: "Static figure",
      type: "button",
    });
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => {
      const shown = cell.classList.toggle("figure-shown");
      button.setAttribute("aria-pressed", String(shown));
    });
    element.after(button);
  }

  async function start() {
    for (const script of document.querySelectorAll(STATE))
      Object.assign(saved, JSON.parse(script.textContent).state);
    for (const script of document.querySelectorAll(VIEW)) {
      try {
        await show(script);
      } catch (error) {
        console.error("A widget of this page could not be shown.", error);
      }
    }
    document.documentElement.dataset.widgets = "ready";
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
