// Charts from the figures that stand in the page as JSON, in the page's own colours.

const WEEKDAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
// Plain dollars on an axis, however small or large: no µ, no k.
const DOLLARS = { tickprefix: "$", exponentformat: "none", separatethousands: true };
const COLOURS = ["#4f46e5", "#0891b2", "#d97706", "#059669", "#db2777", "#7c3aed", "#65a30d", "#dc2626", "#475569"];

function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

// Plotly reads some HTML in names, which are people's.
function plain(name) { return String(name).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;"); }

function layout(more) {
  const ink = colour("--dim"), line = colour("--line");
  const axis = { gridcolor: line, linecolor: line, zerolinecolor: line, fixedrange: true, automargin: true };
  return {
    paper_bgcolor: "transparent", plot_bgcolor: "transparent", font: { color: ink, family: "system-ui, sans-serif", size: 12 },
    margin: { l: 48, r: 8, t: 8, b: 32 }, colorway: COLOURS, hovermode: "closest", ...more,
    xaxis: { ...axis, ...more.xaxis }, yaxis: { ...axis, ...more.yaxis },
  };
}

const CHARTS = {
  days(data) {
    const traces = new Map();
    for (const [day, model, amount] of data.rows) {
      if (!traces.has(model)) traces.set(model, { type: "bar", name: plain(model), x: [], y: [], hovertemplate: "%{x}<br>$%{y:,.9~f}" });
      traces.get(model).x.push(day);
      traces.get(model).y.push(amount);
    }
    return [[...traces.values()], layout({
      barmode: "stack", bargap: 0.25, legend: { orientation: "h", y: -0.15 },
      xaxis: { type: "date", range: [data.first + "T00:00:00Z", data.last + "T23:59:59Z"], tickformat: "%d %b", showgrid: false },
      yaxis: DOLLARS,
    })];
  },
  hours(data) {
    const z = WEEKDAYS.map(() => Array(24).fill(0));
    for (const [weekday, hour, requests] of data) z[weekday - 1][hour] = requests;
    const trace = {
      type: "heatmap", z, y: WEEKDAYS, x: [...Array(24).keys()], showscale: false, xgap: 2, ygap: 2,
      colorscale: [[0, colour("--paper")], [1, COLOURS[0]]], hovertemplate: "%{y} %{x}:00<br>%{z} requests<extra></extra>",
    };
    return [[trace], layout({ yaxis: { autorange: "reversed", showgrid: false }, xaxis: { dtick: 6, ticksuffix: ":00", tickangle: 0, showgrid: false } })];
  },
  groups(data) {
    const days = data.every((row) => /^\d{4}-\d\d-\d\d$/.test(row[0]));
    const trace = { type: "bar", x: data.map((row) => plain(row[0])), y: data.map((row) => row[1]), marker: { color: COLOURS[0] }, hovertemplate: "%{x}<br>$%{y:,.9~f}<extra></extra>" };
    return [[trace], layout({ yaxis: DOLLARS, xaxis: { type: days ? "date" : "category", showgrid: false } })];
  },
};

function draw() {
  for (const place of document.querySelectorAll("[data-chart]")) {
    const [traces, shape] = CHARTS[place.dataset.chart](JSON.parse(document.getElementById(place.dataset.from).textContent));
    Plotly.react(place, traces, shape, { displayModeBar: false, responsive: true });
  }
}

draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
