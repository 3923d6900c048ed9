// SPDX-License-Identifier: GPL-2.0-only
// The viewers of a septum report: one per counterexample.  The data are in the JSON
// block; everything a reader can do is a function of `position`.
"use strict";

const DATA = JSON.parse(document.getElementById("septum-data").textContent);

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/* States are kept as changes; the state at a step is that before it plus its changes. */
function statesOf(story) {
  const states = [];
  let now = new Map(story.start);
  for (const step of story.steps) {
    if (step.changes.length) {
      now = new Map(now);
      for (const [key, text] of step.changes) {
        if (text === null) now.delete(key);
        else now.set(key, text);
      }
    }
    states.push(now);
  }
  return states;
}

class Viewer {
  constructor(root, story) {
    this.root = root;
    this.story = story;
    this.states = statesOf(story);
    this.position = story.first;
    this.slider = root.querySelector("input[type=range]");
    this.output = root.querySelector("output");
    this.lanes = root.querySelector(".lanes");
    this.rows = [...root.querySelectorAll(".lanes tbody tr")];
    this.live = root.querySelector("[aria-live]");
    this.connect();
    this.show(this.position);
  }

  connect() {
    const go = (by) => this.show(this.next(by));
    this.slider.addEventListener("input", () => this.show(Number(this.slider.value)));
    this.root.querySelector("[data-go=back]").addEventListener("click", () => go(-1));
    this.root.querySelector("[data-go=on]").addEventListener("click", () => go(1));
    this.root.querySelector("[data-go=broken]").addEventListener("click", () =>
      this.show(this.story.broken));
    const brief = this.root.querySelector("[data-go=brief]");
    brief.addEventListener("click", () => {
      const on = this.lanes.classList.toggle("brief");
      brief.setAttribute("aria-pressed", String(on));
      this.reveal();
    });
    const copy = this.root.querySelector("[data-go=copy]");
    copy.hidden = !this.story.mail;
    copy.addEventListener("click", () => this.copy(copy));
    this.rows.forEach((row, at) => row.addEventListener("click", () => this.show(at)));
    this.root.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.target === this.slider && event.key !== "Home" && event.key !== "End"
        && !event.key.startsWith("Arrow")) return;
    const last = this.story.steps.length - 1;
    const to = {
      ArrowLeft: this.next(-1), ArrowUp: this.next(-1),
      ArrowRight: this.next(1), ArrowDown: this.next(1),
      PageUp: Math.max(this.position - 10, 0), PageDown: Math.min(this.position + 10, last),
      Home: 0, End: last,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.show(to);
  }

  /* The next step that is on the screen: folded ones are skipped. */
  next(by) {
    const brief = this.lanes.classList.contains("brief");
    let at = this.position + by;
    while (brief && this.rows[at] && this.rows[at].classList.contains("minor")) at += by;
    return at < 0 || at >= this.rows.length ? this.position : at;
  }

  show(position) {
    const { story } = this;
    this.rows[this.position].classList.remove("now");
    this.rows[this.position].removeAttribute("aria-current");
    this.position = position;
    const step = story.steps[position];
    this.rows[position].classList.add("now");
    this.rows[position].setAttribute("aria-current", "step");
    this.slider.value = String(position);
    const name = story.tasks[step.task];
    this.slider.setAttribute("aria-valuetext", `step ${position}: ${name}, ${step.text}`);
    this.output.textContent = `step ${position} of ${story.steps.length - 1}`;
    this.live.textContent = `Step ${position}, ${name}: ${step.text}`;
    this.tree();
    this.source(step);
    this.told(step);
    this.list(".locks", story.locks.filter((l) => l.from <= position && position < l.to)
      .map((l) => `${l.lock}: ${l.holder} (${l.mode})`), "none held");
    this.list(".cpu", this.facts("cpu"), "no vCPU");
    this.reveal();
  }

  reveal() {
    const row = this.rows[this.position], box = this.lanes;
    const top = row.offsetTop - box.clientHeight / 2;
    box.scrollTop = Math.max(top, 0);
  }

  list(where, items, none) {
    const list = this.root.querySelector(where);
    list.replaceChildren(...(items.length ? items : [none]).map((t) => element("li", {}, t)));
  }

  facts(kind) {
    return [...this.states[this.position]].filter(([key]) => key.startsWith(`${kind}|`))
      .map(([key, text]) => `${key.slice(kind.length + 1)}: ${text}`);
  }

  /* Both trees, one row per level and GFN; keys are "mirror|level|gfn" and so on. */
  tree() {
    const now = this.states[this.position];
    const before = this.states[this.position - 1] || now;
    const cells = new Map();
    for (const state of [before, now]) for (const key of state.keys()) {
      const [tree, level, gfn] = key.split("|");
      if (!["mirror", "sept", "direct"].includes(tree)) continue;
      cells.set(`${level}|${gfn}`, [Number(level), parseInt(gfn, 16), gfn]);
    }
    const order = [...cells].sort(([, a], [, b]) => a[1] - b[1] || b[0] - a[0]);
    const body = this.root.querySelector(".tree tbody");
    const has = (tree) => [...now.keys()].some((k) => k.startsWith(`${tree}|`));
    const direct = has("direct"), hasSept = has("sept");
    this.root.querySelector(".tree").classList.toggle("with-direct", direct);
    body.replaceChildren(...order.map(([where, [level, , gfn]]) => {
      const text = (tree, state) => state.get(`${tree}|${where}`);
      const mirror = text("mirror", now);
      const row = element("tr");
      if (mirror === "FROZEN") row.classList.add("frozen");
      const differs = text("differs", now);
      if (differs) row.classList.add("differs");
      const head = element("th", { scope: "row", class: "mono" }, `level ${level} gfn ${gfn}`);
      head.style.paddingLeft = `${(this.story.levels - level) * 0.9 + 0.4}rem`;
      row.append(head);
      for (const tree of ["mirror", "sept", ...(direct ? ["direct"] : [])]) {
        const none = tree === "sept" && hasSept ? "FREE" : "";
        const cell = element("td", { class: `mono ${tree[0]}` }, text(tree, now) ?? none);
        if (text(tree, now) !== text(tree, before)) {
          row.classList.add("changed");
          cell.classList.add("new");
        }
        row.append(cell);
      }
      const note = [];
      if (mirror === "FROZEN") note.push("frozen");
      if (differs) note.push("differs");
      if (differs) row.title = differs;
      row.append(element("td", {}, note.join(", ")));
      return row;
    }));
    const head = this.root.querySelector(".tree thead tr");
    const names = ["level, gfn", "mirror", "S-EPT", ...(direct ? ["direct"] : []), ""];
    head.replaceChildren(...names.map((n) => element("th", { scope: "col" }, n)));
  }

  source(step) {
    const box = this.root.querySelector(".source");
    const where = this.root.querySelector(".where");
    where.textContent = [step.fn ? `${step.fn}()` : "", step.where].filter(Boolean).join(", ");
    const lines = step.code === null ? [] : DATA.code[step.code];
    box.replaceChildren(...lines.map(([number, text]) => {
      const line = element("span", {}, `${String(number).padStart(4)}  ${text}\n`);
      if (number === step.line) {
        line.className = "at";
        line.setAttribute("aria-current", "true");
      }
      return line;
    }));
    box.hidden = lines.length === 0;
  }

  told(step) {
    this.list(".told", step.told, "nothing");
  }

  async copy(button) {
    const text = this.story.mail;
    let done = false;
    try {
      await navigator.clipboard.writeText(text);
      done = true;
    } catch {
      const area = element("textarea", { readonly: "" });
      area.value = text;
      document.body.append(area);
      area.select();
      done = document.execCommand("copy");
      area.remove();
      button.focus();
    }
    this.live.textContent = done ? "Copied" : "Copying is not allowed here";
    const label = button.textContent;
    button.textContent = done ? "Copied" : "Not allowed here";
    setTimeout(() => { button.textContent = label; }, 1500);
  }
}

function theme() {
  const button = document.querySelector("[data-go=theme]");
  const dark = () => document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  const say = () => { button.textContent = dark() ? "Light" : "Dark"; };
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    say();
  });
  say();
}

theme();
const viewers = Object.entries(DATA.stories).map(([n, story]) =>
  new Viewer(document.getElementById(`story-${n}`), story));
