// Draws the figures of the page in its theme, and moves the projection.
'use strict';
const read = id => JSON.parse(document.getElementById(id).textContent);
const figures = read('figures');
const darkOf = read('themes');
const dark = window.matchMedia('(prefers-color-scheme: dark)');
const options = {displayModeBar: false, responsive: true};
const themed = value => dark.matches
  ? JSON.parse(JSON.stringify(value).replace(
      /#[0-9a-f]{6}/g, color => darkOf[color] || color))
  : JSON.parse(JSON.stringify(value));

function draw() {
  for (const [id, figure] of Object.entries(figures)) {
    const {data, layout} = themed(figure);
    Plotly.react(id, data, layout, options);
  }
}

function space() {
  const root = document.getElementById('space');
  if (!root) return;
  const all = read('projection');
  const plot = root.querySelector('.plot');
  const slider = root.querySelector('input');
  const output = root.querySelector('output');
  const buttons = [...root.querySelectorAll('button')];
  let view = buttons[0].dataset.view;
  let seen = null;
  const column = (points, k) => points.map(point => point[k]);

  function traces() {
    const g = +slider.value;
    const points = all.views[view][g];
    const right = all.labels.map((label, i) => label === all.prediction[g][i]);
    const three = view === 'pca3';
    const kind = three ? 'scatter3d' : 'scatter';
    const deep = three ? {z: column(points, 2)} : {};
    const dots = {
      type: kind, mode: 'markers', hoverinfo: 'none',
      x: column(points, 0), y: column(points, 1), ...deep,
      marker: {
        color: all.labels.map(label => all.colors[label]),
        size: three ? 4 : 8, opacity: three ? .85 : .9,
        symbol: right.map(ok => ok ? 'circle' : 'circle-open'),
        line: {width: three ? 0 : 1.5},
      },
    };
    // A class's name lies on the point that is nearest to its middle.
    const middle = label => {
      const own = points.filter((_, i) => all.labels[i] === label);
      const center = own[0].map((_, k) => {
        const sorted = column(own, k).sort((a, b) => a - b);
        return sorted[sorted.length >> 1];
      });
      const far = point => Math.hypot(...point.map((x, k) => x - center[k]));
      return own.reduce((a, b) => far(b) < far(a) ? b : a);
    };
    const labels = Object.keys(all.names_shown).map(Number);
    const places = labels.map(middle);
    const names = {
      type: kind, mode: 'text', hoverinfo: 'skip',
      x: column(places, 0), y: column(places, 1),
      ...(three ? {z: column(places, 2)} : {}),
      text: labels.map(label => `<b>${all.names_shown[label]}</b>`),
      textfont: {color: all.ink, size: 14},
    };
    return [dots, names];
  }

  function layout() {
    const side = all.extent[view];
    const axis = {visible: false, range: [-side, side], fixedrange: true};
    return {
      ...all.layout, uirevision: view,
      xaxis: axis, yaxis: {...axis, scaleanchor: 'x'},
      scene: {
        xaxis: axis, yaxis: axis, zaxis: axis, aspectmode: 'cube',
        dragmode: 'orbit', camera: {eye: {x: 1, y: 1, z: .6}},
      },
    };
  }

  function show(animated) {
    const g = +slider.value;
    output.textContent = `width ${all.dims[g]}`;
    slider.setAttribute('aria-valuetext', output.textContent);
    const data = themed(traces());
    const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
    if (animated && !still && view !== 'pca3') {
      Plotly.animate(plot, {data}, {
        mode: 'immediate', transition: {duration: 450, easing: 'cubic-in-out'},
        frame: {duration: 450, redraw: false},
      }).then(() => {
        // Rings and discs change once the points have come to rest.
        if (g === +slider.value) Plotly.react(plot, data, themed(layout()), options);
      }, () => {});
    } else {
      Plotly.react(plot, data, themed(layout()), options);
    }
    if (seen !== null) look(seen);
  }

  function look(i) {
    seen = i;
    const g = +slider.value;
    const {side, columns, rows} = all.thumbnail;
    const box = root.querySelector('.thumb');
    const zoom = 112 / side;
    box.style.backgroundImage = `url(${all.thumbnail.data})`;
    box.style.backgroundSize = `${columns * side * zoom}px ${rows * side * zoom}px`;
    box.style.backgroundPosition =
      `${-(i % columns) * 112}px ${-Math.floor(i / columns) * 112}px`;
    const set = (name, text) => {
      root.querySelector(`[data-seen=${name}]`).textContent = text;
    };
    const said = all.prediction[g][i];
    set('class', all.names[all.labels[i]]);
    set('said', `${all.names[said]}, ${Math.round(100 * all.probability[g][i])} %`);
    set('width', `said at width ${all.dims[g]}`);
    root.querySelector('[data-seen=said]').classList.toggle(
      'wrong', said !== all.labels[i]);
    root.querySelector('.seen').dataset.index = i;
  }

  for (const button of buttons) {
    button.onclick = () => {
      view = button.dataset.view;
      for (const other of buttons) {
        other.setAttribute('aria-pressed', other === button);
      }
      Plotly.purge(plot);
      show(false);
      listen();
    };
  }
  function listen() {
    for (const event of ['plotly_hover', 'plotly_click']) {
      plot.on(event, ({points: [point]}) => look(point.pointNumber));
    }
  }
  slider.oninput = () => show(true);
  show(false);
  listen();
  look(all.first);
  return () => show(false);
}

draw();
const redraw = space();
dark.addEventListener('change', () => { draw(); if (redraw) redraw(); });
document.documentElement.dataset.drawn = 'yes';
