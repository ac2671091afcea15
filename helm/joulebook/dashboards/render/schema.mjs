// Holds dashboards to the types of a Grafana's own schema: node schema.mjs BOARD.json...
// Run where node_modules has @grafana/schema (whose files it rewrites) and typescript.
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";

const schema = path.resolve("node_modules/@grafana/schema");
const { version } = JSON.parse(fs.readFileSync(path.join(schema, "package.json"), "utf8"));
const files = fs
  .readdirSync(schema, { recursive: true })
  .filter((file) => /\.d\.[cm]?ts$/.test(file))
  .map((file) => path.join(schema, file));

// JSON has the values of an enumeration, TypeScript wants its names.
for (const file of files) {
  const text = fs.readFileSync(file, "utf8");
  const plain = text.replace(
    /(export )?declare enum (\w+) \{([^}]*)\}/g,
    (_, exported, name, body) =>
      `${exported ?? "declare "}type ${name} = ` +
      `${[...body.matchAll(/= ("[^"]*"|-?\d+)/g)].map((match) => match[1]).join(" | ")};`,
  );
  if (plain !== text) fs.writeFileSync(file, plain);
}

const types = (part) => {
  const file = files.find((each) => each.includes(part));
  return `"./${path.relative(".", file).replace(/\.d\.ts$/, "")}"`;
};
const lines = [`import type { Dashboard } from ${types("raw/dashboard/x/")};`];
const kinds = ["timeseries", "stat", "table", "bargauge"];
for (const kind of kinds) {
  lines.push(`import type * as ${kind} from ${types(`composable/${kind}/panelcfg/`)};`);
}
for (const [number, name] of process.argv.slice(2).entries()) {
  const board = JSON.parse(fs.readFileSync(name, "utf8"));
  for (const variable of board.templating.list) {
    // Of intervals alone; the generator writes them for all, and Grafana leaves them aside.
    for (const key of ["auto", "auto_min", "auto_count"]) delete variable[key];
  }
  lines.push(`export const board${number}: Dashboard = ${JSON.stringify(board)};`);
  for (const { id, type, options, fieldConfig } of board.panels) {
    if (!kinds.includes(type)) continue;
    // Since 12.2 a footer belongs to the columns; Grafana takes it there when it loads a table.
    if (type === "table" && !version.startsWith("11.")) delete options.footer;
    const of = `${number}_${id}`;
    lines.push(`export const o${of}: Partial<${type}.Options> = ${JSON.stringify(options)};`);
    if (type === "timeseries" || type === "table") {
      const custom = JSON.stringify(fieldConfig.defaults.custom);
      lines.push(`export const f${of}: Partial<${type}.FieldConfig> = ${custom};`);
    }
  }
}
fs.writeFileSync("boards.ts", lines.join("\n"));
const how = "--noEmit --skipLibCheck --strict --module esnext --moduleResolution bundler --target es2022";
execFileSync("node_modules/.bin/tsc", [...how.split(" "), "boards.ts"], { stdio: "inherit" });
console.log(`${process.argv.length - 2} dashboards fit Grafana ${version}`);
