//! The geometry of the pictures in `report.html`: where each bar, tick and mark stands. Drawing is the template's work.

use jiff::Timestamp;
use serde::Serialize;

use super::{
    Ending, MarkKind, Measure, RecoveryReport, Verdict,
    timeline::{Mark, Step},
};
use crate::{failover::seconds_between, notice::utc, objective::human_seconds};

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 168.0;
const RIGHT: f64 = 990.0;
const ROW: f64 = 27.0;
const LANE: f64 = 18.0;
/// What comes before the run may take this share of the picture; a longer wait is drawn shorter, behind a break.
const LEAD_IN: f64 = 0.24;

/// The timeline as a picture.
#[derive(Debug, Serialize)]
pub(super) struct Chart {
    pub width: f64,
    pub height: f64,
    pub left: f64,
    pub right: f64,
    /// Where rows begin.
    pub top: f64,
    /// Where rows end.
    pub bottom: f64,
    pub bars: Vec<Bar>,
    pub ticks: Vec<Tick>,
    pub marks: Vec<MarkLine>,
    /// Where the scale changes, if it does.
    pub break_x: Option<f64>,
    /// The picture in words.
    pub description: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Bar {
    pub y: f64,
    pub x: f64,
    pub width: f64,
    pub label: String,
    pub class: &'static str,
    pub duration: String,
    pub duration_x: f64,
    pub anchor: &'static str,
    pub title: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Tick {
    pub x: f64,
    pub label: String,
}

#[derive(Debug, Serialize)]
pub(super) struct MarkLine {
    pub x: f64,
    pub label_y: f64,
    pub label_x: f64,
    pub anchor: &'static str,
    pub label: String,
    pub class: &'static str,
}

/// Maps moments to the picture: one scale for the run, and a tighter one before it where the wait was long.
struct Scale {
    begin: Timestamp,
    knee: Timestamp,
    knee_x: f64,
    end: Timestamp,
}

impl Scale {
    fn new(begin: Timestamp, started: Timestamp, end: Timestamp) -> Scale {
        let whole = seconds_between(begin, end).max(f64::EPSILON);
        let lead = seconds_between(begin, started) / whole;
        let broken = lead > LEAD_IN && started < end;
        let share = if broken { LEAD_IN } else { lead.clamp(0.0, 1.0) };
        Scale { begin, knee: started, knee_x: LEFT + share * (RIGHT - LEFT), end }
    }

    fn is_broken(&self) -> bool {
        let whole = seconds_between(self.begin, self.end).max(f64::EPSILON);
        let true_x = LEFT + seconds_between(self.begin, self.knee) / whole * (RIGHT - LEFT);
        (true_x - self.knee_x).abs() > 1.0
    }

    fn x(&self, at: Timestamp) -> f64 {
        let part = |from: Timestamp, to: Timestamp| {
            (seconds_between(from, at) / seconds_between(from, to).max(f64::EPSILON)).clamp(0.0, 1.0)
        };
        let x = if at < self.knee {
            LEFT + part(self.begin, self.knee) * (self.knee_x - LEFT)
        } else {
            self.knee_x + part(self.knee, self.end) * (RIGHT - self.knee_x)
        };
        tenth(x)
    }
}

fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// The timeline of a report, or `None` if nothing has a time.
pub(super) fn chart(report: &RecoveryReport) -> Option<Chart> {
    let began = report.incident.as_ref().map_or(report.record.started_at, |incident| incident.began_at);
    let started = report.record.started_at.max(began);
    let ends = report.timeline.iter().map(|step| step.ended_at.unwrap_or(report.written_at));
    let end = ends.chain(report.marks.iter().map(|mark| mark.at)).max()?;
    if end <= began {
        return None;
    }
    let scale = Scale::new(began, started, end);

    let lanes = lanes(&report.marks, &scale);
    let lane_count = lanes.iter().map(|(lane, _)| lane + 1).max().unwrap_or(0);
    let top = 30.0 + lane_count as f64 * LANE;

    let mut rows: Vec<(String, Timestamp, Timestamp, &'static str, String)> = Vec::new();
    if let Some(incident) = &report.incident {
        if incident.declared_at > incident.began_at {
            rows.push(("not declared yet".into(), incident.began_at, incident.declared_at, "wait", String::new()));
        }
        if report.record.started_at > incident.declared_at {
            rows.push((
                "declared, not started".into(),
                incident.declared_at,
                report.record.started_at,
                "wait",
                String::new(),
            ));
        }
    }
    for step in &report.timeline {
        rows.push((
            step.state.clone(),
            step.began_at,
            step.ended_at.unwrap_or(report.written_at),
            class(step),
            step.seen.clone(),
        ));
    }
    let bars: Vec<Bar> = rows.into_iter().enumerate().map(|(row, parts)| bar(row, top, &scale, parts)).collect();
    let bottom = top + bars.len() as f64 * ROW;
    let marks = report
        .marks
        .iter()
        .zip(lanes)
        .map(|(mark, (lane, anchor))| {
            let x = scale.x(mark.at);
            MarkLine {
                x,
                label_y: 14.0 + lane as f64 * LANE,
                label_x: if anchor == "start" { x + 5.0 } else { x - 5.0 },
                anchor,
                label: mark_text(mark, began),
                class: mark_class(mark.kind),
            }
        })
        .collect();
    Some(Chart {
        width: WIDTH,
        height: bottom + 30.0,
        left: LEFT,
        right: RIGHT,
        top,
        bottom,
        bars,
        ticks: ticks(began, &scale),
        marks,
        break_x: scale.is_broken().then_some(tenth(scale.knee_x)),
        description: describe(report),
    })
}

fn class(step: &Step) -> &'static str {
    match (step.ending, step.state.as_str()) {
        (Ending::Failed, _) => "failed",
        (Ending::UnderWay, _) => "under-way",
        (Ending::Done, "PromoteReplica") => "irreversible",
        (Ending::Done, state) if state.starts_with("Notify") || state.starts_with("Await") => "quiet",
        (Ending::Done, _) => "done",
    }
}

fn bar(
    row: usize,
    top: f64,
    scale: &Scale,
    (label, begin, end, class, seen): (String, Timestamp, Timestamp, &'static str, String),
) -> Bar {
    let x = scale.x(begin);
    // What took no visible time is still drawn.
    let width = tenth((scale.x(end) - x).max(3.0));
    let duration = human_seconds(seconds_between(begin, end).max(0.0));
    let room = duration.len() as f64 * 6.6 + 8.0;
    let (duration_x, anchor) = if x + width + room < RIGHT { (x + width + 6.0, "start") } else { (x - 6.0, "end") };
    let title = if seen.is_empty() { format!("{label}: {duration}") } else { format!("{label}: {duration}. {seen}") };
    Bar { y: top + row as f64 * ROW, x, width, label, class, duration, duration_x: tenth(duration_x), anchor, title }
}

/// The lane and anchor of each mark's label, so that no two labels cover each other.
fn lanes(marks: &[Mark], scale: &Scale) -> Vec<(usize, &'static str)> {
    let began = marks.first().map_or(Timestamp::UNIX_EPOCH, |mark| mark.at);
    let mut taken: Vec<Vec<(f64, f64)>> = Vec::new();
    marks
        .iter()
        .map(|mark| {
            let x = scale.x(mark.at);
            let width = mark_text(mark, began).chars().count() as f64 * 6.7 + 12.0;
            let anchor = if x + width < RIGHT { "start" } else { "end" };
            let (from, to) = if anchor == "start" { (x, x + width) } else { (x - width, x) };
            let free = |lane: &Vec<(f64, f64)>| lane.iter().all(|(a, b)| to < *a || from > *b);
            let lane = taken.iter().position(free).unwrap_or(taken.len());
            if lane == taken.len() {
                taken.push(Vec::new());
            }
            taken[lane].push((from, to));
            (lane, anchor)
        })
        .collect()
}

fn mark_text(mark: &Mark, began: Timestamp) -> String {
    let after = seconds_between(began, mark.at);
    if mark.kind == MarkKind::Impairment || after <= 0.0 {
        mark.label.clone()
    } else {
        format!("{} +{}", mark.label, human_seconds(after))
    }
}

fn mark_class(kind: MarkKind) -> &'static str {
    match kind {
        MarkKind::Impairment => "impairment",
        MarkKind::Declared | MarkKind::Started => "minor",
        MarkKind::PointOfNoReturn => "no-return",
        MarkKind::Recovered => "recovered",
    }
}

/// Round steps of time since the impairment, about eight of them on the run's part of the scale.
fn ticks(began: Timestamp, scale: &Scale) -> Vec<Tick> {
    const STEPS: [f64; 16] =
        [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0];
    let from = if scale.is_broken() { seconds_between(began, scale.knee) } else { 0.0 };
    let to = seconds_between(began, scale.end);
    let step = STEPS.into_iter().find(|step| (to - from) / step <= 8.5).unwrap_or(21_600.0);
    let mut ticks = vec![Tick { x: LEFT, label: "0".to_owned() }];
    let first = ((from / step).floor() + 1.0).max(1.0);
    let mut at = first * step;
    while at <= to {
        let moment = began.saturating_add(jiff::SignedDuration::try_from_secs_f64(at).unwrap_or_default());
        ticks.push(Tick { x: scale.x(moment.unwrap_or(began)), label: format!("+{}", human_seconds(at)) });
        at += step;
    }
    ticks
}

fn describe(report: &RecoveryReport) -> String {
    let marks: Vec<String> = report.marks.iter().map(|mark| format!("{} at {}", mark.label, utc(mark.at))).collect();
    let longest = report
        .timeline
        .iter()
        .filter_map(|step| Some((step.seconds?, step)))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or_else(String::new, |(seconds, step)| {
            format!(" The longest step was {} with {}.", step.state, human_seconds(seconds))
        });
    format!("{} steps. {}.{longest} The table below has every figure.", report.timeline.len(), marks.join(", "))
}

/// A measurement as a bar against its limit.
#[derive(Debug, Serialize)]
pub(super) struct Gauge {
    /// Length of the bar, of 200.
    pub fill: f64,
    /// Where the limit stands, of 200.
    pub limit: f64,
    pub class: &'static str,
    /// The bar is longer than the picture.
    pub beyond: bool,
    pub description: String,
}

pub(super) fn gauge(measure: &Measure) -> Gauge {
    const LIMIT: f64 = 150.0;
    let share = match (measure.measured_seconds, measure.objective_seconds) {
        (Some(measured), Some(limit)) if limit > 0.0 => Some(measured / limit),
        (Some(measured), Some(_)) => Some(if measured > 0.0 { f64::INFINITY } else { 0.0 }),
        _ => None,
    };
    let length = share.map_or(0.0, |share| share * LIMIT);
    let description = match (measure.measured_seconds, share) {
        (Some(measured), Some(share)) if share.is_finite() => format!(
            "{} of {}, {} percent of the limit",
            human_seconds(measured),
            measure.objective,
            (share * 100.0).round()
        ),
        (Some(measured), _) => format!("{} of {}", human_seconds(measured), measure.objective),
        (None, _) if measure.verdict == Verdict::Met => "nothing to lose".to_owned(),
        (None, _) => format!("not measured, limit {}", measure.objective),
    };
    Gauge {
        fill: tenth(if share.is_some() { length.clamp(2.0, 200.0) } else { 0.0 }),
        limit: LIMIT,
        class: match measure.verdict {
            Verdict::Met => "met",
            Verdict::NotMet => "missed",
            Verdict::Unknown => "unknown",
        },
        beyond: length > 200.0,
        description,
    }
}
