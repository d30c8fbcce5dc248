//! The report as text and as a page. Templates lie beside this file; every figure they print is in the report.

use jiff::Timestamp;
use minijinja::{Environment, Value, context, syntax::SyntaxConfig, value::Serde};

use super::{BackupReport, RecoveryReport, backups, chart, measure::Measure};
use crate::{failover::seconds_between, notice::utc, objective::human_seconds};

/// The report in Markdown, for a ticket or a terminal.
///
/// # Errors
/// The template and the report do not fit, which is a defect.
pub fn to_markdown(report: &RecoveryReport) -> Result<String, minijinja::Error> {
    environment()?.get_template("report.md")?.render(context! { report => Serde(report) })
}

/// The report as one page of HTML without scripts or outside resources.
///
/// # Errors
/// The template and the report do not fit, which is a defect.
pub fn to_html(report: &RecoveryReport) -> Result<String, minijinja::Error> {
    let began = report.incident.as_ref().map_or(report.record.started_at, |incident| incident.began_at);
    let (met, all) = report.objectives_met();
    let figures = context! {
        met, all,
        database => Serde(report.components.iter().find(|component| component.name == "postgresql")),
        detection => phase(report, "detection"),
        decision => phase(report, "decision"),
        longest => report.phases.iter().map(|phase| phase.seconds).fold(0.0, f64::max),
    };
    environment()?.get_template("report.html")?.render(context! {
        report => Serde(report),
        figures,
        began => began.to_string(),
        chart => Serde(chart::chart(report)),
    })
}

/// The report of a run of backups in Markdown.
///
/// # Errors
/// The template and the report do not fit, which is a defect.
pub fn backups_to_markdown(report: &BackupReport) -> Result<String, minijinja::Error> {
    environment()?.get_template("backups.md")?.render(context! { report => Serde(report) })
}

/// The report of a run of backups as one page of HTML without scripts or outside resources.
///
/// # Errors
/// The template and the report do not fit, which is a defect.
pub fn backups_to_html(report: &BackupReport) -> Result<String, minijinja::Error> {
    let (met, all) = report.policies_met();
    environment()?.get_template("backups.html")?.render(context! {
        report => Serde(report),
        ages => Serde(backups::ages(report)),
        left => backups::AGES_LEFT,
        met, all,
        plain_bytes => report.plain_bytes(),
        stored_bytes => report.stored_bytes(),
        seconds => seconds_between(report.started_at, report.written_at),
    })
}

fn phase(report: &RecoveryReport, name: &str) -> Option<f64> {
    report.phases.iter().find(|phase| phase.name == name).map(|phase| phase.seconds)
}

fn environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.add_filter("duration", |seconds: Value| {
        f64::try_from(seconds).map_or_else(|_| "unknown".to_owned(), human_seconds)
    });
    environment.add_filter("utc", |at: Value| moment(&at).map_or_else(|| "unknown".to_owned(), utc));
    environment.add_filter("clock", |at: Value| {
        moment(&at).map_or_else(
            || "unknown".to_owned(),
            |at| at.to_zoned(jiff::tz::TimeZone::UTC).strftime("%H:%M:%S").to_string(),
        )
    });
    environment.add_filter("since", |at: Value, began: Value| match (moment(&at), moment(&began)) {
        (Some(at), Some(began)) => format!("+{}", human_seconds(seconds_between(began, at))),
        _ => "unknown".to_owned(),
    });
    environment.add_filter("gauge", |measure: Serde<Measure>| Value::from(Serde(chart::gauge(&measure))));
    // `code` in backticks, after everything else has been escaped.
    environment.add_filter("ticks", |text: String| Value::from_safe_string(ticks(&text)));
    // A cell of a Markdown table ends at a line's end or a bar.
    environment.add_filter("cell", |text: String| text.replace('|', "\\|").replace(['\r', '\n'], " "));
    environment
        .add_filter("bytes", |bytes: Value| f64::try_from(bytes).map_or_else(|_| "unknown".to_owned(), human_bytes));
    environment.add_template("style.css", include_str!("style.css"))?;
    environment.add_template("backups.md", include_str!("backups.md.jinja"))?;
    environment.add_template("backups.html", include_str!("backups.html.jinja"))?;
    environment.add_template("report.md", include_str!("report.md.jinja"))?;
    environment.add_template("report.html", include_str!("report.html.jinja"))?;
    Ok(environment)
}

fn moment(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// Bytes as a person reads them: `1.4 GB`.
fn human_bytes(bytes: f64) -> String {
    let (scale, unit) = match bytes {
        0.0..1e3 => return format!("{bytes:.0} bytes"),
        1e3..1e6 => (1e3, "kB"),
        1e6..1e9 => (1e6, "MB"),
        _ => (1e9, "GB"),
    };
    format!("{:.1} {unit}", bytes / scale)
}

/// Escapes text for HTML and turns its backticks into `<code>`.
fn ticks(text: &str) -> String {
    let mut html = String::new();
    for (i, part) in text.split('`').enumerate() {
        let escaped = part.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
        // A backtick without a partner stays one.
        let closed = text.split('`').count() > i + 1;
        match (i % 2 == 1, closed) {
            (true, true) => html.push_str(&format!("<code>{escaped}</code>")),
            (true, false) => html.push_str(&format!("`{escaped}")),
            (false, _) => html.push_str(&escaped),
        }
    }
    html
}
