// The report in a browser: figures, tables and answers side by side. What models and files say is
// set as text, never as markup.
"use strict";
const svdjobs = (() => {
  const parts = new Map(); // name → {promise, resolve}

  function slot(name) {
    if (!parts.has(name)) {
      const own = {};
      own.promise = new Promise((resolve, reject) => Object.assign(own, {resolve, reject}));
      parts.set(name, own);
    }
    return parts.get(name);
  }

  async function unpack(base64) {
    const bytes = Uint8Array.from(atob(base64.trim()), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  // Called by the scripts beside the page.
  function part(name, base64) {
    unpack(base64).then(slot(name).resolve, slot(name).reject);
  }

  function load(name) {
    const known = parts.has(name);
    const own = slot(name);
    if (known) return own.promise;
    const inside = document.querySelector(`script[data-part="${CSS.escape(name)}"]`);
    if (inside) {
      part(name, inside.textContent);
      return own.promise;
    }
    const script = document.createElement("script");
    script.src = `problems/${encodeURIComponent(name)}.js`;
    script.onerror = () => {
      parts.delete(name);
      own.reject(new Error(
        `problems/${name}.js is not beside this page. Copy the whole folder report/ of the run.`));
    };
    document.head.append(script);
    return own.promise;
  }

  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(properties)) {
      if (key in element) element[key] = value;
      else element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  }

  // ---- Theme ----

  function theme() {
    const button = document.getElementById("theme");
    const dark = () => {
      const set = document.documentElement.dataset.theme;
      return set ? set === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    };
    const show = () => { button.textContent = dark() ? "Light" : "Dark"; };
    button.addEventListener("click", () => {
      document.documentElement.dataset.theme = dark() ? "light" : "dark";
      show();
    });
    show();
  }

  // ---- Figures ----

  const CONFIG = {
    background: "transparent", font: "system-ui, sans-serif", view: {stroke: null},
    mark: {aria: false},
    axis: {labelColor: "currentColor", titleColor: "currentColor", domainColor: "currentColor",
      tickColor: "currentColor", gridColor: "currentColor", gridOpacity: 0.15, labelFontSize: 12,
      titleFontSize: 12, titleFontWeight: 500, aria: false},
    legend: {labelColor: "currentColor", titleColor: "currentColor", labelFontSize: 12,
      titleFontSize: 12, symbolOpacity: 1, symbolBaseStrokeColor: "currentColor", aria: false},
    title: {color: "currentColor", subtitleColor: "currentColor", fontWeight: 600, aria: false},
    text: {color: "currentColor"},
  };
  const AXIS = 96; // room for an axis with its title, beside each of several views

  function sized(spec, width) {
    const found = structuredClone(spec);
    found.config = CONFIG;
    if (found.concat) {
      found.columns = width > 700 ? 2 : 1;
      for (const view of found.concat) view.width = Math.max(150, width / found.columns - AXIS);
    } else if (typeof found.height === "object") { // a step for each row
      found.width = width - AXIS;
    } else {
      found.width = width;
      found.autosize = {type: "fit-x", contains: "padding"};
    }
    if (width < 560) {
      oneColumn(found);
      const under = {anchor: "start", direction: "vertical"};
      found.config = {...CONFIG, legend: {...CONFIG.legend, layout: {bottom: under}}};
    }
    for (const view of found.concat || [found]) numbersThatFit(view, found.concat ? view.width : width - AXIS);
    return found;
  }

  // A number in a cell of a heat map needs about 40 pixels; without them hovering tells it.
  function numbersThatFit(view, width) {
    if (typeof view.height !== "object") return;
    const columns = new Set(view.data.values.map((row) => row.column)).size;
    if (width / columns >= 40) return;
    view.layer = view.layer.filter((layer) => layer.mark.type !== "text");
    if (view.encoding.x.axis.labelAngle) view.encoding.x.axis.labelAngle = -90;
  }

  function oneColumn(node) {
    if (node === null || typeof node !== "object") return;
    if (node.legend?.columns) Object.assign(node.legend, {columns: 1, labelLimit: 280});
    for (const value of Object.values(node)) oneColumn(value);
  }

  function chartRows(spec) {
    return (spec.concat || [spec]).flatMap((view) => view.data?.values || []);
  }

  function csv(rows) {
    const keys = [...new Set(rows.flatMap((row) => Object.keys(row)))];
    const cell = (value) => {
      const text = value === null || value === undefined ? "" : String(value);
      // A spreadsheet takes text that begins with one of these for a formula.
      const safe = typeof value === "string" && /^\s*[=+\-@]/.test(text) ? `'${text}` : text;
      return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
    };
    return [keys, ...rows.map((row) => keys.map((key) => row[key]))]
      .map((row) => row.map(cell).join(",")).join("\n") + "\n";
  }

  function download(name, url) {
    make("a", {href: url, download: name}).click();
  }

  async function draw(figure) {
    const spec = JSON.parse(figure.querySelector("script").textContent);
    const box = figure.querySelector(".chart");
    let view, width = 0;
    async function embed() {
      if (Math.abs(box.clientWidth - width) < 4) return;
      width = box.clientWidth;
      const result = await vegaEmbed(box, sized(spec, width),
        {renderer: "svg", actions: false, mode: "vega-lite"});
      view = result.view;
      const svg = box.querySelector("svg");
      svg.setAttribute("role", "img");
      svg.setAttribute("aria-label", figure.dataset.title);
      if (figure.dataset.details) view.addEventListener("click", (_, item) => {
        if (item?.datum?.column) details(figure.dataset.details, item.datum);
      });
    }
    await embed();
    let timer;
    addEventListener("resize", () => { clearTimeout(timer); timer = setTimeout(embed, 200); });
    const name = figure.dataset.name;
    const tools = figure.querySelector(".tools");
    const image = (type) => async () => download(`${name}.${type}`, await view.toImageURL(type, 2));
    tools.append(
      make("button", {type: "button", onclick: image("svg")}, "SVG"),
      make("button", {type: "button", onclick: image("png")}, "PNG"),
      make("button", {type: "button", onclick: () => {
        const blob = new Blob([csv(chartRows(spec))], {type: "text/csv"});
        download(`${name}.csv`, URL.createObjectURL(blob));
      }}, "Data"));
    if (figure.dataset.details) choice(figure, chartRows(spec));
  }

  // The same dialog for those who use keys.
  function choice(figure, rows) {
    const cells = new Map(rows.map((row) => [`${row.row} ${row.column}`, row]));
    const list = make("select", {}, ...[...cells.keys()].map((cell) => make("option", {value: cell}, `layer ${cell}`)));
    list.setAttribute("aria-label", "Layer and module");
    figure.querySelector(".tools").append(list, make("button", {type: "button",
      onclick: () => details(figure.dataset.details, cells.get(list.value))}, "All metrics"));
  }

  // All metrics of the matrices of one cell of a heat map.
  async function details(part_, cell) {
    const all = await load(part_);
    const found = all.cells[`${cell.layer ?? "-"} ${cell.column}`] || [];
    const dialog = document.getElementById("details");
    const body = dialog.querySelector(".body");
    dialog.querySelector("h3").textContent = `Layer ${cell.row}, ${cell.column}`;
    let last = "";
    const said = (metric) => { // once for several numbers of a metric
      const own = metric.split(".")[0], again = own === last;
      last = own;
      return again ? "" : all.what[own] || "";
    };
    body.replaceChildren(...found.map(({name, shape, values}) => {
      const rows = values.map(([metric, value, random]) => make("tr", {},
        make("th", {scope: "row"}, metric), make("td", {}, number(value)),
        make("td", {}, number(random)), make("td", {}, random ? number(value / random) : "-"),
        make("td", {className: "words"}, said(metric))));
      const head = ["metric", "measured", "random update", "ratio", "what it says"]
        .map((text) => make("th", {scope: "col"}, text));
      head.at(-1).className = "words";
      const box = make("div", {className: "scroll", tabIndex: 0, role: "region"}, make("table", {},
        make("caption", {}, `${name}, ${shape.join(" × ")}`),
        make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows)));
      box.setAttribute("aria-label", name);
      return box;
    }));
    dialog.showModal();
  }

  function number(value) {
    return value === null || value === undefined ? "-" : String(Number(value.toPrecision(4)));
  }

  // ---- Tables ----

  const UNKNOWN = /^(-|)$/;

  function sortKey(text) {
    const found = text.replaceAll(",", "").match(/^[+-]?\d+(\.\d+)?(e[+-]?\d+)?/i);
    return found ? Number(found[0]) : UNKNOWN.test(text) ? null : text;
  }

  function compare(a, b) {
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), undefined, {numeric: true});
  }

  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = make("button", {type: "button", title: "Sort"}, ...head.childNodes);
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const rows = [...table.tBodies[0].rows].map((row) => [sortKey(row.cells[column].innerText), row]);
        rows.sort(([a], [b]) => (a === null || b === null ? compare(a, b) : (up ? 1 : -1) * compare(a, b)));
        table.tBodies[0].append(...rows.map(([, row]) => row));
      });
    });
  }

  // ---- Mathematics ----

  const DELIMITERS = [
    {left: "$$", right: "$$", display: true}, {left: "\\[", right: "\\]", display: true},
    {left: "\\(", right: "\\)", display: false}, {left: "$", right: "$", display: false},
  ];

  function mathematics(element) {
    // KaTeX makes MathML only, runs no command that loads or links, and shows what it cannot read.
    renderMathInElement(element, {
      delimiters: DELIMITERS, output: "mathml", throwOnError: false, trust: false, strict: "ignore",
      maxSize: 20, maxExpand: 300,
      preProcess: (tex) => {
        if (tex.length > 4000) throw new katex.ParseError("too long");
        return tex;
      },
      errorCallback: () => {},
    });
  }

  // ---- Problems ----

  const WORDS = {1: "correct", 0: "wrong", t: "truncated", n: "no answer", u: "unscored"};
  const right = (signs) => [...signs].filter((sign) => sign === "1").length;
  const has = (signs, sign) => signs.includes(sign);
  const flipped = (a, b) => [...a].some((sign, i) => (sign === "1") !== (b[i] === "1"));
  const FILTERS = {
    "all problems": () => true,
    "flipped between the two": (a, b) => flipped(a, b),
    "second is worse": (a, b) => right(b) < right(a),
    "second is better": (a, b) => right(b) > right(a),
    "truncated": (a, b) => has(a, "t") || has(b, "t"),
    "no answer": (a, b) => has(a, "n") || has(b, "n"),
    "unscored": (a, b) => has(a, "u") || has(b, "u"),
  };
  const gained = (a, b) => [...a].filter((sign, i) => sign !== "1" && b[i] === "1").length;
  const ORDERS = {
    "number": (p) => p.idx,
    "largest change first": (p, a, b) => -Math.abs(right(p.signs[b]) - right(p.signs[a])),
    "most flips first": (p, a, b) => -gained(p.signs[a], p.signs[b]) - gained(p.signs[b], p.signs[a]),
    "hardest for the first": (p, a) => right(p.signs[a]),
    "hardest for the second": (p, a, b) => right(p.signs[b]),
  };

  function options(select, values, chosen) {
    select.replaceChildren(...values.map((value) => make("option", {value, selected: value === chosen}, value)));
  }

  async function problems(section) {
    const control = (name) => section.querySelector(`[name="${name}"]`);
    const names = JSON.parse(section.dataset.benchmarks);
    const body = section.querySelector("tbody");
    const head = section.querySelector("thead tr");
    const status = section.querySelector("output");
    let index, shown = [], sorted = null;

    options(control("benchmark"), names);
    options(control("filter"), Object.keys(FILTERS));
    options(control("order"), Object.keys(ORDERS));

    async function open() {
      const data = await load(`index-${control("benchmark").value}`);
      const ids = data.checkpoints;
      index = {
        name: data.benchmark, ids,
        problems: data.problems.map(([idx, part, words, signs]) => ({idx, part, words, signs})),
      };
      const first = ids.includes("after") ? "after" : ids[0];
      options(control("first"), ids, first);
      options(control("second"), ids, ids.find((id) => id.startsWith("alpha")) ||
        ids.find((id) => id !== first) || first);
      const keys = [(p) => p.idx, (p) => p.words, (p, i, j) => gained(p.signs[j], p.signs[i]),
        (p, i, j) => gained(p.signs[i], p.signs[j]), ...ids.map((_, i) => (p) => right(p.signs[i]))];
      const heads = ["problem", "words", "worse", "better", ...ids].map((text, i) =>
        make("th", {scope: "col", className: 0 < i && i < 4 ? text : ""},
          make("button", {type: "button", title: "Sort", onclick: () => sortBy(i)}, text)));
      const sortBy = (i) => { // the most first; again: the least
        sorted = {key: keys[i], up: heads[i].getAttribute("aria-sort") === "descending" || i < 2 && !heads[i].hasAttribute("aria-sort")};
        heads.forEach((one) => one.removeAttribute("aria-sort"));
        heads[i].setAttribute("aria-sort", sorted.up ? "ascending" : "descending");
        list();
      };
      head.replaceChildren(...heads);
      list();
    }

    function list() {
      const a = index.ids.indexOf(control("first").value);
      const b = index.ids.indexOf(control("second").value);
      const text = control("text").value.trim().toLowerCase();
      const wanted = FILTERS[control("filter").value];
      const order = ORDERS[control("order").value];
      shown = index.problems
        .filter((p) => wanted(p.signs[a], p.signs[b]))
        .filter((p) => !text || p.words.toLowerCase().includes(text) || String(p.idx) === text);
      shown.sort((p, q) => order(p, a, b) - order(q, a, b) || p.idx - q.idx);
      if (sorted) {
        const key = sorted.key;
        shown.sort((p, q) => (sorted.up ? 1 : -1) * compare(key(p, a, b), key(q, a, b)));
      }
      body.replaceChildren(...shown.map((p, place) => {
        const cells = p.signs.map((signs) => {
          const share = right(signs) / Math.max(1, signs.length);
          const marks = [..."tnu"].filter((sign) => has(signs, sign)).map((sign) => WORDS[sign]);
          const cell = make("td", {className: "share", title: marks.join(", ")},
            `${right(signs)}/${signs.length}${marks.length ? " *" : ""}`);
          cell.style.setProperty("--share-colour",
            `color-mix(in oklab, var(--good) ${Math.round(100 * share)}%, var(--bad))`);
          return cell;
        });
        const button = make("button", {type: "button", onclick: () => look(place)}, String(p.idx));
        button.setAttribute("aria-label", `Open problem ${p.idx}`);
        const worse = gained(p.signs[b], p.signs[a]), better = gained(p.signs[a], p.signs[b]);
        const row = make("tr", {className: "problem"}, make("td", {}, button),
          make("td", {className: "words"}, p.words),
          make("td", {className: "worse"}, worse ? `−${worse}` : ""),
          make("td", {className: "better"}, better ? `+${better}` : ""), ...cells);
        row.addEventListener("click", (event) => { if (event.target !== button) look(place); });
        return row;
      }));
      if (!shown.length) body.append(make("tr", {}, make("td", {className: "none", colSpan: 4 + index.ids.length},
        text ? `No problem that is shown has “${text}”.`
          : "No problem is like that for these two checkpoints. Choose other ones, or show all problems.")));
      status.textContent = `${shown.length} of ${index.problems.length} problems`;
    }

    const dialog = document.getElementById("problem");
    const at = (name) => dialog.querySelector(`.${name}`);
    let place = 0, sample = 0;

    async function look(chosen, kept) {
      place = Math.max(0, Math.min(shown.length - 1, chosen));
      const p = shown[place];
      dialog.querySelector("h3").textContent = `${index.name}, problem ${p.idx}`;
      at("where").textContent = `${place + 1} of ${shown.length}`;
      if (!dialog.open) dialog.showModal();
      let found;
      try {
        found = (await load(`${index.name}-${p.part}`))[p.idx];
      } catch (error) {
        at("question").textContent = error.message;
        at("beside").replaceChildren();
        return;
      }
      at("question").textContent = found.problem;
      mathematics(at("question"));
      at("gold").textContent = found.gold;
      const a = index.ids.indexOf(control("first").value);
      const b = index.ids.indexOf(control("second").value);
      const count = Math.max(found.answers[a].length, found.answers[b].length);
      if (!kept) {
        sample = [...p.signs[a]].findIndex((sign, i) => (sign === "1") !== (p.signs[b][i] === "1"));
        const sign = {truncated: "t", "no answer": "n", unscored: "u"}[control("filter").value];
        if (sign) sample = [...p.signs[a]].findIndex((own, i) => own === sign || p.signs[b][i] === sign);
        sample = Math.max(0, sample);
      }
      at("samples").replaceChildren(...Array.from({length: count}, (_, i) => {
        const sign = (k) => WORDS[p.signs[k][i]] || "-";
        const same = sign(a) === sign(b);
        return make("button", {type: "button", "aria-pressed": String(i === sample), "data-sample": i,
          onclick: () => { sample = i; look(place, true); }},
          `${i + 1}: ${sign(a)}${same ? "" : ` → ${sign(b)}`}`);
      }));
      at("beside").replaceChildren(...[a, b].map((own, side) => answer(
        index.ids[own], found.answers[own][sample], found.answers[side ? a : b][sample])));
      const parting = found.answers[b][sample]?.parting || found.answers[a][sample]?.parting;
      const other = found.answers[b][sample]?.parting ? b : a;
      const both = [a, b].includes(index.ids.indexOf("after"));
      // A button that was replaced has lost the focus, and with it the arrow keys.
      if (document.activeElement === document.body) dialog.focus();
      at("parting").textContent = both && a !== b ? partingWords(parting, index.ids[other],
        found.answers[a][sample]?.text === found.answers[b][sample]?.text) : "";
    }

    function partingWords(parting, other, same) {
      if (!parting) return same ? "The same answer, token by token." : "";
      const [token, after, own] = parting;
      const chances = after === null ? "" : ` after's token there has probability ` +
        `${number(after)} under after and ${number(own)} under ${other}.`;
      return `The two part at token ${token + 1}.${chances}`;
    }

    function answer(id, one, other) {
      if (!one) return make("div", {}, make("h4", {}, id), make("p", {}, "no completion"));
      let common = 0;
      if (other) while (common < one.text.length && one.text[common] === other.text[common]) common++;
      const before = make("span", {}, one.text.slice(0, common));
      // The word that differs, and what follows.
      const end = common + one.text.slice(common).match(/^\s*\S*/)[0].length;
      const parted = make("span", {className: "parted"}, one.text.slice(common, end));
      const rest = make("span", {className: "rest"}, one.text.slice(end));
      const text = make("div", {className: "text", tabIndex: 0, role: "region"}, before, parted, rest);
      text.setAttribute("aria-label", `answer of ${id}`);
      mathematics(text);
      const outcome = one.outcome.replaceAll("_", " ");
      return make("div", {}, make("h4", {}, id),
        make("p", {className: one.outcome === "correct" ? "correct" : "wrong"},
          `${outcome}; answer: ${one.answer ?? "none"}`),
        text,
        make("p", {className: "soft"}, `${one.tokens} tokens, finish reason ${one.finish}, seed ${one.seed}`));
    }

    dialog.addEventListener("close", () => body.rows[place]?.querySelector("button")?.focus());
    at("previous").addEventListener("click", () => look(place - 1));
    at("next").addEventListener("click", () => look(place + 1));
    dialog.addEventListener("keydown", (event) => {
      if (event.target.closest(".text, input, select")) return;
      if (event.key === "ArrowLeft") look(place - 1);
      if (event.key === "ArrowRight") look(place + 1);
    });
    control("benchmark").addEventListener("change", open);
    for (const name of ["first", "second", "filter"]) control(name).addEventListener("change", list);
    control("order").addEventListener("change", () => {
      sorted = null;
      head.querySelectorAll("th").forEach((one) => one.removeAttribute("aria-sort"));
      list();
    });
    control("text").addEventListener("input", list);
    await open();
  }

  async function start() {
    theme();
    document.querySelectorAll("table.sortable").forEach(sortable);
    document.querySelectorAll("dialog .close").forEach((button) =>
      button.addEventListener("click", () => button.closest("dialog").close()));
    // A closed <details> is not printed.
    addEventListener("beforeprint", () =>
      document.querySelectorAll("details").forEach((one) => { one.open = true; }));
    const section = document.getElementById("problems");
    if (section) await problems(section);
    for (const figure of document.querySelectorAll("figure[data-name]")) await draw(figure);
    document.documentElement.dataset.ready = "yes";
  }
  addEventListener("DOMContentLoaded", start);
  return {part};
})();
