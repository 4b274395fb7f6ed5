"use strict";
// Draws the grid of edits from the JSON in this page: ordered, filtered, one batch at a time.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const form = document.getElementById("controls");
  if (!form) return;
  const cards = document.getElementById("cards");
  const more = document.getElementById("more");
  const count = document.getElementById("count");
  const dialog = document.getElementById("detail");
  const BATCH = 60;
  const controls = form.elements;
  const columns = new Map(data.metrics.map((metric, index) => [metric.name, index]));
  let shown = [];
  let drawn = 0;
  let open = -1;

  /** An element with attributes and children; text is only ever set as text. */
  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null));
    return made;
  }

  function option(select, value, text) {
    select.append(element("option", { value }, text));
  }

  function figure(item, index) {
    return item.figures[index];
  }

  function said(metric, value) {
    if (value === null) return "–";
    if (metric.yes_no) return value > 0.5 ? "yes" : "no";
    return value.toFixed(metric.decimals);
  }

  /** Negative when the first value is worse; what is absent comes last in both orders. */
  function compare(metric, a, b, best) {
    if (a === null || b === null) return (a === null) - (b === null);
    const worse = metric.lower_is_better ? b - a : a - b;
    return best ? -worse : worse;
  }

  function ordered(items) {
    const order = controls.order.value;
    if (order === "suite") return items;
    const best = order === "best";
    const keys = [columns.get(controls.sort.value), ...data.ties.map((name) => columns.get(name))];
    return items.slice().sort((a, b) => {
      if (a.failed !== b.failed) return best ? a.failed - b.failed : b.failed - a.failed;
      for (const key of keys) {
        const difference = compare(data.metrics[key], figure(a, key), figure(b, key), best);
        if (difference !== 0) return difference;
      }
      return a.index - b.index;
    });
  }

  function picture(media, name, ratio, item) {
    const caption = element("figcaption", {}, name);
    if (media === null) return element("figure", {}, element("div", { class: "nothing" }, "none"), caption);
    const alt = `${name} of ${item.id}: ${item.text}`;
    const made = element("figure", {}, element("img", { src: data.media[media], alt, loading: "lazy" }), caption);
    made.firstChild.style.setProperty("--ratio", ratio);
    return made;
  }

  function difference(item, ratio) {
    const other = controls.difference.value === "target" ? item.target : item.source;
    const caption = element("figcaption", {}, "difference × 4");
    if (item.output === null || other === null) {
      return element("figure", {}, element("div", { class: "nothing" }, "none"), caption);
    }
    const label = `Difference of output and ${controls.difference.value} of ${item.id}`;
    const layer = (media) => element("img", { src: data.media[media], alt: "", loading: "lazy" });
    const box = element("div", { class: "difference", role: "img", "aria-label": label }, layer(other), layer(item.output));
    box.style.setProperty("--ratio", ratio);
    return element("figure", {}, box, caption);
  }

  function reference(entry, index) {
    const label = `reference ${index + 1}` + (entry.label ? `: ${entry.label}` : "");
    const caption = element("figcaption", { title: entry.name }, label);
    if (entry.sound !== undefined) {
      const graph = element("img", { src: data.media[entry.spectrogram], alt: `Spectrogram of ${label}`, loading: "lazy" });
      const player = element("audio", { controls: true, preload: "none", src: data.media[entry.sound], "aria-label": `Sound of ${label}` });
      return element("figure", { class: "sound" }, graph, player, caption);
    }
    if (entry.picture === undefined) {
      return element("figure", {}, element("div", { class: "nothing" }, "unreadable"), caption);
    }
    const image = element("img", { src: data.media[entry.picture], alt: `Picture of ${label}`, loading: "lazy" });
    return element("figure", { class: "picture" }, image, caption);
  }

  function instruction(item) {
    const parts = item.instruction.map((part) => {
      if (typeof part === "string") return part;
      return element("span", { class: "chip" }, part < 0 ? "source" : `reference ${part + 1}`);
    });
    return element("p", { class: "instruction" }, ...parts);
  }

  function value(metric, number) {
    const kind = metric.yes_no && number !== null ? (number > 0.5 ? "yes" : "no") : undefined;
    return element("dd", { class: kind }, said(metric, number));
  }

  function figures(item, indices, kind) {
    const rows = indices.filter((index) => figure(item, index) !== null).map((index) => {
      const metric = data.metrics[index];
      return element("div", {}, element("dt", {}, metric.title), value(metric, figure(item, index)));
    });
    return element("dl", { class: kind }, ...rows);
  }

  function pictures(item) {
    const ratio = item.ratio;
    return element("div", { class: "pictures" },
      picture(item.source, "source", ratio, item), picture(item.output, "output", ratio, item),
      picture(item.target, "target", ratio, item), difference(item, ratio));
  }

  function references(item) {
    if (item.references.length === 0) return null;
    return element("div", { class: "references" }, ...item.references.map(reference));
  }

  function card(item, position) {
    const chosen = columns.get(controls.sort.value);
    const metric = data.metrics[chosen];
    const title = element("h3", {}, item.id, element("span", {}, ` ${item.kind} × ${item.modality}`));
    const mark = metric ? `${metric.title} ${said(metric, figure(item, chosen))}` : "";
    const button = element("button", { type: "button", class: "open", "aria-label": `All about ${item.id}` }, "All figures");
    button.addEventListener("click", () => show(position));
    const main = data.ties.map((name) => columns.get(name)).filter((index) => index !== chosen);
    return element("li", { "data-id": item.id }, element("article", { class: "card", "aria-label": `Edit ${item.id}` },
      element("header", {}, title, element("span", { class: "value" }, mark)),
      instruction(item), item.error ? element("p", { class: "error" }, item.error) : null,
      pictures(item), references(item), figures(item, main, "figures"), button));
  }

  function draw(upto) {
    for (; drawn < Math.min(upto, shown.length); drawn += 1) cards.append(card(shown[drawn], drawn));
    const left = shown.length - drawn;
    more.hidden = left === 0;
    more.textContent = `Show ${Math.min(left, BATCH)} more of ${left}`;
  }

  function matches(item, words) {
    return words.every((word) => item.haystack.includes(word));
  }

  function update() {
    const words = controls.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = data.items.filter((item) =>
      (!controls.kind.value || item.kind === controls.kind.value) &&
      (!controls.modality.value || item.modality === controls.modality.value) && matches(item, words));
    shown = ordered(wanted);
    cards.replaceChildren();
    drawn = 0;
    draw(BATCH);
    count.textContent = `${shown.length} of ${data.items.length} edits`;
    remember();
  }

  /** The view is in the address, so that it can be kept and passed on. */
  function remember() {
    const state = new URLSearchParams();
    for (const control of controls) {
      if (control.name && control.value && control.value !== control.dataset.initial) state.set(control.name, control.value);
    }
    const text = state.toString();
    if (!text && location.hash && !location.hash.includes("=")) return; // a link to a heading
    if (location.hash.slice(1) !== text) history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  }

  function recall() {
    const state = new URLSearchParams(location.hash.slice(1));
    for (const control of controls) {
      if (!control.name) continue;
      control.value = state.get(control.name) ?? control.dataset.initial;
      if (control.selectedIndex === -1) control.value = control.dataset.initial;
    }
  }

  function show(position) {
    open = position;
    const item = shown[position];
    const step = (by, text) => {
      const button = element("button", { type: "button", disabled: !shown[position + by] }, text);
      button.addEventListener("click", () => show(position + by));
      return button;
    };
    const close = element("button", { type: "button" }, "Close");
    close.addEventListener("click", () => dialog.close());
    const title = element("h2", { id: "detail-title" }, `${item.id}: ${item.kind} × ${item.modality}`);
    const buttons = element("div", {}, step(-1, "← Previous"), " ", step(1, "Next →"), " ", close);
    const every = element("div", { class: "columns" }, figures(item, [...columns.values()], "figures"));
    dialog.replaceChildren(element("div", { class: "bar" }, title, buttons), instruction(item),
      item.error ? element("p", { class: "error" }, item.error) : "", pictures(item), references(item) ?? "",
      item.plan ? element("pre", { "aria-label": "Plan" }, item.plan) : "",
      item.caption ? element("p", { class: "note" }, `Target: ${item.caption}`) : "", every);
    if (!dialog.open) dialog.showModal();
    close.focus();
  }

  dialog.addEventListener("keydown", (event) => {
    if (event.target.tagName === "AUDIO") return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by && shown[open + by]) show(open + by);
  });
  dialog.addEventListener("close", () => cards.children[open]?.querySelector(".open")?.focus());

  data.items.forEach((item, index) => {
    item.index = index;
    item.failed = Number(Boolean(item.error));
    item.text = item.instruction.map((part) => (typeof part === "string" ? part : part < 0 ? "source" : `reference ${part + 1}`)).join("");
    const labels = item.references.map((entry) => `${entry.name} ${entry.label ?? ""}`);
    item.haystack = [item.id, item.text, item.plan, item.caption, item.error, ...labels].join("\n").toLowerCase();
  });
  data.metrics.forEach((metric) => option(controls.sort, metric.name, metric.title));
  const values = (field) => [...new Set(data.items.map((item) => item[field]))].sort();
  values("kind").forEach((kind) => option(controls.kind, kind, kind));
  values("modality").forEach((modality) => option(controls.modality, modality, modality));
  if (data.ties.length > 0) controls.sort.value = data.ties[0];
  for (const control of controls) control.dataset.initial = control.value;
  recall();
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", () => {
    // A link to a heading is no view.
    if (location.hash && !location.hash.includes("=")) return;
    recall();
    update();
  });
  more.addEventListener("click", () => {
    const first = drawn;
    draw(drawn + BATCH);
    cards.children[first]?.querySelector(".open")?.focus();
  });
  update();
})();
