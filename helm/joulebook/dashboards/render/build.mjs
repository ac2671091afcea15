// Bundles app.jsx with Grafana's components into app.js; run where node_modules is.
import * as esbuild from "esbuild";
import path from "node:path";

// The ESM build of Grafana's packages brings a second React; the CommonJS one does not.
const commonjs = {
  name: "commonjs",
  setup(build) {
    build.onResolve({ filter: /^@grafana\/(ui|data|schema|i18n|e2e-selectors)$/ }, (found) => ({
      path: path.resolve("node_modules", found.path, "dist/cjs/index.cjs"),
    }));
  },
};
const files = [".png", ".woff", ".woff2", ".ttf"].map((ending) => [ending, "dataurl"]);

await esbuild.build({
  entryPoints: ["app.jsx"],
  bundle: true,
  outfile: "app.js",
  format: "iife",
  platform: "browser",
  mainFields: ["browser", "module", "main"],
  define: { "process.env.NODE_ENV": '"production"', global: "window" },
  loader: { ...Object.fromEntries(files), ".svg": "text" },
  logLevel: "error",
  plugins: [commonjs],
});
