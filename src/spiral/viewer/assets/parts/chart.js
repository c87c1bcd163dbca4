// A chart of lines over steps (uPlot), with the values under the pointer in its legend.

import uPlot from "../vendor/uplot/uPlot.esm.js";
import { colour, h } from "../lib/dom.js";
import { value as format } from "../lib/format.js";
import { inline } from "../lib/text.js";

const SYNC = "steps";
const FEW = 40; // so few points are drawn as points too

/** Exponential moving average without the pull of its start, over what is not null. */
export function smooth(values, weight) {
  if (!weight) return values;
  let mean = 0;
  let seen = 0;
  return values.map((value) => {
    if (value === null) return null;
    mean = weight * mean + (1 - weight) * value;
    seen = weight * seen + (1 - weight);
    return mean / seen;
  });
}

/** Put series with steps of their own on one axis: [steps, values, values, ...], null where a series has no value. */
export function align(series) {
  const steps = [...new Set(series.flatMap((one) => one.steps))].sort((a, b) => a - b);
  const place = new Map(steps.map((step, index) => [step, index]));
  return [
    steps,
    ...series.map((one) => {
      const values = new Array(steps.length).fill(null);
      one.steps.forEach((step, index) => {
        values[place.get(step)] = one.values[index];
      });
      return values;
    }),
  ];
}

/**
 * A chart in `box`.
 *
 * A series is {label, colour, dash, steps, values, low, high}; `low` and `high` are an interval, drawn as a band.
 * Options: smoothing (0 to 1), log, zoom ([from, to] or null), height, onzoom(from, to), format.
 */
export class Chart {
  constructor(box, options) {
    this.box = box;
    this.options = { smoothing: 0, log: false, zoom: null, height: 150, format, ...options };
    this.series = [];
    this.plot = null;
    this.canvas = h("div", { class: "chart-canvas" });
    this.legend = h("div", { class: "legend num" });
    box.append(this.legend, this.canvas);
    this.sized = new ResizeObserver(() => {
      const width = Math.floor(this.canvas.clientWidth);
      if (this.plot && width && width !== this.plot.width) this.plot.setSize({ width, height: this.options.height });
      else if (!this.plot && width) this.draw();
    });
    this.sized.observe(this.canvas);
    this.themed = () => this.draw();
    addEventListener("themechange", this.themed);
  }

  set(series, options = {}) {
    this.series = series;
    Object.assign(this.options, options);
    this.draw();
  }

  zoom(zoom) {
    this.options.zoom = zoom;
    if (this.plot && this.data[0].length) this.plot.setScale("x", this.range());
  }

  range() {
    const steps = this.data[0];
    if (this.options.zoom) return { min: this.options.zoom[0], max: this.options.zoom[1] };
    const [min, max] = [steps[0], steps[steps.length - 1]];
    return min === max ? { min: min - 0.5, max: max + 0.5 } : { min, max };
  }

  draw() {
    const width = Math.floor(this.canvas.clientWidth);
    this.plot?.destroy();
    this.plot = null;
    const { smoothing, log } = this.options;
    const lines = []; // {series, raw, bound}
    for (const one of this.series) {
      if (one.low) lines.push({ one, values: one.high, bound: true }, { one, values: one.low, bound: true });
      if (smoothing) lines.push({ one, values: one.values, raw: true });
      lines.push({ one, values: smooth(one.values, smoothing) });
    }
    this.data = align(lines.map(({ one, values }) => ({ steps: one.steps, values })));
    this.main = lines.map((line, index) => (line.raw || line.bound ? -1 : index + 1)).filter((index) => index > 0);
    this.legendAt(null);
    if (!width || !this.data[0].length) return;
    const all = this.data
      .slice(1)
      .flat()
      .filter((value) => value !== null);
    const positive = all.length > 0 && all.every((value) => value > 0);
    const grid = { stroke: colour("--line"), width: 1 };
    const axis = { stroke: colour("--soft"), grid, ticks: { show: false }, font: "11px system-ui, sans-serif", gap: 6 };
    const bands = [];
    lines.forEach((line, index) => {
      if (line.bound && lines[index + 1]?.bound && lines[index + 1].one === line.one)
        bands.push({ series: [index + 1, index + 2], fill: `${line.one.colour}2e` });
    });
    const few = this.data[0].length <= FEW;
    this.plot = new uPlot(
      {
        width,
        height: this.options.height,
        bands,
        legend: { show: false },
        cursor: {
          sync: { key: SYNC, setSeries: false, scales: ["x", null] },
          y: false,
          points: { size: 6 },
          drag: { x: true, y: false, setScale: false },
          bind: {
            dblclick: () => () => {
              this.options.onzoom?.(null);
            },
          },
        },
        scales: {
          x: {
            time: false,
            range: () => {
              const { min, max } = this.range();
              return [min, max];
            },
          },
          y: { distr: log ? (positive ? 3 : 4) : 1, asinh: smallest(all), range: log ? undefined : this.yRange(all) },
        },
        axes: [
          {
            ...axis,
            size: 24,
            space: 60,
            incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 1e6],
            values: (plot, ticks) => ticks.map((tick) => tick.toLocaleString("en-US")),
          },
          {
            ...axis,
            size: 52,
            space: 26,
            values: (plot, ticks) => ticks.map((tick) => (tick === null ? null : this.options.format(tick))),
          },
        ],
        series: [
          {},
          ...lines.map(({ one, raw, bound }) => ({
            stroke: bound ? "transparent" : raw ? `${one.colour}48` : one.colour,
            width: bound ? 0 : raw ? 1 : 1.75,
            dash: raw || bound ? undefined : one.dash,
            spanGaps: true,
            points: { show: few && !raw && !bound, size: 4, fill: one.colour },
          })),
        ],
        hooks: {
          setCursor: [(plot) => this.legendAt(plot.cursor.left >= 0 ? plot.cursor.idx : null)],
          setSelect: [
            (plot) => {
              if (plot.select.width < 4) return;
              const from = plot.posToVal(plot.select.left, "x");
              const to = plot.posToVal(plot.select.left + plot.select.width, "x");
              plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
              this.options.onzoom?.([Math.floor(from), Math.ceil(to)]);
            },
          ],
        },
      },
      this.data,
      this.canvas,
    );
  }

  /** A flat line is drawn in the middle; shares keep to their bounds. */
  yRange(all) {
    const share = all.length > 0 && all.every((value) => value >= 0 && value <= 1);
    return (plot, min, max) => {
      if (min === null || max === null) return [0, 1];
      const room = (max - min) * 0.08 || Math.abs(max) * 0.1 || 1;
      const [low, high] = [min - room, max + room];
      return share
        ? [Math.max(low, 0), max <= 1 && min >= 0 ? Math.min(high, 1.02) : high]
        : [min >= 0 ? Math.max(low, 0) : low, high];
    };
  }

  /** The value of each line at a step, or its last one. */
  legendAt(index) {
    const [steps, ...lines] = this.data;
    this.legend.replaceChildren();
    this.series.forEach((one, number) => {
      const values = lines[this.main[number] - 1] ?? [];
      let at = index ?? values.length - 1;
      while (at >= 0 && (values[at] === null || values[at] === undefined)) at -= 1;
      const named = this.series.length > 1 || one.named;
      this.legend.append(
        h(
          "span",
          { class: "legend-item" },
          named ? h("span", { class: one.dash ? "stroke dashed" : "stroke", style: { "--c": one.colour } }) : null,
          named ? h("span", { class: "legend-name" }, inline(one.label, 60)) : null,
          h("b", {}, at >= 0 ? this.options.format(values[at]) : "–"),
        ),
      );
    });
    if (index !== null && steps[index] !== undefined)
      this.legend.append(h("span", { class: "legend-step soft" }, `step ${steps[index].toLocaleString("en-US")}`));
  }

  destroy() {
    removeEventListener("themechange", this.themed);
    this.sized.disconnect();
    this.plot?.destroy();
    this.plot = null;
  }
}

/** Where a scale that reaches 0 or below becomes linear: a tenth of the smallest size that occurs. */
function smallest(values) {
  const sizes = values.map(Math.abs).filter((size) => size > 0);
  return sizes.length ? Math.min(...sizes.slice(0, 50_000)) : 1;
}
