import { Miniflare } from "miniflare";

new Miniflare({
  modules: true,
  scriptPath: "worker.mjs",
  compatibilityDate: "2025-07-01",
  port: 8787,
});
