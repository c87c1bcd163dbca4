// The configuration of a run, and what differs between runs.

import { get } from "../lib/api.js";
import { h, put } from "../lib/dom.js";
import { plural } from "../lib/format.js";
import { notices } from "../lib/runs.js";
import { inline } from "../lib/text.js";

export async function show(root, frame) {
  const run = frame.run;
  const several = frame.runs.length > 1;
  const [{ settings, notices: said = [] }, difference] = await Promise.all([
    get(`/api/runs/${run.id}/config`),
    several ? get("/api/config-diff") : Promise.resolve({ rows: [] }),
  ]);
  const search = h("input", {
    type: "search",
    placeholder: "Find a setting",
    "aria-label": "Find a setting",
    oninput: () => draw(),
  });
  const box = h("div", { class: "stack settings" });
  const draw = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const groups = new Map();
    for (const [key, value] of Object.entries(settings)) {
      const text = written(value);
      if (!words.every((word) => `${key} ${text}`.toLowerCase().includes(word))) continue;
      const [section, ...rest] = key.split(".");
      groups.set(section, [...(groups.get(section) ?? []), [rest.join(".") || section, text]]);
    }
    put(
      box,
      ...[...groups].map(([section, rows]) =>
        h(
          "section",
          { class: "panel" },
          h("header", {}, h("h2", {}, inline(section, 60))),
          h(
            "div",
            { class: "scroll pad", tabindex: "0", role: "region", "aria-label": section },
            h(
              "table",
              {},
              h(
                "tbody",
                {},
                rows.map(([key, text]) =>
                  h(
                    "tr",
                    {},
                    h("th", { scope: "row" }, inline(key, 80)),
                    h("td", {}, h("code", {}, inline(text, 500))),
                  ),
                ),
              ),
            ),
          ),
        ),
      ),
    );
    if (!groups.size)
      put(
        box,
        h(
          "p",
          { class: "panel empty" },
          words.length ? "No setting has these words." : "This run has no configuration that can be read.",
        ),
      );
  };
  draw();
  put(
    root,
    h("div", { class: "head" }, h("h1", {}, "Configuration"), h("p", { class: "sub" }, inline(run.name, 60))),
    notices(run.notices ?? [], said),
    h(
      "div",
      { class: "stack" },
      several ? differences(difference.rows, frame) : null,
      h("div", { class: "row" }, search),
      box,
    ),
  );
  return {};
}

function differences(rows, frame) {
  const head = h(
    "tr",
    {},
    h("th", { scope: "col" }, "Setting"),
    frame.runs.map((run) =>
      h(
        "th",
        { scope: "col" },
        h(
          "span",
          { class: "row" },
          h("span", { class: "swatch", style: { "--c": frame.colour(run.id) } }),
          inline(run.name, 40),
        ),
      ),
    ),
  );
  return h(
    "section",
    { class: "panel" },
    h(
      "header",
      {},
      h("h2", {}, "What differs between the runs"),
      h("span", { class: "soft small num" }, plural(rows.length, "setting")),
    ),
    rows.length
      ? h(
          "div",
          { class: "scroll pad", tabindex: "0", role: "region", "aria-label": "What differs" },
          h(
            "table",
            {},
            h("thead", {}, head),
            h(
              "tbody",
              {},
              rows.map((row) =>
                h(
                  "tr",
                  {},
                  h("th", { scope: "row" }, inline(row.key, 80)),
                  frame.runs.map((run) =>
                    h(
                      "td",
                      {},
                      run.id in row.values
                        ? h("code", {}, inline(written(row.values[run.id]), 200))
                        : h("span", { class: "soft" }, "not set"),
                    ),
                  ),
                ),
              ),
            ),
          ),
        )
      : h("p", { class: "pad soft" }, "Nothing: the runs have the same settings."),
  );
}

function written(value) {
  if (value === null || value === undefined) return "none";
  return typeof value === "string" ? value : JSON.stringify(value);
}
