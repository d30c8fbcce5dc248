//! A machine as a Mermaid flowchart.
//!
//! A flowchart and not a `stateDiagram`: only there can an edge be dashed, and the ways taken after a failure are what a
//! reader must tell apart at a glance. GitHub draws it where it stands.

use std::{collections::BTreeMap, fmt::Write};

use asl::graph::{Edge, EdgeLabel, Scope, StateNode};

/// Draws a machine.
pub fn draw(graph: &Scope) -> String {
    let mut text = String::from("flowchart TD\n");
    let ids: BTreeMap<&str, String> =
        graph.all_states().iter().enumerate().map(|(i, state)| (state.name.as_str(), format!("s{i}"))).collect();
    let _ = writeln!(text, "  start((\" \")) --> {}", id(&ids, &graph.start));
    scope(&mut text, graph, &ids, 1);
    text.push_str(
        "  classDef failed stroke:#b42318,stroke-width:2px\n  classDef ended stroke:#16764a,stroke-width:2px\n",
    );
    for (kind, class) in [("Fail", "failed"), ("Succeed", "ended")] {
        let of_kind: Vec<&str> =
            graph.all_states().iter().filter(|state| state.kind == kind).map(|state| id(&ids, &state.name)).collect();
        if !of_kind.is_empty() {
            let _ = writeln!(text, "  class {} {class}", of_kind.join(","));
        }
    }
    text
}

fn id<'a>(ids: &'a BTreeMap<&str, String>, name: &str) -> &'a str {
    ids.get(name).map_or("missing", String::as_str)
}

fn scope(text: &mut String, scope_: &Scope, ids: &BTreeMap<&str, String>, depth: usize) {
    let indent = "  ".repeat(depth);
    for state in &scope_.states {
        node(text, state, ids, depth);
    }
    for state in &scope_.states {
        for (edge, labels) in merged(&state.edges) {
            let (from, to) = (id(ids, &state.name), id(ids, &edge.target));
            let arrow = if matches!(edge.label, EdgeLabel::Catch { .. }) { "-.->" } else { "-->" };
            let label = labels.join(", ");
            let _ = if label.is_empty() {
                writeln!(text, "{indent}{from} {arrow} {to}")
            } else {
                writeln!(text, "{indent}{from} {arrow}|\"{}\"| {to}", quoted(&label))
            };
        }
    }
}

/// Several catchers that lead to one state are one dashed line.
fn merged(edges: &[Edge]) -> Vec<(&Edge, Vec<String>)> {
    let mut merged: Vec<(&Edge, Vec<String>)> = Vec::new();
    for edge in edges {
        let catches = |edge: &Edge| matches!(edge.label, EdgeLabel::Catch { .. });
        let same = merged.iter_mut().find(|(other, _)| other.target == edge.target && catches(other) && catches(edge));
        match same {
            Some((_, labels)) => labels.extend(label(edge)),
            None => merged.push((edge, label(edge).into_iter().collect())),
        }
    }
    merged
}

fn label(edge: &Edge) -> Option<String> {
    match &edge.label {
        EdgeLabel::Next => None,
        EdgeLabel::Default => Some("otherwise".to_owned()),
        EdgeLabel::Rule { condition } => {
            Some(condition.trim().trim_start_matches("{%").trim_end_matches("%}").trim().to_owned())
        }
        EdgeLabel::Catch { errors } => Some(errors.join(", ")),
    }
}

fn node(text: &mut String, state: &StateNode, ids: &BTreeMap<&str, String>, depth: usize) {
    let indent = "  ".repeat(depth);
    let id = id(ids, &state.name);
    let name = quoted(&state.name);
    let _ = match state.kind {
        "Choice" => writeln!(text, "{indent}{id}{{\"{name}\"}}"),
        "Succeed" => writeln!(text, "{indent}{id}([\"{name}\"])"),
        "Fail" => writeln!(text, "{indent}{id}([\"{name}\"])"),
        "Pass" => writeln!(text, "{indent}{id}[/\"{name}\"/]"),
        "Wait" => writeln!(text, "{indent}{id}{{{{\"{name}\"}}}}"),
        "Parallel" | "Map" => {
            let _ = writeln!(text, "{indent}subgraph {id}[\"{name}\"]");
            for (number, branch) in state.scopes.iter().enumerate() {
                let _ = writeln!(text, "{indent}  subgraph {id}b{number}[\" \"]");
                scope(text, branch, ids, depth + 2);
                let _ = writeln!(text, "{indent}  end");
            }
            writeln!(text, "{indent}end")
        }
        _ => writeln!(text, "{indent}{id}[\"{name}\"]"),
    };
}

/// Mermaid ends a text at a quote; entities are written with a hash.
fn quoted(text: &str) -> String {
    text.replace('#', "#35;").replace('"', "#quot;").replace('<', "#lt;").replace('>', "#gt;").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use asl::Machine;

    #[test]
    fn ways_after_a_failure_are_dashed_and_branches_are_boxes() {
        let machine = Machine::parse(
            r#"{"QueryLanguage": "JSONata", "StartAt": "Both", "States": {
                "Both": {"Type": "Parallel", "Branches": [{"StartAt": "Work", "States": {"Work": {
                    "Type": "Task", "Resource": "arn:aws:lambda:eu-west-1:000000000000:function:work", "End": true}}}],
                    "Catch": [{"ErrorEquals": ["Recovery.Refused"], "Next": "Ask"}, {"ErrorEquals": ["States.ALL"], "Next": "Ask"}],
                    "Next": "Ask"},
                "Ask": {"Type": "Choice", "Choices": [{"Condition": "{% $states.input.x = \"a\" %}", "Next": "Good"}], "Default": "Bad"},
                "Good": {"Type": "Succeed"},
                "Bad": {"Type": "Fail", "Error": "E"}}}"#,
        )
        .unwrap();
        let expected = r##"flowchart TD
  start((" ")) --> s0
  subgraph s0["Both"]
    subgraph s0b0[" "]
      s1["Work"]
    end
  end
  s2{"Ask"}
  s3(["Good"])
  s4(["Bad"])
  s0 --> s2
  s0 -.->|"Recovery.Refused, States.ALL"| s2
  s2 -->|"$states.input.x = #quot;a#quot;"| s3
  s2 -->|"otherwise"| s4
  classDef failed stroke:#b42318,stroke-width:2px
  classDef ended stroke:#16764a,stroke-width:2px
  class s4 failed
  class s3 ended
"##;
        assert_eq!(super::draw(&machine.graph()), expected);
    }
}
