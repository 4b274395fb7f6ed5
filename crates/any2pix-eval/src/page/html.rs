//! The parts of the page that need no script: tables, charts, what was run; every text escaped.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

pub(super) use crate::chart::escape;
use crate::chart::{Chart, Ground};
use crate::metrics::statistics::Estimate;
use crate::report::{COLUMNS, Slice, parts};

/// How many figures are drawn by slice.
const DRAWN: usize = 4;
/// Most entries of what was run.
const MOST_ENTRIES: usize = 300;

/// The template with `{{name}}` replaced; what is put in is not looked into again.
pub(super) fn fill(template: &str, parts: &[(&str, &str)]) -> String {
    let mut page = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        page.push_str(before);
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        page.push_str(parts.iter().find(|part| part.0 == name).map_or("", |part| part.1));
        rest = after;
    }
    page + rest
}

/// JSON that ends no script, whatever texts it holds.
pub(super) fn json(data: &impl Serialize) -> String {
    let text = serde_json::to_string(data).unwrap_or_default();
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            // Outside of strings JSON has none of these.
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                escaped.push_str(&format!("\\u{:04x}", character as u32));
            }
            other => escaped.push(other),
        }
    }
    escaped
}

/// What was run, in a few words.
pub(super) fn system(run: &Value) -> String {
    let named = |key: &str| run[key]["name"].as_str().or(run[key].as_str());
    match (named("system"), named("model")) {
        (Some("model") | None, Some(model)) => model.to_string(),
        (Some(system), Some(model)) => format!("{system} ({model})"),
        (Some(system), None) => system.to_string(),
        (None, None) => "a run".to_string(),
    }
}

fn used(slices: &[Slice]) -> Vec<&'static (&'static str, &'static str, usize)> {
    let has = |name: &str| slices.iter().any(|slice| slice.figures.contains_key(name));
    COLUMNS.iter().filter(|(name, ..)| has(name)).collect()
}

fn cell(estimate: Option<&Estimate>, decimals: usize) -> String {
    match estimate {
        Some(Estimate { mean, low, high, .. }) => format!(
            "<td>{mean:.decimals$} <small>{low:.decimals$} … {high:.decimals$}</small></td>"
        ),
        None => "<td>–</td>".to_string(),
    }
}

/// A table that scrolls in a box of its own.
fn scrolled(label: &str, head: &str, body: &str) -> String {
    let label = escape(label);
    let opening =
        format!("<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{label}\">");
    let table = format!("<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n");
    format!("{opening}<table>\n{table}</table></div>\n")
}

fn heading(name: &str) -> String {
    format!("<th scope=\"col\">{}</th>", escape(name))
}

/// The slices, each figure with its interval.
pub(super) fn table(slices: &[Slice]) -> String {
    let used = used(slices);
    let head: String =
        ["slice", "n"].into_iter().chain(used.iter().map(|column| column.1)).map(heading).collect();
    let mut body = String::new();
    let mut before = None;
    for slice in slices {
        // All, by one thing, and by two are told apart by a line.
        let group = (slice.name == "all", parts(&slice.name));
        let class = if before.is_some_and(|b| b != group) { " class=\"group\"" } else { "" };
        before = Some(group);
        let name = escape(&slice.name);
        body.push_str(&format!("<tr{class}><th scope=\"row\">{name}</th><td>{}</td>", slice.count));
        for (name, _, decimals) in &used {
            body.push_str(&cell(slice.figures.get(*name), *decimals));
        }
        body.push_str("</tr>\n");
    }
    scrolled("Figures by slice", &head, &body)
}

/// Figures that were not measured, with why.
pub(super) fn absent(absent: &Value) -> String {
    let Some(absent) = absent.as_object().filter(|absent| !absent.is_empty()) else {
        return String::new();
    };
    let mut text = format!(
        "<details class=\"absent\"><summary>{} figures were not measured</summary><ul>\n",
        absent.len()
    );
    for (name, why) in absent {
        let why = escape(why.as_str().unwrap_or_default());
        text.push_str(&format!("<li><code>{}</code>: {why}</li>\n", escape(name)));
    }
    text + "</ul></details>\n"
}

/// The first figures of the table by kind and by modality.
pub(super) fn interval_charts(slices: &[Slice]) -> Vec<Chart> {
    let plain = || slices.iter().filter(|slice| parts(&slice.name) == 1);
    let chart = |(name, title, _): &(&str, &str, usize)| {
        let row = |slice: &Slice| Some((slice.name.clone(), *slice.figures.get(*name)?));
        let rows: Vec<_> = plain().filter_map(row).collect();
        (rows.len() > 1).then(|| Chart::Rows { title: title.to_string(), rows })
    };
    // That nothing failed needs no chart.
    let quality = used(slices).into_iter().filter(|column| column.0 != "failed");
    quality.filter_map(chart).take(DRAWN).collect()
}

/// Charts beside each other under a heading.
pub(super) fn charts(title: &str, charts: &[Chart]) -> String {
    if charts.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "<section aria-labelledby=\"charts\">\n<h2 id=\"charts\">{}</h2>\n<div class=\"charts\">\n",
        escape(title)
    );
    for chart in charts {
        text.push_str(&format!("<figure>{}</figure>\n", chart.svg(Ground::Page)));
    }
    text + "</div>\n</section>"
}

/// The numbers of charts, for those who would rather read them.
pub(super) fn chart_tables(charts: &[Chart]) -> String {
    let head: String = ["chart", "line", "setting", "x", "y"].into_iter().map(heading).collect();
    let mut body = String::new();
    for chart in charts {
        let Chart::Lines { title, lines, .. } = chart else { continue };
        for line in lines {
            for point in &line.points {
                body.push_str(&format!(
                    "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td>{}{}</tr>\n",
                    escape(title),
                    escape(&line.name),
                    escape(&point.label),
                    cell(Some(&point.x), 3),
                    cell(Some(&point.y), 3)
                ));
            }
        }
    }
    scrolled("Points of the curves", &head, &body)
}

fn flatten(name: &str, value: &Value, flat: &mut BTreeMap<String, String>) {
    let joined =
        |key: &str| if name.is_empty() { key.to_string() } else { format!("{name}.{key}") };
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| flatten(&joined(key), value, flat));
        }
        Value::Null => {}
        Value::String(text) => drop(flat.insert(name.to_string(), text.clone())),
        other => drop(flat.insert(name.to_string(), other.to_string())),
    }
}

/// What was run, as names and values.
pub(super) fn about(run: &Value) -> String {
    let mut flat = BTreeMap::new();
    flatten("", run, &mut flat);
    let entry = |(name, value): (&String, &String)| {
        format!("<dt>{}</dt><dd>{}</dd>\n", escape(name), escape(value))
    };
    let entries: String = flat.iter().take(MOST_ENTRIES).map(entry).collect();
    format!("<dl>\n{entries}</dl>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_in_is_not_filled_again() {
        let page = fill("<{{a}}|{{b}}|{{none}}>", &[("a", "{{b}}"), ("b", "2")]);
        assert_eq!(page, "<{{b}}|2|>");
    }

    #[test]
    fn json_ends_no_script() {
        let hostile = "</script><!--\u{2028}&";
        let text = json(&hostile);
        assert!(!text.contains(['<', '>', '&', '\u{2028}']), "{text}");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), hostile);
    }
}
