//! `drctl machine …`.

use asl::{
    Machine, Severity,
    graph::{EdgeLabel, Scope, StateNode},
};
use serde_json::json;

use crate::{
    machines::{self, Definition},
    mermaid,
    paint::{Paint, Table},
    plan::pretty,
    problem::{Problem, exit},
};

/// Lists the machines.
pub fn list(json: bool) -> Result<u8, Problem> {
    let mut rows = Vec::new();
    for name in machines::names() {
        let definition = machines::find(&name)?;
        let machine = definition.parse();
        let comment = match &machine {
            Ok(machine) => machine.comment().unwrap_or_default().to_owned(),
            Err(problem) => format!("cannot be used: {problem}"),
        };
        let states = machine.as_ref().map_or(0, |machine| machine.graph().all_states().len());
        rows.push((definition, states, comment));
    }
    if json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(d, states, comment)| json!({"machine": d.name, "origin": d.origin, "states": states, "comment": comment}))
            .collect();
        tell!("{}", pretty(&rows)?);
        return Ok(exit::DONE);
    }
    let (paint, mut table) = (Paint::stdout(), Table::default());
    for (definition, states, comment) in rows {
        table.row([definition.name, format!("{states} states"), comment]);
    }
    show!("{}", table.lines(|_, column, cell| if column == 0 { paint.bold(cell) } else { cell.to_owned() }));
    Ok(exit::DONE)
}

/// Prints a machine state by state.
pub fn show(name: &str, json: bool) -> Result<u8, Problem> {
    let definition = machines::find(name)?;
    let machine = definition.parse()?;
    if json {
        tell!(
            "{}",
            pretty(&json!({"machine": definition.name, "origin": definition.origin, "graph": machine.graph()}))?
        );
    } else {
        show!("{}", words(&definition, &machine, Paint::stdout()));
    }
    Ok(exit::DONE)
}

/// Draws a machine.
pub fn draw(name: &str) -> Result<u8, Problem> {
    show!("{}", mermaid::draw(&machines::find(name)?.parse()?.graph()));
    Ok(exit::DONE)
}

fn words(definition: &Definition, machine: &Machine, paint: Paint) -> String {
    let mut text = format!("{}  {}\n", paint.bold(&definition.name), paint.dim(&definition.origin));
    if let Some(comment) = machine.comment() {
        text.push_str(&format!("{comment}\n"));
    }
    if let Some(seconds) = machine.timeout_seconds() {
        text.push_str(&format!("Ends after {} at the latest.\n", recovery::objective::human_seconds(seconds as f64)));
    }
    text.push('\n');
    scope_words(&mut text, &machine.graph(), paint, 0);
    text
}

fn scope_words(text: &mut String, scope: &Scope, paint: Paint, depth: usize) {
    let indent = "    ".repeat(depth);
    for state in &scope.states {
        text.push_str(&format!("{indent}{}  {}\n", paint.bold(&state.name), paint.dim(&kind(state))));
        if let Some(comment) = &state.comment {
            text.push_str(&format!("{indent}  {comment}\n"));
        }
        for edge in &state.edges {
            let target = &edge.target;
            let line = match &edge.label {
                EdgeLabel::Next => format!("→ {target}"),
                EdgeLabel::Default => format!("otherwise → {target}"),
                EdgeLabel::Rule { condition } => format!("if {condition} → {target}"),
                EdgeLabel::Catch { errors } => format!("after {} → {target}", errors.join(", ")),
            };
            text.push_str(&format!("{indent}  {}\n", paint.dim(&line)));
        }
        for branch in &state.scopes {
            text.push_str(&format!("{indent}  {}\n", paint.dim("branch")));
            scope_words(text, branch, paint, depth + 1);
        }
        if depth == 0 {
            text.push('\n');
        }
    }
}

fn kind(state: &StateNode) -> String {
    let mut words = vec![state.kind.to_owned()];
    if let Some(seconds) = state.timeout_seconds {
        words.push(format!("at most {seconds} s a try"));
    }
    for (errors, attempts) in &state.retries {
        let what = if errors.len() == 1 { errors[0].clone() } else { format!("{} errors", errors.len()) };
        words.push(format!("{attempts} retries on {what}"));
    }
    words.join(", ")
}

/// Checks machines.
pub fn check(asked: &[String], json: bool) -> Result<u8, Problem> {
    let all = if asked.is_empty() { machines::names() } else { asked.to_vec() };
    if all.is_empty() {
        return Err(Problem::input("there is no machine here; run this where statemachines/ is"));
    }
    let mut found = Vec::new();
    for name in &all {
        let definition = machines::find(name)?;
        let problems = asl::check::check(&definition.text);
        found.push((definition, problems));
    }
    let errors = found.iter().flat_map(|(_, problems)| problems).filter(|p| p.severity == Severity::Error).count();
    if json {
        let rows: Vec<_> = found
            .iter()
            .map(|(d, problems)| json!({"machine": d.name, "origin": d.origin, "problems": problems}))
            .collect();
        tell!("{}", pretty(&rows)?);
    } else {
        let paint = Paint::stdout();
        for (definition, problems) in &found {
            for problem in problems {
                let line = format!("{}:{problem}", definition.origin);
                tell!("{}", if problem.severity == Severity::Error { paint.bad(&line) } else { paint.doubt(&line) });
            }
            if problems.is_empty() {
                tell!("{}: {}", definition.origin, paint.good("nothing wrong"));
            }
        }
    }
    Ok(if errors == 0 { exit::DONE } else { exit::FOUND })
}
