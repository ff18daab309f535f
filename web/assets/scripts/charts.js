// Draws every chart of a page from the JSON beside it. Colours come from the theme's variables.
import { BarChart, CustomChart, LineChart, SankeyChart } from "echarts/charts";
import { AriaComponent, GridComponent, TooltipComponent } from "echarts/components";
import * as echarts from "echarts/core";
import { SVGRenderer } from "echarts/renderers";

echarts.use([BarChart, CustomChart, LineChart, SankeyChart, AriaComponent, GridComponent, TooltipComponent, SVGRenderer]);

const language = document.documentElement.lang || "en";
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export function formatter(unit, compact) {
  const short = compact ? { notation: "compact", maximumFractionDigits: 1 } : {};
  if (unit?.kind === "money") {
    const scale = 10 ** unit.digits;
    const format = new Intl.NumberFormat(language, {
      style: "currency", currency: unit.currency, currencyDisplay: "narrowSymbol",
      ...(compact ? short : { maximumFractionDigits: unit.digits }),
    });
    return (value) => format.format(value / scale);
  }
  if (unit?.kind === "share") {
    const format = new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 1 });
    return (value) => format.format(value);
  }
  const digits = unit?.kind === "number" ? { maximumSignificantDigits: 3 } : { maximumFractionDigits: 2, ...short };
  const format = new Intl.NumberFormat(language, digits);
  return (value) => format.format(value);
}

const palette = () => [1, 2, 3, 4, 5, 6, 7, 8].map((n) => css(`--chart-${n}`));

// Dot and bar of an interval; value is [category index, low, estimate, high].
function intervalShape(colours) {
  return (params, api) => {
    const row = api.value(0);
    const [low, y] = api.coord([api.value(1), row]);
    const [middle] = api.coord([api.value(2), row]);
    const [high] = api.coord([api.value(3), row]);
    const colour = colours[row % colours.length];
    return {
      type: "group",
      children: [
        { type: "line", shape: { x1: low, y1: y, x2: high, y2: y }, style: { stroke: colour, lineWidth: 6, opacity: 0.35 } },
        { type: "circle", shape: { cx: middle, cy: y, r: 6 }, style: { fill: colour } },
      ],
    };
  };
}

function themed(spec) {
  const option = structuredClone(spec.option);
  const colours = palette();
  const ink = css("--ink-2"), line = css("--line"), surface = css("--surface");
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  Object.assign(option, {
    animation: !still && !spec.still, animationDuration: 250, color: colours, backgroundColor: "transparent",
    textStyle: { fontFamily: getComputedStyle(document.body).fontFamily, color: ink, fontSize: 12 },
    aria: { enabled: true, label: { description: spec.title } },
  });
  for (const key of ["xAxis", "yAxis"]) {
    for (const axis of [].concat(option[key] ?? [])) {
      axis.axisLabel = { color: ink, ...axis.axisLabel };
      axis.axisLine = { lineStyle: { color: axis.zero ? ink : line, width: axis.zero ? 1.5 : 1 }, ...axis.axisLine };
      axis.splitLine = { lineStyle: { color: line }, ...axis.splitLine };
      axis.axisTick = { show: false };
      if (axis.unit) axis.axisLabel.formatter = formatter(axis.unit, true);
    }
  }
  for (const series of option.series) {
    if (series.label?.show) {
      series.label = { color: ink, ...series.label };
      if (series.unit) {
        const write = formatter(series.unit, true);
        series.label.formatter = (item) => write(Array.isArray(item.value) ? item.value.at(-1) : item.value);
      }
    }
    if (series.shape === "interval") series.renderItem = intervalShape(colours);
    if (series.type === "sankey") {
      series.label = { color: css("--ink"), ...series.label };
      // The same stage has the same colour on both sides; a mark before its name tells the sides apart.
      const plain = (name) => name.slice(series.strip ?? 0);
      const names = [...new Set(series.data.filter((node) => !node.quiet).map((node) => plain(node.name)))];
      for (const node of series.data) {
        node.itemStyle = { color: node.quiet ? css("--line-strong") : colours[names.indexOf(plain(node.name)) % colours.length] };
      }
      series.label.formatter = (item) => plain(item.name);
      series.lineStyle = { color: "gradient", opacity: 0.35 };
      series.itemStyle = { borderWidth: 0 };
    }
  }
  option.tooltip = tooltip(option, spec, surface, line);
  return option;
}

// Tool tips are built as nodes, not as HTML text with styles: the page's policy forbids those.
function tooltip(option, spec, surface, line) {
  const write = (series, value) => formatter(series?.unit)(value);
  return {
    trigger: option.trigger || "axis", confine: true, backgroundColor: surface, borderColor: line, borderWidth: 1,
    padding: 8, textStyle: { color: css("--ink"), fontSize: 12 }, extraCssText: "box-shadow:none",
    axisPointer: { type: option.trigger === "item" ? "none" : "shadow", shadowStyle: { color: css("--hover") } },
    formatter: (items) => {
      const box = document.createElement("div");
      const list = [].concat(items);
      const head = document.createElement("strong");
      const cut = option.series[0].strip ?? 0;
      const name = list[0].axisValueLabel ?? list[0].name;
      head.textContent = cut ? name.split(" > ").map((part) => part.replace(/^[<>\d] /, "")).join(" → ") : name;
      box.append(head);
      for (const item of list) {
        const series = option.series[item.seriesIndex];
        const row = document.createElement("div");
        const value = series.type === "custom"
          ? `${write(series, item.value[2])} (${write(series, item.value[1])} – ${write(series, item.value[3])})`
          : write(series, item.value?.value ?? item.value);
        row.textContent = series.name ? `${series.name}: ${value}` : value;
        box.append(row);
      }
      return box;
    },
  };
}

function draw(element) {
  const spec = JSON.parse(document.getElementById(element.dataset.chart).textContent);
  const chart = echarts.getInstanceByDom(element) ?? echarts.init(element, null, { renderer: "svg" });
  chart.setOption(themed(spec), true);
  return chart;
}

function drawAll(root = document) {
  for (const element of root.querySelectorAll("[data-chart]")) {
    const chart = draw(element);
    if (!element.dataset.watched) {
      element.dataset.watched = "1";
      new ResizeObserver(() => chart.resize()).observe(element);
    }
  }
}

drawAll();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll());
document.addEventListener("htmx:afterSwap", (event) => drawAll(event.target));
