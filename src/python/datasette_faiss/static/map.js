// The map of a table: a scatter plot on a canvas. Without this script the page lacks only it.
(() => {
  "use strict";
  const section = document.getElementById("faiss-map");
  const options = JSON.parse(document.getElementById("faiss-map-data").textContent);
  const RETRY_MS = 1500;
  const REACH = 14; // pixels within which a point is under the pointer

  load();

  async function load() {
    const status = add(section, "p", { className: "faiss-status", role: "status" });
    status.textContent = "Loading the map…";
    try {
      const map = await fetchMap();
      if (map.points.x.length === 0) {
        status.textContent = "There are no rows to show.";
        return;
      }
      status.remove();
      draw(map);
    } catch (error) {
      status.textContent = "No map: " + error.message;
    }
  }

  async function fetchMap() {
    const include = [options.current, ...options.neighbours].filter((path) => path !== null);
    const query = include.map((path) => "include=" + encodeURIComponent(path)).join("&");
    for (;;) {
      const response = await fetch(options.url + (query && "?" + query));
      const answer = await response.json().catch(() => ({ ok: false, error: "status " + response.status }));
      if (answer.ok) return answer;
      if (response.status !== 503) throw new Error(answer.error);
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }

  function add(parent, name, properties) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(properties || {})) {
      if (key in element) element[key] = value;
      else element.setAttribute(key, value);
    }
    parent.append(element);
    return element;
  }

  function draw(map) {
    const { x, y, label, path } = map.points;
    const count = x.length;
    const placeOf = new Map(path.map((name, place) => [name, place]));
    const current = placeOf.has(options.current) ? placeOf.get(options.current) : -1;
    const near = options.neighbours.map((name) => placeOf.get(name)).filter((place) => place !== undefined);
    const isNear = new Set(near);

    section.classList.add("has-map");
    const tools = add(section, "div", { className: "faiss-tools" });
    const zoomIn = add(tools, "button", { type: "button", textContent: "Zoom in" });
    const zoomOut = add(tools, "button", { type: "button", textContent: "Zoom out" });
    const whole = add(tools, "button", { type: "button", textContent: "Whole map" });
    const shown = add(tools, "span", {
      className: "faiss-legend",
      textContent: map.sampled
        ? `${count.toLocaleString("en")} of ${map.rows.toLocaleString("en")} rows, a sample`
        : `${count.toLocaleString("en")} rows`,
    });
    if (near.length) add(tools, "span", { className: "faiss-legend near", textContent: "nearest rows" });
    if (current >= 0) add(tools, "span", { className: "faiss-legend current", textContent: "this row" });

    const plot = add(section, "div", { className: "faiss-plot" });
    const canvas = add(plot, "canvas", {
      tabIndex: 0,
      role: "application",
      "aria-label": `Map of ${shown.textContent}`,
      "aria-describedby": "faiss-map-help faiss-map-at",
    });
    const tip = add(plot, "div", { className: "faiss-tip", hidden: true, "aria-hidden": "true" });
    const at = add(section, "p", { className: "faiss-at", id: "faiss-map-at", role: "status" });
    const context = canvas.getContext("2d");

    // What part is seen: the point in the middle, and pixels for one unit.
    const view = { x: 0, y: 0, scale: 1 };
    let width = 0;
    let height = 0;
    let chosen = -1;
    let frame = 0;

    const screenX = (place) => (x[place] - view.x) * view.scale + width / 2;
    const screenY = (place) => (view.y - y[place]) * view.scale + height / 2;

    function fit() {
      let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
      for (let place = 0; place < count; place++) {
        left = Math.min(left, x[place]);
        right = Math.max(right, x[place]);
        low = Math.min(low, y[place]);
        high = Math.max(high, y[place]);
      }
      view.x = (left + right) / 2;
      view.y = (low + high) / 2;
      const margin = 24;
      view.scale = Math.min(
        (width - 2 * margin) / Math.max(right - left, 1e-6),
        (height - 2 * margin) / Math.max(high - low, 1e-6),
      );
      repaint();
    }

    function measure() {
      const box = canvas.getBoundingClientRect();
      const first = width === 0;
      const ratio = window.devicePixelRatio || 1;
      width = box.width;
      height = box.height;
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      if (first) fit();
      repaint();
    }

    function repaint() {
      if (!frame) frame = requestAnimationFrame(paint);
    }

    function paint() {
      frame = 0;
      const style = getComputedStyle(document.body);
      const colour = (name) => style.getPropertyValue("--faiss-" + name).trim();
      context.clearRect(0, 0, width, height);
      const radius = Math.max(1.2, Math.min(4, 90 / Math.sqrt(count) * Math.sqrt(view.scale / height) + 1));
      context.fillStyle = colour("point");
      context.globalAlpha = count > 2000 ? 0.55 : 0.8;
      context.beginPath();
      for (let place = 0; place < count; place++) {
        const px = screenX(place);
        const py = screenY(place);
        if (px < -radius || px > width + radius || py < -radius || py > height + radius) continue;
        context.moveTo(px + radius, py);
        context.arc(px, py, radius, 0, 2 * Math.PI);
      }
      context.fill();
      context.globalAlpha = 1;
      if (current >= 0) {
        context.strokeStyle = colour("near");
        context.lineWidth = 1;
        context.beginPath();
        for (const place of near) {
          context.moveTo(screenX(current), screenY(current));
          context.lineTo(screenX(place), screenY(place));
        }
        context.stroke();
      }
      for (const place of near) dot(place, 5, colour("near"), colour("card"));
      if (current >= 0) dot(current, 7, colour("current"), colour("card"));
      if (chosen >= 0) {
        context.strokeStyle = colour("ink");
        context.lineWidth = 2;
        context.beginPath();
        context.arc(screenX(chosen), screenY(chosen), 8, 0, 2 * Math.PI);
        context.stroke();
      }
      showTip();
    }

    function dot(place, radius, fill, rim) {
      context.fillStyle = fill;
      context.strokeStyle = rim;
      context.lineWidth = 1.5;
      context.beginPath();
      context.arc(screenX(place), screenY(place), radius, 0, 2 * Math.PI);
      context.fill();
      context.stroke();
    }

    function showTip() {
      tip.hidden = chosen < 0;
      if (chosen < 0) return;
      tip.textContent = label[chosen];
      const px = screenX(chosen);
      const py = screenY(chosen);
      tip.hidden = px < 0 || px > width || py < 0 || py > height;
      tip.style.left = Math.max(4, Math.min(px + 12, width - tip.offsetWidth - 4)) + "px";
      tip.style.top = Math.max(4, Math.min(py + 12, height - tip.offsetHeight - 4)) + "px";
    }

    function choose(place, say) {
      if (place === chosen) return;
      chosen = place;
      if (say) {
        const kind = place === current ? ", this row" : isNear.has(place) ? ", one of the nearest rows" : "";
        at.textContent = place < 0 ? "" : label[place] + kind;
      }
      repaint();
    }

    // The nearest point to a place on the screen; those that are highlighted win.
    function pointAt(px, py) {
      let best = -1;
      let least = REACH * REACH;
      const consider = (place, favour) => {
        const distance = (screenX(place) - px) ** 2 + (screenY(place) - py) ** 2;
        if (distance * favour < least) {
          least = distance * favour;
          best = place;
        }
      };
      for (let place = 0; place < count; place++) consider(place, 1);
      for (const place of near) consider(place, 0.2);
      if (current >= 0) consider(current, 0.2);
      return best;
    }

    function zoom(factor, px = width / 2, py = height / 2) {
      const before = view.scale;
      view.scale = Math.max(10, Math.min(before * factor, 1e6));
      const change = 1 / before - 1 / view.scale;
      view.x += (px - width / 2) * change;
      view.y -= (py - height / 2) * change;
      repaint();
    }

    function pan(dx, dy) {
      view.x -= dx / view.scale;
      view.y += dy / view.scale;
      repaint();
    }

    function open(place) {
      if (place >= 0 && path[place] !== null) window.location.href = options.row_url + "/" + path[place];
    }

    // Pointers

    const pointers = new Map();
    let moved = 0;

    canvas.addEventListener("pointerdown", (event) => {
      pointers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
      if (pointers.size === 1) moved = 0;
      if (event.pointerType === "mouse") canvas.setPointerCapture(event.pointerId);
    });

    canvas.addEventListener("pointermove", (event) => {
      const from = pointers.get(event.pointerId);
      const to = { x: event.offsetX, y: event.offsetY };
      if (!from) {
        const place = pointAt(to.x, to.y);
        canvas.classList.toggle("over-point", place >= 0);
        choose(place, false);
        return;
      }
      const other = [...pointers].find(([id]) => id !== event.pointerId);
      if (other) {
        const span = (a, b) => Math.hypot(a.x - b.x, a.y - b.y) || 1;
        zoom(span(to, other[1]) / span(from, other[1]), other[1].x, other[1].y);
        moved = Infinity;
      } else {
        moved += Math.abs(to.x - from.x) + Math.abs(to.y - from.y);
        if (moved > 4) pan(to.x - from.x, to.y - from.y);
      }
      pointers.set(event.pointerId, to);
    });

    canvas.addEventListener("pointerup", (event) => {
      if (pointers.size === 1 && moved <= 4) {
        const place = pointAt(event.offsetX, event.offsetY);
        // A finger cannot hover: the first touch shows what it is, the second opens it.
        if (event.pointerType === "mouse" || place === chosen) open(place);
        else choose(place, true);
      }
      pointers.delete(event.pointerId);
    });
    canvas.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
    canvas.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse" && document.activeElement !== canvas) choose(-1, false);
    });

    canvas.addEventListener(
      "wheel",
      (event) => {
        // The page scrolls, unless zooming is asked for.
        if (!event.ctrlKey && !event.metaKey) return;
        event.preventDefault();
        zoom(Math.exp(-event.deltaY / 300), event.offsetX, event.offsetY);
      },
      { passive: false },
    );

    // Keys

    const DIRECTIONS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

    function step([dx, dy]) {
      if (chosen < 0) {
        choose(current >= 0 ? current : closestToMiddle(), true);
      } else {
        const fromX = screenX(chosen);
        const fromY = screenY(chosen);
        let best = -1;
        let least = Infinity;
        for (let place = 0; place < count; place++) {
          const ahead = (screenX(place) - fromX) * dx + (screenY(place) - fromY) * dy;
          const aside = Math.abs((screenX(place) - fromX) * dy) + Math.abs((screenY(place) - fromY) * dx);
          if (place !== chosen && ahead > 0.5 && ahead + 3 * aside < least) {
            least = ahead + 3 * aside;
            best = place;
          }
        }
        if (best >= 0) choose(best, true);
      }
      keepInSight();
    }

    function closestToMiddle() {
      let best = 0;
      let least = Infinity;
      for (let place = 0; place < count; place++) {
        const distance = (screenX(place) - width / 2) ** 2 + (screenY(place) - height / 2) ** 2;
        if (distance < least) {
          least = distance;
          best = place;
        }
      }
      return best;
    }

    function keepInSight() {
      if (chosen < 0) return;
      const px = screenX(chosen);
      const py = screenY(chosen);
      if (px < 20 || px > width - 20 || py < 20 || py > height - 20) {
        view.x = x[chosen];
        view.y = y[chosen];
        repaint();
      }
    }

    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key in DIRECTIONS) step(DIRECTIONS[event.key]);
      else if (event.key === "+" || event.key === "=") zoomChosen(1.5);
      else if (event.key === "-") zoomChosen(1 / 1.5);
      else if (event.key === "0") fit();
      else if (event.key === "Enter") open(chosen);
      else if (event.key === "Escape") choose(-1, true);
      else return;
      event.preventDefault();
    });

    function zoomChosen(factor) {
      if (chosen >= 0) zoom(factor, screenX(chosen), screenY(chosen));
      else zoom(factor);
    }

    zoomIn.addEventListener("click", () => zoomChosen(1.5));
    zoomOut.addEventListener("click", () => zoomChosen(1 / 1.5));
    whole.addEventListener("click", fit);

    new ResizeObserver(measure).observe(canvas);
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
    // For tests and the curious: where a row is drawn.
    canvas.faissMap = {
      count,
      place: (name) => placeOf.get(name),
      screen: (place) => [screenX(place), screenY(place)],
      view,
      get chosen() {
        return chosen < 0 ? null : path[chosen];
      },
    };
    measure();
  }
})();
