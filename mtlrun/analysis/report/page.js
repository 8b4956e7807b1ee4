"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const COLOURS = 7, DASHES = 4; // as in marks.py and page.css
  const MANY_PANELS = 9, MANY_LINES = 10;

  function html(name, attributes = {}, ...children) {
    return build(document.createElement(name), attributes, children);
  }
  function svg(name, attributes = {}, ...children) {
    return build(document.createElementNS(SVG, name), attributes, children);
  }
  // Text becomes text nodes: nothing from a run folder is read as HTML.
  function build(node, attributes, children) {
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }
  const look = (method) => `c${method % COLOURS} d${method % DASHES}`;

  // -- sorting --------------------------------------------------------------------------------

  function makeSortable(table) {
    const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    heads.forEach((head, at) => {
      const button = html("button", { type: "button" }, ...head.childNodes);
      head.replaceChildren(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => sortBy(table, heads, at));
    });
  }

  // The first click shows the best on top, or the first by name; the next one turns it round.
  function sortBy(table, heads, at) {
    const head = heads[at];
    const first = head.dataset.better === "higher" ? "descending" : "ascending";
    const turned = first === "ascending" ? "descending" : "ascending";
    const direction = head.getAttribute("aria-sort") === first ? turned : first;
    for (const other of heads) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows].map((row) => [keyOf(row.cells[at]), row]);
    rows.sort(([one], [other]) => compareKeys(one, other, sign));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }

  function keyOf(cell) {
    const text = cell.dataset.value ?? cell.textContent.trim();
    return text !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
  }

  function compareKeys(one, other, sign) {
    if (one === "" || other === "") return (one === "") - (other === ""); // missing: always last
    if (typeof one === "number" && typeof other === "number") return sign * (one - other);
    return sign * String(one).localeCompare(String(other), undefined, { numeric: true });
  }

  // -- tooltip --------------------------------------------------------------------------------

  const tip = html("div", { class: "tip", role: "status", hidden: "" });
  document.body.append(tip);

  function showTip(x, y, ...content) {
    tip.replaceChildren(...content);
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const right = x + 16 + box.width < innerWidth - 8;
    tip.style.left = `${Math.max(right ? x + 16 : x - 16 - box.width, 8)}px`;
    tip.style.top = `${Math.max(Math.min(y + 14, innerHeight - box.height - 8), 8)}px`;
  }
  const hideTip = () => { tip.hidden = true; };

  function explain(node) {
    node.querySelector("title")?.remove(); // the browser's own tooltip would cover ours
    const show = (x, y) => showTip(x, y, node.dataset.tip);
    node.addEventListener("pointermove", (event) => show(event.clientX, event.clientY));
    node.addEventListener("pointerleave", hideTip);
    node.addEventListener("focus", () => {
      const box = node.getBoundingClientRect();
      show(box.right, box.top);
    });
    node.addEventListener("blur", hideTip);
  }

  // -- axes -----------------------------------------------------------------------------------

  function roundStep(least) {
    const power = 10 ** Math.floor(Math.log10(least));
    return [1, 2, 5, 10].map((f) => f * power).find((step) => step >= least * 0.999);
  }

  function linearTicks(low, high, most) {
    const step = roundStep((high - low) / most), ticks = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) {
      ticks.push(k * step);
    }
    return ticks;
  }

  function logTicks(low, high) {
    const powers = [];
    for (let p = Math.floor(Math.log10(low)); p <= Math.log10(high); p++) powers.push(p);
    const factors = powers.length > 4 ? [1] : powers.length > 2 ? [1, 3] : [1, 2, 5];
    const ticks = powers.flatMap((p) => factors.map((f) => f * 10 ** p));
    return ticks.filter((tick) => tick >= low && tick <= high);
  }

  function scale(low, high, start, end, log) {
    const to = log ? Math.log : (value) => value;
    const a = to(low), b = to(high);
    return (value) => start + (to(value) - a) / (b - a) * (end - start);
  }

  function shown(value) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    return size >= 1e5 || size < 1e-3 ? value.toExponential(2) : String(+value.toPrecision(4));
  }

  // -- curves ---------------------------------------------------------------------------------

  function makeChart(place) {
    const data = JSON.parse(document.getElementById(place.dataset.of).textContent);
    const state = { kind: 0, item: -1, log: false, on: new Set() };
    const kinds = html("select", { "aria-label": "figure" }, ...options(data.kinds));
    const items = html("select", { "aria-label": "task or metric" });
    const log = html("input", { type: "checkbox" });
    const all = html("button", { type: "button" }, "show all");
    const none = html("button", { type: "button" }, "hide all");
    const legend = html("div", { class: "legend", role: "group", "aria-label": "methods" });
    const panels = html("div", { class: "panels" });
    place.append(
      html("div", { class: "controls" },
        html("label", {}, "show", kinds), html("label", {}, "of", items),
        html("label", {}, log, "logarithmic"), all, none),
      legend, panels);
    data.methods.forEach((name, at) => { if (at < MANY_LINES) state.on.add(at); });

    const draw = () => {
      const kind = data.kinds[state.kind];
      const wanted = state.item < 0 ? kind.items : [kind.items[state.item]];
      panels.classList.toggle("one", wanted.length === 1);
      const figures = wanted.map(() => html("figure", { class: "panel" }));
      panels.replaceChildren(...figures); // first their widths, then what is drawn into them
      wanted.forEach((item, at) => drawPanel(figures[at], item, kind, data, state));
      drawLegend();
    };
    const drawLegend = () => {
      const there = new Set(data.kinds[state.kind].items.flatMap((i) => i.lines.map((l) => l[0])));
      const entries = [...there].sort((a, b) => a - b).map((method) => {
        const entry = html("button", { type: "button", "aria-pressed": state.on.has(method) },
          swatch(method), data.methods[method]);
        entry.addEventListener("click", () => {
          if (!state.on.delete(method)) state.on.add(method);
          draw();
          legend.querySelector(`[data-method="${method}"]`)?.focus();
        });
        entry.dataset.method = method;
        return entry;
      });
      legend.replaceChildren(...entries);
    };
    const chooseKind = () => {
      const kind = data.kinds[state.kind];
      state.log = kind.log;
      log.checked = kind.log;
      const few = kind.items.length <= MANY_PANELS;
      const whole = few ? [html("option", { value: -1 }, "all of them")] : [];
      items.replaceChildren(...whole, ...options(kind.items));
      state.item = few ? -1 : 0;
      items.value = state.item;
      draw();
    };
    kinds.addEventListener("change", () => { state.kind = +kinds.value; chooseKind(); });
    items.addEventListener("change", () => { state.item = +items.value; draw(); });
    log.addEventListener("change", () => { state.log = log.checked; draw(); });
    all.addEventListener("click", () => {
      data.methods.forEach((name, at) => state.on.add(at));
      draw();
    });
    none.addEventListener("click", () => { state.on.clear(); draw(); });
    let width = 0;
    new ResizeObserver(() => {
      if (place.clientWidth !== width) { width = place.clientWidth; draw(); }
    }).observe(place);
    chooseKind();
  }

  const options = (entries) => entries.map((e, at) => html("option", { value: at }, e.name));

  function swatch(method) {
    return svg("svg", { width: 26, height: 10, class: look(method), "aria-hidden": "true" },
      svg("path", { class: "line", d: "M0 5H26" }));
  }

  function drawPanel(figure, item, kind, data, state) {
    const lines = item.lines.filter(([method]) => state.on.has(method)).map(
      ([method, steps, mean, low, high]) => ({
        method, steps: data.steps[steps], mean, low: low ?? mean, high: high ?? mean,
        band: low !== undefined,
      }));
    const one = state.item >= 0 || data.kinds[state.kind].items.length === 1;
    const width = Math.max(figure.clientWidth, 240), height = one ? 380 : 230;
    const plot = svg("svg", {
      class: "plot", viewBox: `0 0 ${width} ${height}`, tabindex: 0, role: "img",
      "aria-label": `${kind.name}, ${item.name}: ${lines.length} lines over steps`,
    });
    figure.append(html("figcaption", {}, item.name), plot);
    if (!lines.length) {
      plot.append(svg("text", { x: 12, y: 30 }, "No line is switched on."));
      return;
    }
    const box = { left: 54, right: width - 12, top: 10, bottom: height - 34 };
    const axes = makeAxes(lines, box, state.log);
    drawAxes(plot, axes, box);
    for (const line of lines) plot.append(...drawLine(line, axes));
    listen(plot, lines, axes, box, data, width);
  }

  function makeAxes(lines, box, wantsLog) {
    const lows = lines.flatMap((line) => line.low), highs = lines.flatMap((line) => line.high);
    const positive = lows.filter((value) => value > 0);
    const log = wantsLog && positive.length > 0;
    let low = Infinity, high = -Infinity;
    for (const value of log ? positive : lows) low = Math.min(low, value);
    for (const value of highs) high = Math.max(high, value);
    if (log) { low /= 1.1; high = Math.max(high, low) * 1.1; }
    else {
      const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
      low -= room; high += room;
    }
    let first = Infinity, last = -Infinity;
    for (const { steps } of lines) {
      first = Math.min(first, steps[0]);
      last = Math.max(last, steps[steps.length - 1]);
    }
    if (first === last) { first -= 1; last += 1; }
    const y = scale(low, high, box.bottom, box.top, log);
    return {
      x: scale(first, last, box.left, box.right, false),
      y: (value) => y(log ? Math.max(value, low) : value),
      xTicks: linearTicks(first, last, (box.right - box.left) / 90),
      yTicks: log ? logTicks(low, high) : linearTicks(low, high, 5),
    };
  }

  function drawAxes(plot, { x, y, xTicks, yTicks }, box) {
    for (const tick of yTicks) {
      plot.append(
        svg("path", { class: "grid", d: `M${box.left} ${y(tick)}H${box.right}` }),
        svg("text", { x: box.left - 7, y: y(tick) + 4, "text-anchor": "end" }, shown(tick)));
    }
    for (const tick of xTicks) {
      plot.append(svg("text",
        { x: x(tick), y: box.bottom + 16, "text-anchor": "middle" }, shown(tick)));
    }
    plot.append(
      svg("path", { class: "axis", d: `M${box.left} ${box.bottom}H${box.right}` }),
      svg("text", { class: "title", x: box.right, y: box.bottom + 31, "text-anchor": "end" }, "step"));
  }

  function drawLine({ method, steps, mean, low, high, band }, { x, y }) {
    const point = (values) => (step, at) => `${x(step).toFixed(1)} ${y(values[at]).toFixed(1)}`;
    const drawn = [];
    if (band) {
      const back = steps.map(point(low)).reverse();
      const path = `M${steps.map(point(high)).join("L")}L${back.join("L")}z`;
      drawn.push(svg("path", { class: `band ${look(method)}`, d: path }));
    }
    drawn.push(svg("path", {
      class: `line ${look(method)}`, "data-method": method, d: `M${steps.map(point(mean)).join("L")}`,
    }));
    return drawn;
  }

  function nearest(steps, wanted) {
    let low = 0, high = steps.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (steps[middle] < wanted) low = middle; else high = middle;
    }
    return wanted - steps[low] <= steps[high] - wanted ? low : high;
  }

  // A cursor at the nearest step, by pointer or arrow keys, and the values of all lines there.
  function listen(plot, lines, axes, box, data, width) {
    const grid = [...new Set(lines.flatMap((line) => line.steps))].sort((a, b) => a - b);
    const cursor = svg("g");
    plot.append(cursor);
    let at = grid.length - 1;
    const show = (clientX, clientY) => {
      const step = grid[at];
      const here = lines
        .filter(({ steps }) => steps[0] <= step && step <= steps[steps.length - 1])
        .map((line) => ({ line, k: nearest(line.steps, step) }))
        .sort((one, other) => other.line.mean[other.k] - one.line.mean[one.k]);
      const x = axes.x(step);
      cursor.replaceChildren(
        svg("path", { class: "cursor", d: `M${x} ${box.top}V${box.bottom}` }),
        ...here.map(({ line, k }) => svg("circle",
          { class: `near ${look(line.method)}`, cx: x, cy: axes.y(line.mean[k]), r: 4 })));
      showTip(clientX, clientY, html("div", { class: "head" }, `step ${step}`),
        ...here.map(({ line, k }) => html("div", { class: "entry" }, swatch(line.method),
          html("span", {}, data.methods[line.method]), html("span", {}, valueText(line, k)))));
    };
    const leave = () => { cursor.replaceChildren(); hideTip(); };
    plot.addEventListener("pointermove", (event) => {
      const shape = plot.getBoundingClientRect();
      const wanted = (event.clientX - shape.left) / shape.width * width;
      const [first, last] = [axes.x(grid[0]), axes.x(grid[grid.length - 1])];
      const share = (wanted - first) / (last - first || 1);
      at = nearest(grid, grid[0] + share * (grid[grid.length - 1] - grid[0]));
      show(event.clientX, event.clientY);
    });
    plot.addEventListener("pointerleave", leave);
    plot.addEventListener("blur", leave);
    plot.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -grid.length, End: grid.length };
      if (!(event.key in moves)) return;
      event.preventDefault();
      at = Math.min(Math.max(at + moves[event.key], 0), grid.length - 1);
      const shape = plot.getBoundingClientRect();
      show(shape.left + axes.x(grid[at]) / width * shape.width, shape.top + 20);
    });
  }

  function valueText({ mean, low, high, band }, k) {
    return band ? `${shown(mean[k])}  (${shown(low[k])} to ${shown(high[k])})` : shown(mean[k]);
  }

  // On paper nothing can be clicked.
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details.more").forEach((part) => { part.open = true; });
  });

  // -- start ----------------------------------------------------------------------------------

  document.querySelectorAll("table.sortable").forEach(makeSortable);
  document.querySelectorAll("[data-tip]").forEach(explain);
  document.querySelectorAll(".chart").forEach(makeChart);
})();
