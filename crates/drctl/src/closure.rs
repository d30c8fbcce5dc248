//! `drctl closure`: what a failover needs, each present or missing where it goes to.

use jiff::Timestamp;
use recovery::closure::{Closure, Found, Item, Need};
use recovery_suite::Suite;

use crate::{
    cli::ClosureArgs,
    paint::Paint,
    problem::{Problem, exit},
};

/// Looks, and prints the list.
pub async fn show(args: ClosureArgs) -> Result<u8, Problem> {
    let settings = crate::plan::settings(&args.plan.plan)?;
    let suite = Suite::open(settings).await.map_err(|failure| Problem::input(failure.message))?;
    let closure = suite.closure(Timestamp::now()).await;
    if args.json {
        let text = serde_json::to_string_pretty(&closure).map_err(Problem::failed)?;
        println!("{text}");
    } else {
        print!("{}", in_words(&closure, Paint::stdout()));
    }
    Ok(if closure.is_closed() { exit::DONE } else { exit::FOUND })
}

fn in_words(closure: &Closure, paint: Paint) -> String {
    let mut text =
        format!("What a failover of {} needs, looked for at {:.0}:\n", closure.platform, closure.observed_at);
    for Item { need: Need { kind, name, place }, needed_by, found } in &closure.items {
        let (word, why) = match found {
            Found::Present => (paint.good("present"), None),
            Found::Missing { why } => (paint.bad("missing"), Some(why)),
            Found::Unknown { why } => (paint.doubt("unknown"), Some(why)),
        };
        text.push_str(&format!("  {word}  {} {name} in {place}\n", kind.title()));
        if let Some(why) = why {
            let by: Vec<&str> = needed_by.iter().map(String::as_str).collect();
            text.push_str(&paint.dim(&format!("           {why}; needed by {}", by.join(", "))));
            text.push('\n');
        }
    }
    let Closure { checked, present, missing, unknown, .. } = closure;
    text.push_str(&format!("{present} of {checked} are there, {missing} missing, {unknown} not looked at\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_says_why_and_for_whom() {
        let item = |name: &str, found: serde_json::Value| {
            let mut item = serde_json::json!({ "kind": "secret", "name": name, "place": "us-west-2", "needed_by": ["Deployment/auth"] });
            item.as_object_mut().unwrap().extend(found.as_object().unwrap().clone());
            item
        };
        let closure: Closure = serde_json::from_value(serde_json::json!({
            "platform": "sparc", "observed_at": "2026-01-02T03:04:05Z", "checked": 3, "present": 1, "missing": 1, "unknown": 1,
            "items": [
                item("a", serde_json::json!({ "state": "present" })),
                item("b", serde_json::json!({ "state": "missing", "why": "there is no such secret" })),
                item("c", serde_json::json!({ "state": "unknown", "why": "access is denied" })),
            ],
        }))
        .unwrap();
        assert!(!closure.is_closed());
        let expected = "What a failover of sparc needs, looked for at 2026-01-02T03:04:05Z:
  present  secret a in us-west-2
  missing  secret b in us-west-2
           there is no such secret; needed by Deployment/auth
  unknown  secret c in us-west-2
           access is denied; needed by Deployment/auth
1 of 3 are there, 1 missing, 1 not looked at
";
        assert_eq!(in_words(&closure, Paint::stderr()), expected);
    }
}
