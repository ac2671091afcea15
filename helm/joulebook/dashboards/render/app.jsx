// Draws a dashboard's JSON and the answers to its queries with Grafana's own components.
import React from "react";
import { createRoot } from "react-dom/client";
import {
  BarGauge, BarGaugeDisplayMode, BigValue, BigValueColorMode, BigValueGraphMode, BigValueTextMode,
  GlobalStyles, PanelChrome, Table, ThemeContext, TimeSeries,
} from "@grafana/ui";
import {
  FieldColorModeId, FieldType, Registry, applyFieldOverrides, createTheme,
  dateTime, getFieldDisplayName, standardTransformers, standardTransformersRegistry, toDataFrame,
  transformDataFrame,
} from "@grafana/data";
import "uplot/dist/uPlot.min.css";

const { dashboard, answers, from, to, mode, variables, height } = window.__payload;
const theme = createTheme({ colors: { mode } });
const WIDTH = 1400, ROW = 38, GAP = 8;

const OPTIONS = [
  "unit", "decimals", "displayName", "links", "min", "max", "noValue", "thresholds", "mappings",
  "color", "custom.fillOpacity", "custom.stacking", "custom.drawStyle", "custom.lineWidth",
  "custom.showPoints", "custom.align", "custom.cellOptions", "custom.width", "custom.barAlignment",
  "custom.scaleDistribution", "custom.lineInterpolation", "custom.spanNulls",
];
const registry = new Registry(() =>
  OPTIONS.map((id) => ({
    id, name: id, path: id.replace("custom.", ""), isCustom: id.startsWith("custom."),
    process: (value) => value, shouldApply: () => true, getItemsCount: () => 1,
    override: () => null, editor: () => null,
  })));
const transformers = [...new Map(Object.values(standardTransformers).map((t) => [t.id, t])).values()];
standardTransformersRegistry.setInit(() =>
  transformers.map((t) => ({ id: t.id, name: t.name, transformation: t })));
const timeRange = { from: dateTime(from * 1000), to: dateTime(to * 1000), raw: { from: "", to: "" } };

const named = (legend, labels) =>
  !legend || legend === "__auto"
    ? Object.entries(labels).map(([k, v]) => `${k}="${v}"`).join(", ") || "Value"
    : legend.replace(/{{(\w+)}}/g, (_, label) => labels[label] ?? "");

function tableFrame({ ref, rows }, several) {
  const labels = [...new Set(rows.flatMap((r) => Object.keys(r.metric)))];
  return toDataFrame({
    refId: ref,
    fields: [
      { name: "Time", type: FieldType.time, values: rows.map((r) => r.value[0] * 1000) },
      ...labels.map((l) => ({ name: l, type: FieldType.string, values: rows.map((r) => r.metric[l]) })),
      { name: several ? `Value #${ref}` : "Value", type: FieldType.number, values: rows.map((r) => +r.value[1]) },
    ],
  });
}

function seriesFrame(rows, legend, step) {
  const times = [];
  for (let t = rows.start; t <= rows.end; t += step) times.push(t);
  return rows.series.map((row) => {
    const values = new Map(row.values.map(([t, v]) => [t, +v]));
    const config = { displayNameFromDS: named(legend, row.metric) };
    return toDataFrame({
      fields: [
        { name: "Time", type: FieldType.time, values: times.map((t) => t * 1000) },
        { name: "Value", type: FieldType.number, values: times.map((t) => values.get(t) ?? null), config },
      ],
    });
  });
}

// An answer of PostgreSQL: columns. A course is split by the column `metric`, a row of a figure is
// called by what of it is text; as the data source and the panels of Grafana do.
function sqlFrames(panel, { fields, ref }) {
  if (panel.type === "table") return [toDataFrame({ refId: ref, fields })];
  const text = fields.find((f) => f.type === "string");
  const number = fields.find((f) => f.type === "number");
  const rows = number.values.map((value, n) => ({ name: text?.values[n] ?? number.name, value, n }));
  if (panel.type !== "timeseries") {
    return rows.map(({ name, value }) => toDataFrame({
      fields: [{ name: "Value", type: FieldType.number, values: [value], config: { displayNameFromDS: name } }],
    }));
  }
  const all = fields.find((f) => f.type === "time").values;
  const times = [...new Set(all)].sort((a, b) => a - b);
  return [...new Set(rows.map((r) => r.name))].map((name) => {
    const mine = new Map(rows.filter((r) => r.name === name).map((r) => [all[r.n], r.value]));
    return toDataFrame({
      fields: [
        { name: "Time", type: FieldType.time, values: times },
        { name: "Value", type: FieldType.number, values: times.map((t) => mine.get(t) ?? null), config: { displayNameFromDS: name } },
      ],
    });
  });
}

function frames(panel) {
  const mine = answers.filter((a) => a.panel === panel.title && a.id === panel.id);
  if (mine[0]?.fields) return mine.flatMap((a) => sqlFrames(panel, a));
  if (panel.type === "timeseries") {
    return mine.flatMap((a) =>
      seriesFrame({ series: a.rows, start: a.start, end: a.end }, a.legend, a.step));
  }
  if (panel.type === "table") {
    return mine.filter((a) => a.rows.length).map((a) => tableFrame(a, panel.targets.length > 1));
  }
  return mine.flatMap((a) =>
    a.rows.map((row) =>
      toDataFrame({
        fields: [{
          name: "Value", type: FieldType.number, values: [+row.value[1]],
          config: { displayNameFromDS: named(a.legend, row.metric) },
        }],
      })));
}

const overridden = (panel, data) =>
  applyFieldOverrides({
    data, theme, timeZone: "utc", replaceVariables: (s) => s, fieldConfigRegistry: registry,
    fieldConfig: panel.type === "timeseries"
      ? { ...panel.fieldConfig, defaults: { ...panel.fieldConfig.defaults, color: { mode: FieldColorModeId.PaletteClassic } } }
      : panel.fieldConfig,
  });

function Stat({ panel, data, width, height }) {
  const fields = data.map((f) => f.fields.at(-1));
  const each = Math.floor(width / Math.max(fields.length, 1));
  if (!fields.length) return <Nothing panel={panel} />;
  return (
    <div style={{ display: "flex" }}>
      {fields.map((field, n) => (
        <BigValue key={n} width={each} height={height} theme={theme}
          value={{ ...field.display(field.values[0]), title: getFieldDisplayName(field, data[n], data) }}
          colorMode={BigValueColorMode.Value} graphMode={BigValueGraphMode.None}
          textMode={panel.options.textMode === "value_and_name" ? BigValueTextMode.ValueAndName : BigValueTextMode.Value} />
      ))}
    </div>
  );
}

function Bars({ panel, data, width, height }) {
  const fields = data.map((f) => f.fields.at(-1));
  if (!fields.length) return <Nothing panel={panel} />;
  const most = panel.fieldConfig.defaults.max ?? Math.max(...fields.map((f) => f.values[0]), 1e-9);
  const each = Math.min(32, Math.floor((height - 4) / fields.length) - 4);
  return (
    <div>
      {fields.map((field, n) => {
        const value = field.display(field.values[0]);
        const config = { ...field.config, min: 0, max: most };
        return (
          <div key={n} style={{ marginBottom: 4 }}>
            <BarGauge theme={theme} width={width} height={each} orientation="horizontal"
              displayMode={BarGaugeDisplayMode.Basic} field={config} display={field.display}
              value={{ ...value, percent: Math.min(1, field.values[0] / most), title: getFieldDisplayName(field, data[n], data) }}
              alignmentFactors={longest(fields, data)} itemSpacing={4} showUnfilled={false}
              namePlacement="left" valueDisplayMode="text" />
          </div>
        );
      })}
    </div>
  );
}

function longest(fields, data) {
  const texts = fields.map((f, n) => ({ ...f.display(f.values[0]), title: getFieldDisplayName(f, data[n], data) }));
  const by = (key) => texts.map((t) => t[key] ?? "").sort((a, b) => b.length - a.length)[0];
  return { title: by("title"), text: by("text"), suffix: by("suffix"), prefix: by("prefix") };
}

const Nothing = ({ panel }) => (
  <div style={{ padding: 16, color: theme.colors.text.secondary }}>
    {panel.fieldConfig.defaults.noValue ?? "No data"}
  </div>
);

function Drawing({ panel, width, height }) {
  const [data, show] = React.useState(null);
  React.useEffect(() => {
    const raw = frames(panel);
    if (!panel.transformations?.length) return show(overridden(panel, raw));
    const steps = panel.transformations;
    const wait = transformDataFrame(steps, raw).subscribe((made) => show(overridden(panel, made)));
    return () => wait.unsubscribe();
  }, []);
  if (!data) return null;
  if (panel.type === "stat") return <Stat {...{ panel, data, width, height }} />;
  if (panel.type === "bargauge") return <Bars {...{ panel, data, width, height }} />;
  if (panel.type === "table") {
    return data.length
      ? <Table data={data[0]} width={width} height={height} footerOptions={panel.options.footer}
          enablePagination={false}
          initialSortBy={panel.options.sortBy?.map((s) => ({ displayName: s.displayName, desc: s.desc }))} />
      : <Nothing panel={panel} />;
  }
  if (!data.length) return <Nothing panel={panel} />;
  return <TimeSeries frames={data} structureRev={1} width={width} height={height} timeRange={timeRange}
    timeZone="utc" legend={panel.options.legend} options={panel.options} />;
}

function Head() {
  const chip = { border: `1px solid ${theme.colors.border.medium}`, borderRadius: 2, padding: "4px 8px", fontSize: 12 };
  return (
    <div style={{ display: "flex", gap: 8, alignItems: "center", height: 40, padding: "0 2px" }}>
      <div style={{ fontSize: 18, fontWeight: 500, marginRight: 16 }}>{dashboard.title}</div>
      {variables.map(([name, value]) => (
        <div key={name} style={chip}><span style={{ color: theme.colors.text.secondary }}>{name} </span>{value}</div>
      ))}
      <div style={{ ...chip, marginLeft: "auto" }}>{window.__payload.range}</div>
    </div>
  );
}

function App() {
  const column = WIDTH / 24;
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <div style={{
        width: WIDTH + 16, height, padding: 8, boxSizing: "border-box", fontSize: 14,
        background: theme.colors.background.canvas, color: theme.colors.text.primary,
        fontFamily: theme.typography.fontFamily,
      }}>
        <Head />
        <div style={{ position: "relative" }}>
          {dashboard.panels.map((panel) => {
            const place = panel.gridPos;
            const size = { width: place.w * column - GAP, height: place.h * ROW - GAP };
            const at = { position: "absolute", left: place.x * column, top: place.y * ROW, ...size };
            if (panel.type === "row") {
              return <div key={panel.id} style={{ ...at, lineHeight: `${size.height}px`, fontWeight: 500 }}>{panel.title}</div>;
            }
            return (
              <div key={panel.id} style={at}>
                <PanelChrome title={panel.title} {...size}>
                  {(width, height) => <Drawing {...{ panel, width, height }} />}
                </PanelChrome>
              </div>
            );
          })}
        </div>
      </div>
    </ThemeContext.Provider>
  );
}

createRoot(document.getElementById("root")).render(<App />);
