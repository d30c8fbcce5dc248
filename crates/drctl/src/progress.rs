//! What a person sees while a machine runs: one line per state, with what was seen, why the state stands there, and how long
//! it took. On a terminal the states under way are shown with their time; without one every line is plain text.

use std::{collections::HashMap, io::IsTerminal, time::Duration};

use asl::{EventType, HistoryEvent, Machine};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use recovery::{objective::human_seconds, report::seen};
use serde_json::Value;

/// States that decide or shape but do nothing worth a line.
const QUIET: [&str; 2] = ["Pass", "Choice"];
/// The state after which nothing turns back.
const POINT_OF_NO_RETURN: &str = "PromoteReplica";

/// Shows a run.
pub struct Progress {
    began_at: Option<Timestamp>,
    comments: HashMap<String, (String, &'static str)>,
    under_way: HashMap<String, UnderWay>,
    bars: Option<MultiProgress>,
    colour: bool,
    silent: bool,
    width: usize,
}

struct UnderWay {
    since: Timestamp,
    result: Option<Value>,
    trouble: Option<String>,
    attempts: u32,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Shows runs of this machine; silent where somebody wants JSON.
    pub fn of(machine: &Machine, silent: bool) -> Progress {
        let graph = machine.graph();
        let states = graph.all_states();
        let width = states.iter().map(|state| state.name.len()).max().unwrap_or_default();
        let comments = states
            .iter()
            .map(|state| (state.name.clone(), (state.comment.clone().unwrap_or_default(), state.kind)))
            .collect();
        let terminal = std::io::stdout().is_terminal();
        Progress {
            began_at: None,
            comments,
            under_way: HashMap::new(),
            bars: (terminal && !silent).then(MultiProgress::new),
            colour: terminal && std::env::var_os("NO_COLOR").is_none(),
            silent,
            width,
        }
    }

    /// Shows what an event changes.
    pub fn show(&mut self, event: &HistoryEvent) {
        let began_at = *self.began_at.get_or_insert(event.timestamp);
        let Some(state) = event.state.as_deref().map(str::to_owned) else { return };
        let kind = event.event_type.as_str();
        if kind.ends_with("StateEntered") {
            let bar = self.bar(&state);
            let fresh = UnderWay { since: event.timestamp, result: None, trouble: None, attempts: 0, bar };
            self.under_way.insert(state, fresh);
            return;
        }
        if kind.ends_with("StateExited") {
            let Some(done) = self.under_way.remove(&state) else { return };
            if let Some(bar) = &done.bar {
                bar.finish_and_clear();
            }
            self.finish(began_at, &state, &done, event);
            return;
        }
        let Some(now) = self.under_way.get_mut(&state) else { return };
        match event.event_type {
            EventType::TaskSucceeded | EventType::LambdaFunctionSucceeded => {
                let output = event.document("output").map(|payload| payload.value().clone());
                now.result = output.map(|value| value.get("Payload").cloned().unwrap_or(value));
                now.trouble = None;
            }
            EventType::TaskFailed | EventType::LambdaFunctionFailed | EventType::TaskTimedOut => {
                now.attempts += 1;
                let why = why(event);
                let new = now.trouble.as_deref() != Some(why.as_str());
                now.trouble = Some(why.clone());
                if let Some(bar) = &now.bar {
                    bar.set_message(format!("{state}  {why}"));
                } else if new {
                    let text = format!("{state:<width$}  {why}", width = self.width);
                    self.line(began_at, event.timestamp, "wait", &text);
                }
            }
            _ => {}
        }
    }

    /// Says something between the states' lines.
    pub fn say(&self, text: &str) {
        if self.silent {
            return;
        }
        match &self.bars {
            Some(bars) => drop(bars.println(text)),
            None => tell!("{text}"),
        }
    }

    /// Takes the lines of states under way off the screen.
    pub fn end(&mut self) {
        for (_, state) in self.under_way.drain() {
            if let Some(bar) = state.bar {
                bar.finish_and_clear();
            }
        }
    }

    fn finish(&self, began_at: Timestamp, state: &str, done: &UnderWay, event: &HistoryEvent) {
        let (comment, kind) = self.comments.get(state).cloned().unwrap_or_default();
        if QUIET.contains(&kind) {
            return;
        }
        let took = human_seconds(event.timestamp.duration_since(done.since).as_secs_f64());
        let failed = done.trouble.is_some();
        let what = match (&done.trouble, &done.result) {
            // Without a terminal the last attempt has had a line of its own.
            (Some(_), _) if self.bars.is_none() => String::new(),
            (Some(trouble), _) => trouble.clone(),
            (None, Some(result)) => seen(state, result).unwrap_or_default(),
            (None, None) => String::new(),
        };
        let mark = if failed { "fail" } else { "done" };
        let what = if what.is_empty() { String::new() } else { format!("{what}  ") };
        let comment = self.dim(&format!("({comment})"));
        self.line(
            began_at,
            event.timestamp,
            mark,
            &format!("{state:<width$}  {took:>7}  {what}{comment}", width = self.width),
        );
        if state == POINT_OF_NO_RETURN && !failed {
            self.line(began_at, event.timestamp, "====", "point of no return: from here the way is forward");
        }
    }

    fn line(&self, began_at: Timestamp, at: Timestamp, mark: &str, text: &str) {
        let elapsed = at.duration_since(began_at).as_secs_f64();
        let mark = match (self.colour, mark) {
            (true, "done") => "\u{1b}[32m✓\u{1b}[0m   ".to_owned(),
            (true, "fail") => "\u{1b}[31m✗\u{1b}[0m   ".to_owned(),
            (true, "wait") => "\u{1b}[33m…\u{1b}[0m   ".to_owned(),
            (true, _) => "\u{1b}[1m═══\u{1b}[0m ".to_owned(),
            (false, mark) => mark.to_owned(),
        };
        self.say(&format!("{elapsed:8.2} s  {mark}  {text}"));
    }

    fn dim(&self, text: &str) -> String {
        if self.colour { format!("\u{1b}[2m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn bar(&self, state: &str) -> Option<ProgressBar> {
        let (_, kind) = self.comments.get(state)?;
        if QUIET.contains(kind) {
            return None;
        }
        let bars = self.bars.as_ref()?;
        let style = ProgressStyle::with_template("{spinner} {elapsed:>4}  {wide_msg}").ok()?;
        let bar = bars.add(ProgressBar::new_spinner().with_style(style).with_message(state.to_owned()));
        bar.enable_steady_tick(Duration::from_millis(120));
        Some(bar)
    }
}

/// The sentence of a failed attempt, without the JSON around it.
fn why(event: &HistoryEvent) -> String {
    let error = event.text("error").unwrap_or("States.Timeout");
    let cause = event.text("cause").unwrap_or_default();
    let parsed: Option<Value> = serde_json::from_str(cause).ok();
    let message = parsed.as_ref().and_then(|cause| cause.get("errorMessage")).and_then(Value::as_str).unwrap_or(cause);
    format!("{}: {message}", error.trim_start_matches("Recovery."))
}
