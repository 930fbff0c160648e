"use strict";
(() => {
  const GALLERY_STEP = 12;
  const ROW_STEP = 200;
  const byText = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  /** An element with text; text is never read as HTML. */
  const element = (tag, text = "", className = "") => {
    const made = document.createElement(tag);
    if (text) made.textContent = text;
    if (className) made.className = className;
    return made;
  };

  const pageGallery = () => {
    const cards = [...document.querySelectorAll(".gallery > .card")];
    const more = document.getElementById("more");
    let shown = Math.min(GALLERY_STEP, cards.length);
    const show = () => {
      cards.forEach((card, i) => { card.hidden = i >= shown; });
      more.hidden = shown >= cards.length;
      const left = cards.length - shown;
      more.textContent = left > GALLERY_STEP ? `Show ${GALLERY_STEP} more, ${left} left` : `Show the last ${left}`;
    };
    more.addEventListener("click", () => {
      shown = Math.min(shown + GALLERY_STEP, cards.length);
      show();
    });
    show();
  };

  const plainTable = (headings, rows, words) => {
    const table = element("table", "", "plain");
    const line = (tag, cells) => {
      const row = element("tr");
      cells.forEach((text, i) => row.append(element(tag, text, words.includes(i) ? "word" : "")));
      return row;
    };
    const head = element("thead");
    head.append(line("th", headings));
    const body = element("tbody");
    rows.forEach((cells) => body.append(line("td", cells)));
    table.append(head, body);
    const box = element("div", "", "scroll");
    box.append(table);
    return box;
  };

  const detailRow = (position, detail, columns) => {
    const row = element("tr", "", "detail");
    row.id = `detail-${position}`;
    const cell = element("td");
    cell.colSpan = columns;
    const split = element("div", "", "split");
    const left = element("div");
    const parts = element("div", "", "parts");
    const part = (title, ...content) => {
      const made = element("div");
      made.append(element("h4", title), ...content);
      parts.append(made);
    };
    if (detail.detail) left.append(element("p", detail.detail));
    const steps = [];
    if (detail.earlier) steps.push(element("p", `${detail.earlier} earlier improvements are left out.`, "small"));
    if (detail.history.length) steps.push(plainTable(["after", "engine", "lower", "upper"], detail.history, [1]));
    else steps.push(element("p", "No engine improved it.", "small"));
    part("Bracket", ...steps);
    if (detail.engines.length) part("Time", plainTable(["engine", "time"], detail.engines, [0]));
    if (detail.counts.length) part("Counts", plainTable(["of", "count"], detail.counts, [0]));
    left.append(parts);
    split.append(left);
    const card = document.getElementById(`witness-${position}`);
    if (card) {
      const copy = card.cloneNode(true);
      copy.removeAttribute("id");
      copy.hidden = false;
      split.append(copy);
    }
    cell.append(split);
    row.append(cell);
    return row;
  };

  const runTable = () => {
    const table = document.getElementById("table");
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const details = JSON.parse(document.getElementById("details").textContent);
    const heads = [...table.tHead.rows[0].cells];
    const texts = rows.map((row) => row.textContent.replace(/\s/g, " ").toLowerCase());
    const opened = new Map();
    const box = table.closest(".scroll");
    const search = document.getElementById("filter");
    const chips = [...document.querySelectorAll(".chips button")];
    const shown = document.getElementById("shown");
    const whole = shown.textContent;
    let order = rows.map((_, i) => i);
    let matching = order;
    let attached = 0;

    /** Attach the next rows; long tables are laid out as far as they are looked at. */
    const attach = (many) => {
      const next = document.createDocumentFragment();
      for (const i of matching.slice(attached, attached + many)) {
        next.append(rows[i]);
        if (opened.has(rows[i])) next.append(opened.get(rows[i]));
      }
      attached = Math.min(attached + many, matching.length);
      body.append(next);
    };
    const redraw = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const verdict = chips.find((chip) => chip.getAttribute("aria-pressed") === "true").dataset.verdict;
      matching = order.filter((i) => (!verdict || rows[i].dataset.verdict === verdict)
        && words.every((word) => texts[i].includes(word)));
      shown.textContent = matching.length === rows.length ? whole : `${matching.length} of ${whole}`;
      document.getElementById("none").hidden = matching.length > 0;
      body.replaceChildren();
      attached = 0;
      box.scrollTop = 0;
      attach(ROW_STEP);
    };
    box.addEventListener("scroll", () => {
      const left = box.scrollHeight - box.scrollTop - box.clientHeight;
      if (left < box.clientHeight && attached < matching.length) attach(ROW_STEP);
    });
    addEventListener("beforeprint", () => attach(rows.length));

    const toggle = (row) => {
      const button = row.querySelector(".open");
      const was = opened.get(row);
      if (was) {
        was.remove();
        opened.delete(row);
        button.removeAttribute("aria-controls");
      } else {
        const position = Number(row.dataset.row);
        const made = detailRow(position, details[position], heads.length);
        row.after(made);
        opened.set(row, made);
        button.setAttribute("aria-controls", made.id);
      }
      button.setAttribute("aria-expanded", String(!was));
    };
    body.addEventListener("click", (event) => {
      const row = event.target.closest("tr[data-row]");
      const selecting = !event.target.closest("button") && !getSelection().isCollapsed;
      if (row && !selecting) toggle(row);
    });

    const sort = (column, kind, descending) => {
      const sign = descending ? -1 : 1;
      const key = (row) => {
        const cell = row.cells[column];
        const text = cell.dataset.v ?? cell.textContent;
        if (kind !== "number") return text;
        return text === "" ? NaN : Number(text);
      };
      const missing = (value) => value === "" || Number.isNaN(value);
      const compare = (a, b) => {
        if (missing(a) || missing(b)) return missing(a) - missing(b);
        if (a === b) return 0;
        return sign * (kind === "number" ? (a < b ? -1 : 1) : byText.compare(a, b));
      };
      const keys = rows.map(key);
      order = rows.map((_, i) => i).sort((a, b) => compare(keys[a], keys[b]) || a - b);
      redraw();
    };
    heads.forEach((head, column) => {
      const button = head.querySelector("button");
      button.addEventListener("click", () => {
        const descending = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", descending ? "descending" : "ascending");
        sort(column, button.dataset.kind, descending);
      });
    });

    search.addEventListener("input", redraw);
    chips.forEach((chip) => chip.addEventListener("click", () => {
      chips.forEach((other) => other.setAttribute("aria-pressed", String(other === chip)));
      redraw();
    }));
    redraw();
  };

  if (document.querySelector(".gallery")) pageGallery();
  if (document.getElementById("table")) runTable();
})();
