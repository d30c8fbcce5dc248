//! Whatever it is given, the crate neither panics nor hangs, and its memory is bounded: definitions, inputs, paths,
//! expressions, answers, journals.
//!
//! A few hundred cases of each kind are drawn on every run. `ASL_FUZZ_CASES` asks for as many as one has time for; a case
//! that fails is kept beside this file and tried first from then on. See docs/fuzzing.md.

#![allow(clippy::unwrap_used)]

mod properties;

use asl::jsonata::Expression;
use asl::{Execution, FileJournal, Machine, Record, Settings};
use properties::{Echo, bounded, ends, evaluates, go_on, is_checked, journaled, reads, take_up};
use proptest::prelude::*;
use serde_json::{Value, json};

/// JSON of any shape, seasoned with words that mean something to a state machine.
fn any_json() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        Just("$.a".to_owned()),
        Just("$".to_owned()),
        Just("{% $states.input.a %}".to_owned()),
        Just("{% $x %}".to_owned()),
        Just("States.Format('{}', $.a)".to_owned()),
        Just("2026-01-01T00:00:00Z".to_owned()),
        Just("A".to_owned()),
        Just("Pass".to_owned()),
        "[ -~]{0,12}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f64>().prop_map(|float| json!(float)),
        word.prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        let key = prop_oneof![
            Just("a".to_owned()),
            Just("a.$".to_owned()),
            Just("Type".to_owned()),
            Just("Next".to_owned()),
            Just("End".to_owned()),
            Just("ErrorEquals".to_owned()),
            Just("Variable".to_owned()),
            "[a-zA-Z.$]{0,6}"
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..5).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Machines that mostly compile: states of every type with fields drawn at random.
fn any_machine() -> impl Strategy<Value = Value> {
    let state = (0..9usize, prop::collection::vec(any_json(), 8), 0..4usize, any::<bool>()).prop_map(|(kind, json, next, ends)| {
        let target = ["A", "B", "C", "D"][next];
        let mut state = match kind {
            0 => json!({"Type": "Pass", "Parameters": json[0], "ResultPath": "$.r"}),
            1 => json!({"Type": "Pass", "QueryLanguage": "JSONata", "Output": json[0], "Assign": {"x": json[1]}}),
            2 => json!({"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "Parameters": json[0], "TimeoutSeconds": 5,
                        "Retry": [{"ErrorEquals": ["States.ALL"], "MaxAttempts": 2, "JitterStrategy": "FULL"}], "Catch": [{"ErrorEquals": ["States.ALL"], "Next": target}]}),
            3 => json!({"Type": "Choice", "Choices": [{"Variable": "$.a", "IsPresent": true, "Next": target}, {"Variable": "$.b", "NumericLessThan": 3, "Next": "D"}], "Default": "B"}),
            4 => json!({"Type": "Wait", "Seconds": 3}),
            5 => json!({"Type": "Succeed", "OutputPath": "$"}),
            6 => json!({"Type": "Fail", "Error": "E"}),
            7 => json!({"Type": "Map", "QueryLanguage": "JSONata", "Items": json[0], "ItemSelector": json[1], "MaxConcurrency": 2,
                        "ItemProcessor": {"StartAt": format!("I{next}"), "States": {format!("I{next}"): {"Type": "Pass", "Output": json[2], "End": true}}},
                        "Catch": [{"ErrorEquals": ["States.ALL"], "Next": target}]}),
            _ => json!({"Type": "Task", "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken", "Parameters": {"t.$": "$$.Task.Token"}, "HeartbeatSeconds": 2}),
        };
        if !matches!(kind, 3 | 5 | 6) {
            let (field, value) = if ends { ("End", json!(true)) } else { ("Next", json!(target)) };
            state[field] = value;
        }
        state
    });
    prop::collection::vec(state, 4).prop_map(|states| {
        let states: Value = ["A", "B", "C", "D"]
            .iter()
            .zip(states)
            .map(|(name, state)| ((*name).to_owned(), state))
            .collect::<serde_json::Map<_, _>>()
            .into();
        json!({"StartAt": "A", "TimeoutSeconds": 1000, "States": states})
    })
}

fn cases() -> ProptestConfig {
    let cases = std::env::var("ASL_FUZZ_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(400);
    ProptestConfig { cases, ..ProptestConfig::default() }
}

/// JSONata by its grammar, so that most of it parses and does something.
fn any_jsonata() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("$states.input".to_owned()),
        Just("$states.input.a".to_owned()),
        Just("$states.input.list".to_owned()),
        Just("$states.context.Execution.Name".to_owned()),
        Just("$x".to_owned()),
        Just("$".to_owned()),
        Just("a".to_owned()),
        Just("*".to_owned()),
        Just("**".to_owned()),
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("[1..2000]".to_owned()),
        Just("/a+(b|c)*$/i".to_owned()),
        Just("function($v, $i) { $v & $i }".to_owned()),
        Just("($f := function($n) { $f($n + 1) }; $f(0))".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| format!("{number:?}")),
        "[a-zü\\u{1F600} {}%\\[\\]$.-]{0,8}".prop_map(|text| format!("'{text}'")),
    ];
    const FUNCTIONS: [&str; 72] = [
        "sum",
        "count",
        "max",
        "min",
        "average",
        "string",
        "substring",
        "substringBefore",
        "substringAfter",
        "lowercase",
        "uppercase",
        "length",
        "trim",
        "pad",
        "match",
        "contains",
        "replace",
        "split",
        "join",
        "formatNumber",
        "formatBase",
        "formatInteger",
        "parseInteger",
        "number",
        "floor",
        "ceil",
        "round",
        "abs",
        "sqrt",
        "power",
        "random",
        "boolean",
        "not",
        "map",
        "zip",
        "filter",
        "single",
        "reduce",
        "sift",
        "keys",
        "lookup",
        "append",
        "exists",
        "spread",
        "merge",
        "reverse",
        "each",
        "error",
        "assert",
        "type",
        "sort",
        "shuffle",
        "distinct",
        "base64encode",
        "base64decode",
        "encodeUrlComponent",
        "encodeUrl",
        "decodeUrlComponent",
        "decodeUrl",
        "toMillis",
        "fromMillis",
        "now",
        "millis",
        "eval",
        "parse",
        "uuid",
        "hash",
        "partition",
        "range",
        "clone",
        "nothing",
        "states",
    ];
    const OPERATORS: [&str; 18] =
        ["+", "-", "*", "/", "%", "&", "=", "!=", "<", "<=", ">", ">=", "and", "or", "in", "..", "~>", "."];
    leaf.prop_recursive(5, 40, 4, |inner| {
        let two = (inner.clone(), inner.clone());
        prop_oneof![
            (prop::sample::select(&FUNCTIONS[..]), prop::collection::vec(inner.clone(), 0..4))
                .prop_map(|(name, arguments)| format!("${name}({})", arguments.join(", "))),
            (two.clone(), prop::sample::select(&OPERATORS[..])).prop_map(|((a, b), sign)| format!("({a} {sign} {b})")),
            two.clone().prop_map(|(a, b)| format!("{a}[{b}]")),
            two.clone().prop_map(|(a, b)| format!("{a}.({b})")),
            two.clone().prop_map(|(a, b)| format!("{a}{{{b}: {a}}}")),
            two.clone().prop_map(|(a, b)| format!("{a}^(>{b})")),
            two.clone().prop_map(|(a, b)| format!("($x := {a}; {b})")),
            (inner.clone(), two.clone()).prop_map(|(a, (b, c))| format!("({a} ? {b} : {c})")),
            two.clone().prop_map(|(a, b)| format!("{a}@$v.{b}#$i")),
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(", "))),
            inner.prop_map(|value| format!("{{'k': {value}}}")),
        ]
    })
}

/// JSONPath and intrinsic functions by their grammar.
fn any_path() -> impl Strategy<Value = String> {
    let step = prop_oneof![
        Just(".a".to_owned()),
        Just(".list".to_owned()),
        Just("..b".to_owned()),
        Just("[*]".to_owned()),
        Just(".*".to_owned()),
        Just("['a','b']".to_owned()),
        Just(".length()".to_owned()),
        Just("[?(@.a == 1)]".to_owned()),
        Just("[?(@ =~ /a.*/i || !(@.b in [1, 'x']))]".to_owned()),
        any::<i64>().prop_map(|index| format!("[{index}]")),
        (any::<i32>(), any::<i32>()).prop_map(|(from, to)| format!("[{from}:{to}]")),
        "[ -~]{0,6}".prop_map(|text| format!("['{text}']")),
    ];
    let path = (prop::sample::select(&["$", "$$", "$x", "$$.Execution"][..]), prop::collection::vec(step, 0..4))
        .prop_map(|(root, steps)| root.to_owned() + &steps.concat());
    let leaf = prop_oneof![
        3 => path,
        1 => any::<i64>().prop_map(|number| number.to_string()),
        1 => any::<f64>().prop_map(|number| format!("{number:?}")),
        1 => "[ -&(-~\\u{1F600}]{0,8}".prop_map(|text| format!("'{text}'")),
    ];
    const FUNCTIONS: [&str; 19] = [
        "Format",
        "StringToJson",
        "JsonToString",
        "Array",
        "ArrayPartition",
        "ArrayContains",
        "ArrayRange",
        "ArrayGetItem",
        "ArrayLength",
        "ArrayUnique",
        "Base64Encode",
        "Base64Decode",
        "Hash",
        "JsonMerge",
        "MathRandom",
        "MathAdd",
        "StringSplit",
        "UUID",
        "Nothing",
    ];
    leaf.prop_recursive(4, 20, 4, |inner| {
        (prop::sample::select(&FUNCTIONS[..]), prop::collection::vec(inner, 0..4))
            .prop_map(|(name, arguments)| format!("States.{name}({})", arguments.join(", ")))
    })
}

/// A journal of a short run, as it stands in a file.
fn journal_text() -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let journal = FileJournal::create(&path).await.unwrap();
        let start = "2026-01-01T00:00:00Z".parse().unwrap();
        let execution = Execution::start(journaled(), json!({"a": 1}), Settings::new("r", "1", "M", "run"));
        execution.with_journal(journal).run(&Echo, &asl::VirtualClock::at(start), &mut asl::Unobserved).await.unwrap();
    });
    std::fs::read_to_string(path).unwrap()
}

/// Opens a file as a journal, and if that works goes on with it to the end.
fn resume_from(bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    std::fs::write(&path, bytes).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let Ok((journal, records)) = FileJournal::open(&path).await else { return };
        go_on(&records, journal).await;
    });
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_jsonata_gives_a_value_or_an_error(source in any_jsonata(), input in any_json()) {
        bounded(|| evaluates(&source, &input));
    }

    #[test]
    fn any_path_gives_a_value_or_an_error(source in any_path(), input in any_json()) {
        bounded(|| reads(&source, &input));
    }

    #[test]
    fn any_file_is_a_journal_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        bounded(|| resume_from(&bytes));
    }

    #[test]
    fn a_journal_that_was_cut_or_changed_is_taken_up_or_refused(at in any::<prop::sample::Index>(), cut in any::<bool>(), byte in any::<u8>()) {
        static JOURNAL: std::sync::LazyLock<String> = std::sync::LazyLock::new(journal_text);
        let mut bytes = JOURNAL.clone().into_bytes();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        bounded(|| resume_from(&bytes));
    }

    #[test]
    fn records_in_any_order_are_taken_up_or_refused(order in prop::collection::vec(any::<prop::sample::Index>(), 1..12)) {
        static RECORDS: std::sync::LazyLock<Vec<Record>> = std::sync::LazyLock::new(|| {
            journal_text().lines().map(|line| serde_json::from_str(line.split_once(' ').unwrap().1).unwrap()).collect()
        });
        // The first record says what run it is; without it nothing is taken up.
        let mut records = vec![RECORDS[0].clone(), RECORDS[1].clone()];
        records.extend(order.iter().map(|index| index.get(&RECORDS).clone()));
        bounded(|| take_up(&records));
    }

    #[test]
    fn any_text_is_a_machine_or_a_list_of_problems(text in "\\PC{0,200}") {
        is_checked(&text);
    }

    #[test]
    fn any_json_is_a_machine_or_a_list_of_problems(value in any_json()) {
        let text = value.to_string();
        prop_assert!(Machine::parse(&text).is_err());
        let machine = json!({"StartAt": "A", "States": {"A": value}}).to_string();
        let _ = Machine::parse(&machine);
        for problem in asl::check::check(&machine) {
            prop_assert!(problem.line == 1 && problem.column <= machine.chars().count() + 1);
        }
    }

    #[test]
    fn any_machine_ends_and_its_history_is_a_tree(definition in any_machine(), input in any_json(), seed in any::<u64>()) {
        ends(&definition.to_string(), &input, seed);
    }

    #[test]
    fn any_expression_parses_or_is_refused(source in "[$a-z0-9 .,:;?!%*+<>=(){}\\[\\]'\"/|&~^@#-]{0,40}") {
        let _ = Expression::parse(&source);
    }

    #[test]
    fn any_json_text_is_read_as_serde_reads_it(value in any_json()) {
        let text = serde_json::to_string_pretty(&value).unwrap();
        prop_assert_eq!(asl::source::read(&text).unwrap().to_value(), serde_json::from_str::<Value>(&text).unwrap());
    }
}
