//! The result as pictures: SVG, without fonts of the system.

use std::path::Path;

use plotters::prelude::*;

use super::increments::{Increments, Operation};
use super::{ours, peers};

const SIZE: (u32, u32) = (860, 440);
const LABELS: u32 = 110;

/// Colours that people with colour blindness tell apart (Okabe and Ito), and three more; ours come first.
const COLOURS: [RGBColor; 11] = [
    RGBColor(213, 94, 0),
    RGBColor(230, 159, 0),
    RGBColor(204, 121, 167),
    RGBColor(0, 0, 0),
    RGBColor(120, 120, 120),
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(0, 158, 115),
    RGBColor(139, 69, 19),
    RGBColor(88, 60, 160),
    RGBColor(170, 170, 40),
];

/// Writes the three plots.
pub(crate) fn draw(directory: &Path, run: &Increments) {
    let states = run.states.len();
    let stored = |contender: &str| {
        let mut total = 0.0;
        let added = (0..states).map_while(|state| run.growth(contender, state));
        added
            .map(|grown| {
                total += grown / 1e6;
                total
            })
            .collect()
    };
    lines(&directory.join("stored.svg"), "Stored, MB (all snapshots so far)", run, stored);
    let seconds = |contender: &str| {
        (0..states).map_while(|state| Some(run.seconds(contender, Operation::Create, state)?.median)).collect()
    };
    lines(&directory.join("seconds.svg"), "Seconds to keep each state (medians)", run, seconds);
    restores(&directory.join("restore.svg"), run);
}

fn lines(path: &Path, title: &str, run: &Increments, series: impl Fn(&str) -> Vec<f64>) {
    let all: Vec<(&String, Vec<f64>)> = run.contenders.iter().map(|name| (name, series(name))).collect();
    let most = all.iter().flat_map(|(_, values)| values).copied().fold(0.0, f64::max);
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE).unwrap();
    let mut builder = ChartBuilder::on(&root);
    builder.caption(title, ("sans-serif", 18)).margin(10).set_label_area_size(LabelAreaPosition::Left, 60);
    builder.set_label_area_size(LabelAreaPosition::Bottom, 32).margin_right(20);
    let last = run.states.len() - 1;
    let mut chart = builder.build_cartesian_2d(0.0..last as f64, 0.0..most * 1.05).unwrap();
    let label = |at: &f64| run.states.get(at.round() as usize).map_or_else(String::new, |state| state.name.clone());
    let mut mesh = chart.configure_mesh();
    mesh.x_labels(run.states.len()).x_label_formatter(&label).disable_x_mesh().draw().unwrap();
    for ((name, values), colour) in all.iter().zip(COLOURS.iter().cycle()) {
        let width = if name.starts_with(ours::DEFAULT) { 3 } else { 1 };
        let style = colour.stroke_width(width);
        let points = values.iter().enumerate().map(|(state, value)| (state as f64, *value));
        let drawn = chart.draw_series(LineSeries::new(points, style)).unwrap();
        drawn.label(name.as_str()).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    let mut legend = chart.configure_series_labels();
    legend.position(SeriesLabelPosition::UpperLeft).background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3));
    legend.draw().unwrap();
    root.present().unwrap();
}

/// Bars: into files that hold another state, and into nothing.
fn restores(path: &Path, run: &Increments) {
    let last = run.states.len() - 1;
    let median = |name: &str, operation, state| run.seconds(name, operation, state).map(|spread| spread.median);
    let mut bars: Vec<(String, f64, RGBColor)> = Vec::new();
    for (name, colour) in run.contenders.iter().zip(COLOURS.iter().cycle()) {
        let in_place = median(name, Operation::RestoreInPlace, 1).filter(|_| !peers::is_peer(name));
        bars.extend(in_place.map(|seconds| (format!("{name}, s2 → s1 in place"), seconds, *colour)));
        let nothing = median(name, Operation::RestoreToNothing, last);
        bars.extend(nothing.map(|seconds| (format!("{name}, into nothing"), seconds, *colour)));
    }
    let most = bars.iter().map(|(_, seconds, _)| *seconds).fold(0.0, f64::max);
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE).unwrap();
    let mut builder = ChartBuilder::on(&root);
    builder.caption("Seconds to restore (medians)", ("sans-serif", 18)).margin(10).margin_right(20);
    builder.set_label_area_size(LabelAreaPosition::Left, 2 * LABELS);
    builder.set_label_area_size(LabelAreaPosition::Bottom, 32);
    let count = bars.len();
    let mut chart = builder.build_cartesian_2d(0.0..most * 1.05, (0..count).into_segmented()).unwrap();
    let label = |at: &SegmentValue<usize>| match at {
        SegmentValue::CenterOf(at) => bars.get(count - 1 - *at).map_or_else(String::new, |(name, ..)| name.clone()),
        _ => String::new(),
    };
    chart.configure_mesh().y_labels(count).y_label_formatter(&label).disable_y_mesh().draw().unwrap();
    let rectangles = bars.iter().enumerate().map(|(number, (_, seconds, colour))| {
        let at = count - 1 - number;
        let corners = [(0.0, SegmentValue::Exact(at)), (*seconds, SegmentValue::Exact(at + 1))];
        let mut bar = Rectangle::new(corners, colour.filled());
        bar.set_margin(3, 3, 0, 0);
        bar
    });
    chart.draw_series(rectangles).unwrap();
    root.present().unwrap();
}
