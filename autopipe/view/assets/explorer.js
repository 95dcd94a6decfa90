// The graph of the page: boxes that open into the modules inside them, down to single operations; laid out by dagre.
"use strict";
(() => {
  const plan = JSON.parse(document.getElementById("plan").textContent);
  const nodes = plan.nodes.map(([name, op, stage, box, units, fwd, bwd, params, out, saved]) =>
    ({ name, op, stage, box, units, fwd, bwd, params, out, saved, path: [] }));
  const opened = new Set();
  const sent = new Map(plan.sent.map(([value, , dst, nbytes, grad]) => [`${dst} ${value}`, { nbytes, grad }]));
  let chosen = null;
  let zoom = 1;

  // Every node's way inwards from its box: [{key, label}], the node itself last. Levels with one way only are skipped.
  const BOX_WIDTH = 190;
  const TITLE_ROOM = 14; // dagre keeps no room for the titles of clusters
  const byBox = plan.boxes.map(() => []);
  nodes.forEach((node) => byBox[node.box].push(node));
  byBox.forEach((members, box) => members.forEach((node) => node.path.push({ key: `b${box}`, label: plan.boxes[box][0] })));
  const deepen = (members, depth, key) => {
    if (members.length < 2) return;
    const groups = new Map();
    for (const node of members) {
      const unit = node.units[depth];
      const id = unit === undefined ? `${key}/#${node.name}` : `${key}/${unit}`;
      if (!groups.has(id)) groups.set(id, []);
      groups.get(id).push(node);
    }
    for (const [id, inside] of groups) {
      const isNode = inside[0].units[depth] === undefined;
      const label = isNode ? inside[0].op : shorter(inside[0].units[depth], inside[0].units[depth - 1]);
      if (groups.size > 1) inside.forEach((node) => node.path.push({ key: id, label }));
      if (!isNode) deepen(inside, depth + 1, id);
    }
  };
  const shorter = (unit, outer) => (outer && unit.startsWith(`${outer}.`) ? unit.slice(outer.length + 1) : unit);
  byBox.forEach((members, box) => deepen(members, 0, `b${box}`));

  const ms = (time) => (time >= 1000 ? `${(time / 1000).toFixed(2)} s` : time >= 1 ? `${time.toFixed(2)} ms`
    : time ? `${(time * 1000).toFixed(1)} us` : "");
  const bytes = (size) => {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = 0;
    for (; size >= 999.5 && unit < 4; unit += 1) size /= 1024;
    return `${size.toFixed(unit && size < 9.95 ? 1 : 0)} ${units[unit]}`;
  };

  const sum = (numbers) => [...numbers].reduce((total, one) => total + one, 0);

  const count = (box) => (box.members.length === 1 ? "1 operation" : `${box.members.length} operations`);

  // What is shown: the deepest step of each node's way whose outer steps are all opened.
  const shownStep = (node) => {
    let depth = 0;
    while (depth + 1 < node.path.length && opened.has(node.path[depth].key)) depth += 1;
    return depth;
  };
  const shownGraph = () => {
    const boxes = new Map();
    const frames = new Map(); // opened modules, outer ones first
    for (const node of nodes) {
      const depth = shownStep(node);
      const { key, label } = node.path[depth];
      if (!boxes.has(key)) {
        let outer = `stage${node.stage}`;
        for (const step of node.path.slice(0, depth)) {
          frames.set(step.key, { ...step, id: `frame ${step.key}`, outer, stage: node.stage });
          outer = `frame ${step.key}`;
        }
        boxes.set(key, { key, label, outer, stage: node.stage, members: [], opens: false, compute: 0, params: 0 });
      }
      const box = boxes.get(key);
      box.members.push(node);
      box.opens ||= node.path.length > depth + 1;
      box.compute += node.fwd + node.bwd;
      box.params += node.params;
      node.shown = key;
    }
    const wires = new Map();
    for (const [maker, reader] of plan.edges) {
      const [a, b] = [nodes[maker], nodes[reader]];
      if (a.shown === b.shown) continue;
      const id = `${a.shown} ${b.shown}`;
      if (!wires.has(id)) wires.set(id, { from: a.shown, to: b.shown, stage: a.stage, cut: a.stage !== b.stage, values: new Map() });
      const message = a.stage !== b.stage ? sent.get(`${b.stage} ${a.name}`) : { nbytes: a.out };
      wires.get(id).values.set(a.name, message);
    }
    // A value crosses once to each stage, however many read it there: the first of such wires carries the bytes.
    const labelled = new Map();
    for (const wire of wires.values()) {
      const id = `${wire.from} ${boxes.get(wire.to).stage}`;
      if (!wire.cut) continue;
      if (!labelled.has(id)) labelled.set(id, Object.assign(wire, { label: new Map() }));
      wire.values.forEach((message, value) => message && labelled.get(id).label.set(value, message.nbytes));
    }
    return { boxes, frames: [...frames.values()], wires: [...wires.values()] };
  };

  // Drawing
  const SVG = "http://www.w3.org/2000/svg";
  const draw = (tag, attributes, parent, text) => {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  };
  const fit = (label, width) => (label.length <= width ? label
    : `${label.slice(0, Math.ceil((width - 1) / 2))}~${label.slice(label.length - Math.floor((width - 1) / 2))}`);

  const render = () => {
    const { boxes, frames, wires } = shownGraph();
    const layout = new dagre.graphlib.Graph({ compound: true, multigraph: false });
    layout.setGraph({ rankdir: "TB", nodesep: 24, ranksep: 40, marginx: 16, marginy: 28 });
    layout.setDefaultEdgeLabel(() => ({}));
    plan.stages.forEach((stage, index) => layout.setNode(`stage${index}`, { label: stage.title }));
    for (const frame of frames) {
      layout.setNode(frame.id, {});
      layout.setParent(frame.id, frame.outer);
    }
    for (const box of boxes.values()) {
      layout.setNode(box.key, { width: BOX_WIDTH, height: 42 });
      layout.setParent(box.key, box.outer);
    }
    for (const wire of wires) layout.setEdge(wire.from, wire.to, wire.label ? { width: 60, height: 14, labelpos: "c" } : {});
    plan.stages.forEach((_, index) => {
      if (!layout.children(`stage${index}`).length) layout.removeNode(`stage${index}`);
    });
    dagre.layout(layout);

    const { width, height } = layout.graph();
    const picture = draw("svg", { width: width * zoom, height: height * zoom, viewBox: `0 0 ${width} ${height}`, "font-size": 12 });
    plan.stages.forEach((stage, index) => {
      if (!layout.hasNode(`stage${index}`)) return;
      const { x, y, width: w, height: h } = layout.node(`stage${index}`);
      const [left, top] = [x - w / 2, y - h / 2 - TITLE_ROOM];
      draw("rect", { x: left, y: top, width: w, height: h + TITLE_ROOM, rx: 8, fill: stage.pale, stroke: stage.light }, picture);
      draw("text", { x: left + 10, y: top + 17, fill: stage.ink, "font-weight": 600 }, picture, stage.title);
    });
    for (const frame of frames) renderFrame(picture, layout.node(frame.id), frame);
    for (const wire of wires) renderWire(picture, layout, wire);
    for (const box of boxes.values()) renderBox(picture, layout.node(box.key), box);
    document.getElementById("graph").replaceChildren(picture);
    renderChosen(boxes);
  };

  const renderWire = (picture, layout, wire) => {
    const edge = layout.edge(wire.from, wire.to);
    const colour = wire.cut ? plan.stages[wire.stage].strong : "#8792a2";
    const messages = [...wire.values.values()].filter(Boolean);
    const total = sum(messages.map((message) => message.nbytes));
    const group = draw("g", { class: "wire", "data-from": wire.from, "data-to": wire.to }, picture);
    const points = edge.points;
    let way = `M${points[0].x} ${points[0].y}`;
    for (let i = 1; i < points.length - 1; i += 1) {
      const [middleX, middleY] = [(points[i].x + points[i + 1].x) / 2, (points[i].y + points[i + 1].y) / 2];
      const last = i === points.length - 2;
      way += `Q${points[i].x} ${points[i].y} ${last ? points[i + 1].x : middleX} ${last ? points[i + 1].y : middleY}`;
    }
    if (points.length === 2) way += `L${points[1].x} ${points[1].y}`;
    const dash = wire.cut && !messages.length ? { "stroke-dasharray": "4 3" } : {};
    draw("path", { d: way, fill: "none", stroke: colour, "stroke-width": wire.cut ? 2.2 : 1.2, ...dash }, group);
    const [before, tip] = points.slice(-2);
    const angle = Math.atan2(tip.y - before.y, tip.x - before.x) * 180 / Math.PI;
    const size = wire.cut ? 8 : 6;
    const head = `M0 0L${-size} ${-size * 0.5}L${-size} ${size * 0.5}Z`;
    draw("path", { d: head, fill: colour, transform: `translate(${tip.x} ${tip.y}) rotate(${angle})` }, group);
    if (wire.label) {
      const halo = { stroke: "#fff", "stroke-width": 3, "paint-order": "stroke" };
      const at = { x: edge.x, y: edge.y + 4, "text-anchor": "middle", "font-size": 10, "font-weight": 600 };
      draw("text", { ...at, ...halo, fill: plan.stages[wire.stage].ink }, group, wire.label.size ? bytes(sum(wire.label.values())) : "not sent");
    }
    draw("title", {}, group, `${[...wire.values.keys()].join(", ")}: ${bytes(total)}`);
  };

  const sign = (parent, x, y, stage, text, act) => {
    const mark = draw("g", { class: "sign", transform: `translate(${x} ${y})` }, parent);
    draw("circle", { r: 8, fill: stage.pale, stroke: stage.light }, mark);
    draw("text", { y: 4, "text-anchor": "middle", fill: stage.ink, "font-weight": 600 }, mark, text);
    draw("title", {}, mark, text === "+" ? "open" : "close");
    mark.addEventListener("click", (event) => { event.stopPropagation(); act(); render(); });
  };

  const renderFrame = (picture, place, frame) => {
    const stage = plan.stages[frame.stage];
    const [left, top] = [place.x - place.width / 2, place.y - place.height / 2 - TITLE_ROOM];
    const size = { width: place.width, height: place.height + TITLE_ROOM, rx: 7 };
    draw("rect", { x: left, y: top, ...size, fill: "#fff", "fill-opacity": 0.6, stroke: stage.light }, picture);
    draw("text", { x: left + 8, y: top + 15, fill: stage.ink, "font-size": 11 }, picture, fit(frame.label, 40));
    sign(picture, left + place.width - 13, top + 12, stage, "\u2212", () => opened.delete(frame.key));
  };

  const renderBox = (picture, place, box) => {
    const stage = plan.stages[box.stage];
    const [left, top] = [place.x - place.width / 2, place.y - place.height / 2];
    const group = draw("g", { class: "box", "data-key": box.key, tabindex: 0 }, picture);
    draw("rect", { x: left, y: top, width: place.width, height: place.height, rx: 5, fill: "#fff", stroke: stage.strong }, group);
    const share = plan.slowest_ms ? Math.min(1, box.compute / plan.slowest_ms) : 0;
    draw("rect", { x: left + 1, y: top + place.height - 4, width: share * (place.width - 2), height: 3, rx: 1.5, fill: stage.light }, group);
    draw("text", { x: left + 9, y: top + 17, fill: "#1d2430", "font-weight": 500 }, group, fit(box.label, 22));
    const facts = [box.members.length > 1 ? `${box.members.length} ops` : "", ms(box.compute), box.params ? bytes(box.params) : ""];
    draw("text", { x: left + 9, y: top + 31, fill: "#8792a2", "font-size": 10 }, group, facts.filter(Boolean).join(", "));
    draw("title", {}, group, [box.members[0].units.at(-1) || "", count(box)].filter(Boolean).join("\n"));
    if (box.opens) sign(group, left + place.width - 14, top + 12, stage, "+", () => opened.add(box.key));
    const choose = () => { chosen = chosen === box.key ? null : box.key; renderChosen(shownGraph().boxes); };
    group.addEventListener("click", choose);
    group.addEventListener("keydown", (event) => { if (event.key === "Enter") choose(); });
  };

  // What is chosen: its wires stand out, its operations are listed.
  const renderChosen = (boxes) => {
    const box = boxes.get(chosen);
    const near = new Set([chosen]);
    for (const wire of document.querySelectorAll("#graph .wire")) {
      const touches = [wire.dataset.from, wire.dataset.to].includes(chosen);
      if (touches) near.add(wire.dataset.from).add(wire.dataset.to);
      wire.classList.toggle("faded", Boolean(box) && !touches);
    }
    for (const shape of document.querySelectorAll("#graph .box")) {
      shape.classList.toggle("is-chosen", shape.dataset.key === chosen);
      shape.classList.toggle("faded", Boolean(box) && !near.has(shape.dataset.key));
    }
    const panel = document.getElementById("chosen");
    const add = (tag, text, parent) => {
      const made = document.createElement(tag);
      if (text !== undefined) made.textContent = text;
      parent.append(made);
      return made;
    };
    panel.replaceChildren();
    if (!box) { add("p", "Nothing chosen yet.", panel); return; }
    add("h3", box.label, panel);
    add("p", `${plan.stages[box.stage].title}, ${count(box)}`, panel);
    const table = add("table", undefined, panel);
    const head = add("tr", undefined, add("thead", undefined, table));
    for (const word of ["op", "fwd", "bwd", "params", "makes", "keeps"]) add("th", word, head);
    const body = add("tbody", undefined, table);
    for (const node of box.members) {
      const row = add("tr", undefined, body);
      const size = (value) => (value ? bytes(value) : "-");
      const cells = [node.op, ms(node.fwd) || "-", ms(node.bwd) || "-", size(node.params), size(node.out), size(node.saved)];
      for (const cell of cells) add("td", cell, row);
      row.firstChild.title = [node.units.at(-1), node.name].filter(Boolean).join("\n");
    }
  };

  const actions = {
    open: () => nodes.forEach((node) => node.path.slice(0, -1).forEach((step) => opened.add(step.key))),
    close: () => opened.clear(),
    larger: () => { zoom = Math.min(3, zoom * 1.25); },
    smaller: () => { zoom = Math.max(0.2, zoom / 1.25); },
  };
  for (const button of document.querySelectorAll("button[data-do]")) {
    button.addEventListener("click", () => { actions[button.dataset.do](); render(); });
  }
  render();
})();
