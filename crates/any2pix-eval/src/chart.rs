//! `Chart`: figures with their intervals as SVG, alone in a file or inside a page.
//!
//! Written out rather than by a plotting crate: inside a page the axes take the page's colour, in
//! light and dark, every mark tells its numbers, and nothing depends on installed fonts.

use crate::metrics::statistics::Estimate;

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 48.0;
/// Height of a row of intervals.
const ROW: f64 = 19.0;
/// Room for the names of rows.
const NAMES: f64 = 150.0;
/// Told apart by those who do not see all colours too (Okabe and Ito), on light and dark.
const COLOURS: [&str; 6] = ["#2f7fc1", "#d5701f", "#1f9d78", "#c0699f", "#8a7a1c", "#7f6fd0"];

/// A mark, with intervals where they are known.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// From left to right.
    pub x: Estimate,
    /// From bottom to top.
    pub y: Estimate,
    /// What was run.
    pub label: String,
}

impl Point {
    /// A setting's value against what came of it.
    pub fn of_setting(x: f64, y: Estimate) -> Self {
        let exactly = Estimate { mean: x, low: x, high: x, count: y.count };
        Self { x: exactly, y, label: number(x) }
    }
}

/// Marks that belong together; joined in their order when all their labels are numbers, as nothing
/// lies between two names.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// What they share; empty when there is only one line.
    pub name: String,
    /// The marks.
    pub points: Vec<Point>,
}

impl Line {
    fn is_joined(&self) -> bool {
        self.points.iter().all(|point| point.label.parse::<f64>().is_ok())
    }
}

/// What is drawn.
#[derive(Clone, Debug, PartialEq)]
pub enum Chart {
    /// One figure against a setting or another figure.
    Lines {
        /// Above it.
        title: String,
        /// Names of the axes: below, and at the left.
        axes: [String; 2],
        /// The lines.
        lines: Vec<Line>,
    },
    /// One figure of several groups, a row each.
    Rows {
        /// Above it.
        title: String,
        /// Names and values.
        rows: Vec<(String, Estimate)>,
    },
}

/// What is behind a chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// The page's own; marks and text take its colour.
    Page,
    /// White, for a file of its own.
    White,
}

/// Text for XML and HTML, in attributes too.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // XML has no place for other control characters.
            c if c.is_control() && !matches!(c, '\n' | '\t') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A number as short as it can be told apart on a chart.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        large if large >= 100.0 => 0,
        medium if medium >= 10.0 => 1,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let text =
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    if text == "-0" { "0".to_string() } else { text.to_string() }
}

/// A range of values that an axis shows, and where it is marked.
struct Axis {
    low: f64,
    high: f64,
    ticks: Vec<f64>,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite()) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        // One value alone stands in the middle.
        let room = if high > low { (high - low) * 0.06 } else { high.abs().max(1.0) * 0.1 };
        (low, high) = (low - room, high + room);
        let rough = (high - low) / 6.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|s| s * power).into_iter().find(|s| *s >= rough);
        let step = step.unwrap_or(rough);
        let first = (low / step).ceil();
        let count = ((high / step).floor() - first).clamp(0.0, 20.0) as usize;
        Self { low, high, ticks: (0..=count).map(|i| (first + i as f64) * step).collect() }
    }

    /// Where a value stands between `start` and `end`.
    fn at(&self, value: f64, start: f64, end: f64) -> f64 {
        start + (value - self.low) / (self.high - self.low) * (end - start)
    }
}

/// An SVG that grows.
struct Svg(String);

impl Svg {
    fn new(title: &str, (width, height): (f64, f64), ground: Ground) -> Self {
        let mut svg = Self("<svg xmlns=\"http://www.w3.org/2000/svg\" ".to_string());
        svg.0 +=
            &format!("viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" ");
        svg.push("role=\"img\" font-family=\"sans-serif\" font-size=\"12\">");
        svg.push(&format!("<title>{}</title>", escape(title)));
        if ground == Ground::White {
            svg.push("<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>");
        }
        svg.text((12.0, 20.0), "start", title, " font-weight=\"600\" font-size=\"13\"");
        svg
    }

    fn push(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    fn line(&mut self, [x1, y1, x2, y2]: [f64; 4], more: &str) {
        self.push(&format!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"{more}/>"
        ));
    }

    fn text(&mut self, (x, y): (f64, f64), anchor: &str, text: &str, more: &str) {
        self.push(&format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"currentColor\"{more}>{}\
             </text>",
            escape(text)
        ));
    }

    fn mark(&mut self, (x, y): (f64, f64), colour: &str, told: &str) {
        self.push(&format!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"><title>{}</title></circle>",
            escape(told)
        ));
    }

    fn finish(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}

const FAINT: &str = " stroke=\"currentColor\" stroke-opacity=\"0.18\"";

impl Chart {
    /// What stands above it.
    pub fn title(&self) -> &str {
        match self {
            Self::Lines { title, .. } | Self::Rows { title, .. } => title,
        }
    }

    /// The drawing, the same bytes for the same chart.
    pub fn svg(&self, ground: Ground) -> String {
        match self {
            Self::Lines { title, axes, lines } => draw_lines(title, axes, lines, ground),
            Self::Rows { title, rows } => draw_rows(title, rows, ground),
        }
    }
}

fn told(estimate: &Estimate) -> String {
    let Estimate { mean, low, high, .. } = estimate;
    format!("{} ({} … {})", number(*mean), number(*low), number(*high))
}

fn draw_rows(title: &str, rows: &[(String, Estimate)], ground: Ground) -> String {
    let bottom = TOP + ROW * rows.len() as f64;
    let mut svg = Svg::new(title, (WIDTH, bottom + 30.0), ground);
    let axis = Axis::over(rows.iter().flat_map(|(_, e)| [e.low, e.high]));
    let place = |value: f64| axis.at(value, NAMES, WIDTH - RIGHT);
    for tick in &axis.ticks {
        svg.line([place(*tick), TOP, place(*tick), bottom], FAINT);
        svg.text((place(*tick), bottom + 16.0), "middle", &number(*tick), "");
    }
    for (index, (name, estimate)) in rows.iter().enumerate() {
        let y = TOP + ROW * (index as f64 + 0.5);
        let colour = COLOURS[0];
        svg.text((NAMES - 8.0, y + 4.0), "end", name, "");
        let whisker = [place(estimate.low), y, place(estimate.high), y];
        svg.line(whisker, &format!(" stroke=\"{colour}\" stroke-width=\"2\""));
        let told = format!("{name}: {}, n = {}", told(estimate), estimate.count);
        svg.mark((place(estimate.mean), y), colour, &told);
    }
    svg.finish()
}

fn draw_lines(title: &str, axes: &[String; 2], lines: &[Line], ground: Ground) -> String {
    let key = if lines.len() > 1 { 18.0 * lines.len() as f64 } else { 0.0 };
    let mut svg = Svg::new(title, (WIDTH, HEIGHT + key), ground);
    let points = || lines.iter().flat_map(|line| &line.points);
    let across = Axis::over(points().flat_map(|p| [p.x.low, p.x.high]));
    let upward = Axis::over(points().flat_map(|p| [p.y.low, p.y.high]));
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let x = |value: f64| across.at(value, LEFT, right);
    let y = |value: f64| upward.at(value, bottom, TOP);
    for (tick, label) in marks_below(&across, lines) {
        svg.line([x(tick), TOP, x(tick), bottom], FAINT);
        svg.text((x(tick), bottom + 16.0), "middle", &label, "");
    }
    for tick in &upward.ticks {
        svg.line([LEFT, y(*tick), right, y(*tick)], FAINT);
        svg.text((LEFT - 6.0, y(*tick) + 4.0), "end", &number(*tick), "");
    }
    svg.text(((LEFT + right) / 2.0, bottom + 36.0), "middle", &axes[0], "");
    let middle = (TOP + bottom) / 2.0;
    let turned = format!(" transform=\"rotate(-90 14 {middle:.1})\"");
    svg.text((14.0, middle), "middle", &axes[1], &turned);
    for (index, line) in lines.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        draw_line(&mut svg, line, colour, (&x, &y));
        if lines.len() > 1 {
            let below = HEIGHT + 18.0 * index as f64;
            svg.mark((LEFT, below), colour, &line.name);
            svg.text((LEFT + 12.0, below + 4.0), "start", &line.name, "");
        }
    }
    svg.finish()
}

/// Round numbers; of settings that are no numbers, their values.
fn marks_below(axis: &Axis, lines: &[Line]) -> Vec<(f64, String)> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let settings = points().all(|p| p.x.low == p.x.high);
    if settings && points().any(|p| p.label.parse::<f64>().is_err()) {
        let mut marks: Vec<_> = points().map(|p| (p.x.mean, p.label.clone())).collect();
        marks.sort_by(|a, b| a.0.total_cmp(&b.0));
        marks.dedup_by(|a, b| a.0 == b.0);
        return marks;
    }
    axis.ticks.iter().map(|tick| (*tick, number(*tick))).collect()
}

type Scale<'a> = &'a dyn Fn(f64) -> f64;

fn draw_line(svg: &mut Svg, line: &Line, colour: &str, (x, y): (Scale<'_>, Scale<'_>)) {
    let at = |across: f64, up: f64| format!("{:.1},{:.1}", x(across), y(up));
    let join = |points: Vec<String>| points.join(" ");
    let exact = line.points.iter().all(|p| p.x.low == p.x.high);
    let is_joined = line.is_joined();
    if exact && is_joined && line.points.len() > 1 {
        // A band where the other axis is a setting, whiskers where it is a figure too.
        let upper = line.points.iter().map(|p| at(p.x.mean, p.y.high));
        let lower = line.points.iter().rev().map(|p| at(p.x.mean, p.y.low));
        svg.push(&format!(
            "<polygon points=\"{}\" fill=\"{colour}\" fill-opacity=\"0.18\"/>",
            join(upper.chain(lower).collect())
        ));
    } else {
        let thin = format!(" stroke=\"{colour}\" stroke-opacity=\"0.5\"");
        for p in &line.points {
            svg.line([x(p.x.mean), y(p.y.low), x(p.x.mean), y(p.y.high)], &thin);
            svg.line([x(p.x.low), y(p.y.mean), x(p.x.high), y(p.y.mean)], &thin);
        }
    }
    if is_joined {
        svg.push(&format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            join(line.points.iter().map(|p| at(p.x.mean, p.y.mean)).collect())
        ));
    }
    for p in &line.points {
        let across = if exact { number(p.x.mean) } else { told(&p.x) };
        let told = format!("{} {}: {across}, {}", line.name, p.label, told(&p.y));
        svg.mark((x(p.x.mean), y(p.y.mean)), colour, told.trim());
        if !exact {
            svg.text(
                (x(p.x.mean) + 7.0, y(p.y.mean) - 6.0),
                "start",
                &p.label,
                " font-size=\"11\"",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(mean: f64, by: f64) -> Estimate {
        Estimate { mean, low: mean - by, high: mean + by, count: 9 }
    }

    #[test]
    fn ticks_are_round_and_inside() {
        let axis = Axis::over([0.0, 1.0].into_iter());
        let ticks: Vec<_> = axis.ticks.iter().map(|t| number(*t)).collect();
        assert_eq!(ticks, ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        let axis = Axis::over([31.2, 41.9].into_iter());
        assert!(axis.ticks.iter().all(|tick| *tick >= axis.low && *tick <= axis.high));
        assert!((4..8).contains(&axis.ticks.len()), "{:?}", axis.ticks);
        assert_eq!(Axis::over(std::iter::empty()).ticks.len(), 6);
        assert!(Axis::over([7.0, 7.0].into_iter()).ticks.len() > 1);
    }

    #[test]
    fn a_higher_value_stands_higher_and_names_are_text() {
        let points = [(0.0, 0.2), (0.5, 0.9)];
        let points = points.map(|(x, y)| Point::of_setting(x, around(y, 0.05))).to_vec();
        let name = "<script>".to_string();
        let chart = Chart::Lines {
            title: "a & b".into(),
            axes: ["alpha".into(), "edit".into()],
            lines: vec![Line { name, points }],
        };
        let svg = chart.svg(Ground::White);
        assert!(svg.contains("a &amp; b") && !svg.contains("<script>"), "{svg}");
        let heights: Vec<f64> = svg
            .split("cy=\"")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap().parse().unwrap())
            .collect();
        assert!(heights[0] > heights[1], "{heights:?}");
        assert!(svg.contains("<polygon") && svg.contains("0.9 (0.85 … 0.95)"), "{svg}");
        assert_eq!(svg, chart.svg(Ground::White));
        assert!(!chart.svg(Ground::Page).contains("#ffffff"));
    }

    #[test]
    fn two_figures_have_whiskers_both_ways() {
        let point = |x, y, label: &str| Point { x, y, label: label.into() };
        let points = vec![
            point(around(0.1, 0.01), around(0.9, 0.02), "1.0"),
            point(around(0.2, 0.01), around(0.7, 0.02), "2.2"),
        ];
        let axes: [String; 2] = ["direction".into(), "image".into()];
        let lines = vec![Line { name: String::new(), points }];
        let mut names = lines.clone();
        names[0].points[1].label = "oracle".into();
        let draw =
            |lines| Chart::Lines { title: "t".into(), axes: axes.clone(), lines }.svg(Ground::Page);
        let svg = draw(lines);
        assert!(!svg.contains("<polygon") && svg.contains(">2.2</text>"), "{svg}");
        assert!(svg.contains("<polyline"), "numbers are joined: {svg}");
        assert!(!draw(names).contains("<polyline"), "names are not");
        let rows =
            vec![("all".to_string(), around(0.5, 0.1)), ("add".to_string(), around(0.7, 0.1))];
        let svg = Chart::Rows { title: "t".into(), rows }.svg(Ground::Page);
        assert_eq!(svg.matches("<circle").count(), 2);
    }
}
