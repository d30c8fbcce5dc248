use serde_json::{Value, json};

use super::*;
use crate::{
    cluster::{Applied, NodeGroupStatus, Rollout},
    database::{Heartbeat, PrimaryPosition, ServerStatus, WriteAttempt},
    failover::decide,
    holdings::{Holdings, ImagesHeld, ObjectsHeld},
    incident::Consent,
    names::Answer,
    notice::Stage,
    run::{
        ApprovalGiven, Fence, FenceLifted, FenceOutcome, Health, Loss, NamesMoved, Noticed, Promotion, Reached,
        RecordsEdited, Reversal, RunFailure, Scaling, ServiceAnswer, WorkloadRollout,
    },
    survey::{Sighting, Survey},
};

const SPARC: &str = include_str!("../../../../plans/sparc.toml");
const ALARM: &str = include_str!("../../../../events/regional-failover/primary-region-alarm.json");

fn plan() -> Plan {
    Plan::parse("plans/sparc.toml", SPARC).unwrap()
}

fn at(clock: &str) -> Timestamp {
    format!("2026-11-23T{clock}Z").parse().unwrap()
}

/// A run in which the primary region is lost and everything goes as it should.
fn recovered() -> Run {
    let plan = plan();
    let event: Value = serde_json::from_str(ALARM).unwrap();
    let incident = Incident::from_event(&event, &plan).unwrap();
    let heartbeat = Heartbeat { number: 1203, written_at: at("02:58:57.900") };
    let survey = Survey {
        observed_at: at("03:02:14.200"),
        primary: Sighting::Unknown("`sparc-prod` did not answer within 2 s".to_owned()),
        standby: Sighting::Seen(ServerStatus {
            observed_at: at("03:02:12.300"),
            system_identifier: "7564197031122334455".to_owned(),
            timeline: 1,
            in_recovery: true,
            holds_to: "0/5A3F120".to_owned().try_into().unwrap(),
            replayed_to: Some("0/5A3F120".to_owned().try_into().unwrap()),
            heartbeat: Some(heartbeat),
            read_only: true,
            retrieve_retry_ms: 5000,
            synchronous_standby_names: String::new(),
        }),
        position: Sighting::Seen(Some(PrimaryPosition {
            observed_at: at("02:58:58.900"),
            system_identifier: "7564197031122334455".to_owned(),
            timeline: 1,
            lsn: "0/5A40000".to_owned().try_into().unwrap(),
            heartbeat: Heartbeat { number: 1204, written_at: at("02:58:58.900") },
            archiver: None,
        })),
        fence: Sighting::Seen(None),
        switched: Sighting::Seen(false),
        node_group: Sighting::Seen(NodeGroupStatus {
            observed_at: at("03:02:12.500"),
            minimum: 3,
            desired: 5,
            maximum: 10,
            status: "ACTIVE".to_owned(),
            issues: vec![],
        }),
        writers: Sighting::Unknown("cannot reach cluster `sparc-prod-us-east-1`".to_owned()),
    };
    let decided = decide(&plan, &incident, &survey, "failover-7").unwrap();
    let answer = |clock: &str, took: f64| Answer {
        observed_at: at(clock),
        status: Some(200),
        took_seconds: took,
        region: Some("us-west-2".to_owned()),
        error: None,
    };
    Run {
        id: "failover-7".to_owned(),
        started_at: at("03:02:11.400"),
        event,
        plan: Some(decided),
        approval: Some(ApprovalGiven {
            by: "sre-lead@sparc.com".to_owned(),
            because: "us-east-1 is gone, the status page says so too".to_owned(),
            at: at("03:03:02"),
            consents: vec![],
            seconded_by: vec![],
        }),
        fence: Some(Fence {
            outcome: FenceOutcome::Unreachable,
            epoch: 1,
            observed_at: at("03:03:06.100"),
            database: None,
            proof: None,
            database_unreachable: Some("no answer within 2 s".to_owned()),
            writers: None,
            cluster_unreachable: Some("no answer within 2 s".to_owned()),
            consent: None,
        }),
        promotion: Some(Promotion {
            server: "sparc-prod-replica-us-west-2".to_owned(),
            already: false,
            timeline: 2,
            ended_at: "0/5A3F120".to_owned().try_into().unwrap(),
            writable_at: at("03:03:41.300"),
            loss: Loss {
                primary_was_at: Some("0/5A40000".to_owned().try_into().unwrap()),
                bytes: Some(3808),
                heartbeats: Some(1),
                newest_heartbeat: Some(heartbeat),
                seconds_at_least: Some(1.0),
                seconds_at_most: Some(2.1),
            },
        }),
        scaling: Some(Scaling {
            node_group: "workers".to_owned(),
            desired: 50,
            ready: 31,
            enough: 30,
            observed_at: at("03:06:20"),
            issues: vec![],
        }),
        rollout: Some(WorkloadRollout {
            cluster: "sparc-prod-us-west-2".to_owned(),
            database: "sparc-prod-replica-us-west-2".to_owned(),
            applied: Applied {
                created: vec!["Deployment/core-apis".to_owned()],
                changed: vec!["ConfigMap/database".to_owned()],
                unchanged: vec![],
            },
            rollouts: vec![Rollout {
                name: "core-apis".to_owned(),
                desired: 12,
                available: 12,
                complete: true,
                stuck: None,
            }],
            observed_at: at("03:09:48"),
            rendered_at: Some(at("02:50:00")),
            images: vec!["111122223333.dkr.ecr.us-west-2.amazonaws.com/sparc/core-apis@sha256:00ff".to_owned()],
        }),
        health: Some(Health {
            answers: plan
                .objectives
                .iter()
                .map(|objective| ServiceAnswer {
                    service: objective.service.clone(),
                    answer: answer("03:09:58.200", 0.11),
                })
                .collect(),
            write: WriteAttempt::Accepted { at: at("03:09:58.400") },
            observed_at: at("03:09:58.500"),
            holdings: Holdings {
                components: vec![ServiceAnswer { service: "redis".to_owned(), answer: answer("03:09:58.200", 0.3) }],
                objects: Some(Sighting::Seen(ObjectsHeld {
                    bucket: "sparc-videos-backup".to_owned(),
                    newest: Some(Heartbeat { number: 1190, written_at: at("02:58:44.900") }),
                    written: Some(Heartbeat { number: 1204, written_at: at("02:58:58.900") }),
                    observed_at: at("03:09:58.350"),
                })),
                images: Some(Sighting::Seen(ImagesHeld { asked: 7, missing: vec![], observed_at: at("03:09:58.300") })),
            },
        }),
        names: Some(NamesMoved {
            switch: "s3://sparc-recovery-switch/switch/us-east-1-is-out".to_owned(),
            already: false,
            at: at("03:09:59.300"),
        }),
        reached: Some(Reached { url: "https://api.sparc.com/healthz".to_owned(), answer: answer("03:11:14", 0.25) }),
        records: Some(RecordsEdited { in_sync: vec!["origin.sparc.com".to_owned()], cdn: Some("api".to_owned()) }),
        reversal: None,
        failure: None,
        troubles: vec![],
        notices: vec![Noticed { stage: Stage::Declared, message: "m-1".to_owned(), at: at("03:03:03") }],
        backups: None,
        proofs: None,
        interventions: vec![],
    }
}

fn of(run: &Run) -> RecoveryReport {
    RecoveryReport::of(&plan(), run, &[], at("03:11:20"))
}

fn service<'a>(report: &'a RecoveryReport, name: &str) -> &'a ServiceResult {
    report.services.iter().find(|service| service.service == name).unwrap()
}

fn item<'a>(report: &'a RecoveryReport, name: &str) -> &'a ChecklistItem {
    report.checklist.iter().flat_map(|group| &group.items).find(|item| item.item == name).unwrap()
}

#[test]
fn recovery_time_is_counted_from_the_impairment_and_not_from_the_start_of_the_run() {
    let report = of(&recovered());
    let core = service(&report, "core-apis");
    // 02:59:00, the first datapoint that breached, to 03:11:14.25, the public name's answer.
    assert_eq!(core.rto.measured_seconds, Some(734.25));
    assert_eq!(core.rto.verdict, Verdict::Met);
    assert_eq!(core.back_at, Some(at("03:11:14.25")));
    assert_eq!(report.outcome, RunOutcome::Recovered);
}

#[test]
fn a_service_whose_own_answer_comes_after_the_public_names_is_back_with_its_own() {
    let mut run = recovered();
    for answer in &mut run.health.as_mut().unwrap().answers {
        if answer.service == "analytics" {
            answer.answer.observed_at = at("03:15:00");
        }
    }
    let report = of(&run);
    assert_eq!(service(&report, "analytics").back_at, Some(at("03:15:00.11")));
    assert_eq!(report.scenario.unwrap().rto.measured_seconds, Some(960.11));
}

#[test]
fn what_is_unknown_counts_as_not_met_and_says_why() {
    let report = of(&recovered());
    let live = service(&report, "live-video");
    assert_eq!(live.rpo.verdict, Verdict::Unknown);
    assert!(live.rpo.because.contains("names no component that keeps its data"), "{}", live.rpo.because);
    // Twelve objectives; the plan has no mechanism that would keep what live video has.
    assert_eq!(report.objectives_met(), (11, 12));

    let mut run = recovered();
    run.health.as_mut().unwrap().holdings.objects = Some(Sighting::Unknown("no answer within 2 s".to_owned()));
    let report = of(&run);
    let playback = service(&report, "playback");
    assert_eq!((playback.rpo.verdict, playback.rpo.measured_seconds), (Verdict::Unknown, None));
    let because = "object-storage: the copy was not read: no answer within 2 s";
    assert_eq!(playback.rpo.because, because);
    assert_eq!(report.objectives_met(), (9, 12));
}

fn component<'a>(report: &'a RecoveryReport, name: &str) -> &'a ComponentResult {
    report.components.iter().find(|component| component.name == name).unwrap()
}

#[test]
fn what_the_secondary_region_holds_is_measured_by_what_arrived_there() {
    let report = of(&recovered());
    // From the newest heartbeat that arrived, 02:58:44.9, to the second datapoint that breached, 03:00:00.
    let objects = component(&report, "object-storage");
    assert_eq!(objects.rpo.measured_seconds, Some(75.1));
    assert!(objects.rpo.because.contains("14 heartbeats"), "{}", objects.rpo.because);
    assert_eq!(objects.rto.measured_seconds, Some(658.35));
    // The images of the bundle are there, so what may lack was pushed after it was rendered.
    let registry = component(&report, "registry");
    assert_eq!((registry.rpo.measured_seconds, registry.rto.measured_seconds), (Some(540.0), Some(658.3)));
    let redis = component(&report, "redis");
    assert_eq!((redis.rto.measured_seconds, redis.rpo.verdict), (Some(658.5), Verdict::Met));
}

#[test]
fn what_did_not_arrive_is_unknown_and_says_why() {
    let mut run = recovered();
    let holdings = &mut run.health.as_mut().unwrap().holdings;
    holdings.components[0].answer.status = Some(503);
    if let Some(Sighting::Seen(held)) = &mut holdings.objects {
        held.newest = None;
    }
    if let Some(Sighting::Seen(held)) = &mut holdings.images {
        held.missing = vec!["sparc/auth@sha256:00".to_owned()];
    }
    let report = of(&run);
    for (name, why) in [
        ("redis", "it answered 503 at"),
        ("object-storage", "holds no heartbeat, so nothing is known to have arrived"),
        ("registry", "not in the registry: sparc/auth@sha256:00"),
    ] {
        let component = component(&report, name);
        for measure in [&component.rto, &component.rpo] {
            assert_eq!(measure.verdict, Verdict::Unknown, "{name}");
            assert!(measure.because.contains(why), "{name}: {}", measure.because);
        }
    }
}

#[test]
fn what_is_known_to_be_too_much_is_missed_even_if_the_rest_is_unknown() {
    let mut run = recovered();
    run.promotion.as_mut().unwrap().loss.seconds_at_most = Some(7200.0);
    let report = of(&run);
    assert_eq!(service(&report, "playback").rpo.verdict, Verdict::NotMet);
    assert_eq!(service(&report, "core-apis").rpo.measured_seconds, Some(7200.0));
}

#[test]
fn a_service_that_is_still_away_after_its_objective_is_missed_without_a_figure() {
    let mut run = recovered();
    run.reached = None;
    run.names = None;
    run.failure = Some(RunFailure {
        state: "SwapDns".to_owned(),
        error: "Recovery.Permanent".to_owned(),
        cause: r#"{"errorType":"Recovery.Permanent","errorMessage":"the switch cannot be written; correct [names]"}"#
            .to_owned(),
    });
    let report = RecoveryReport::of(&plan(), &run, &[], at("03:20:00"));
    let core = service(&report, "core-apis");
    assert_eq!((core.rto.verdict, core.rto.measured_seconds), (Verdict::NotMet, None));
    assert_eq!(service(&report, "analytics").rto.verdict, Verdict::Unknown);
    assert_eq!(report.outcome, RunOutcome::Incomplete);
    assert!(report.next[0].starts_with("Do not go back"), "{:?}", report.next);
    assert_eq!(item(&report, "Customer access restored").state, CheckState::Failed);
}

#[test]
fn data_loss_of_the_cluster_is_the_age_of_its_bundle_at_the_impairment() {
    let report = of(&recovered());
    let cluster = report.components.iter().find(|component| component.name == "kubernetes").unwrap();
    assert_eq!(cluster.rpo.measured_seconds, Some(540.0));
}

#[test]
fn no_item_of_the_checklist_is_ticked_without_evidence() {
    let mut run = recovered();
    let full = of(&run);
    assert_eq!(item(&full, "Customer access restored").state, CheckState::Passed);
    assert_eq!(item(&full, "Data integrity checks passed").state, CheckState::NotChecked);
    assert_eq!(item(&full, "Backup jobs resumed").state, CheckState::NotChecked);
    run = Run { health: None, reached: None, promotion: None, rollout: None, fence: None, plan: None, ..run };
    let empty = of(&run);
    let ticked: Vec<&str> = empty
        .checklist
        .iter()
        .flat_map(|group| &group.items)
        .filter(|item| item.state == CheckState::Passed)
        .map(|item| item.item.as_str())
        .collect();
    assert_eq!(ticked, Vec::<&str>::new());
    assert!(full.checklist.iter().flat_map(|g| &g.items).all(|item| !item.evidence.is_empty()));
}

#[test]
fn an_event_that_is_not_understood_still_ends_in_a_report() {
    let run = Run {
        id: "x".to_owned(),
        started_at: at("03:02:11"),
        event: json!({"hello": 1}),
        plan: None,
        failure: Some(RunFailure {
            state: "PlanFailover".to_owned(),
            error: "Recovery.Permanent".to_owned(),
            cause: "not JSON".to_owned(),
        }),
        ..Run { reached: None, ..blank() }
    };
    let report = of(&run);
    assert_eq!(report.outcome, RunOutcome::Failed);
    assert!(report.services.iter().all(|service| service.rto.verdict == Verdict::Unknown));
    assert!(to_html(&report).unwrap().contains("was not understood"));
    assert!(to_markdown(&report).unwrap().contains("PlanFailover"));
}

fn blank() -> Run {
    serde_json::from_value(json!({"id": "x", "started_at": "2026-11-23T03:02:11Z", "event": {}})).unwrap()
}

#[test]
fn a_refused_run_says_what_a_person_does_and_does_not_say_that_services_are_away() {
    let mut run = Run { event: serde_json::from_str(ALARM).unwrap(), ..blank() };
    run.failure = Some(RunFailure {
        state: "PlanFailover".to_owned(),
        error: "Recovery.Refused".to_owned(),
        cause: json!({
            "errorType": "Recovery.Refused",
            "errorMessage": "not failing over: `sparc-prod` still takes writes; request it with mode `graceful`"
        })
        .to_string(),
    });
    let report = RecoveryReport::of(&plan(), &run, &[], at("23:00:00"));
    assert_eq!(report.outcome, RunOutcome::Refused);
    assert_eq!(
        report.sentence,
        "The failover was refused and nothing has moved: not failing over: `sparc-prod` still takes writes."
    );
    assert_eq!(report.next, ["Request it with mode `graceful`."]);
    // The primary works: nobody knows of a service that is away.
    assert!(report.services.iter().all(|service| service.rto.verdict == Verdict::Unknown));
}

#[test]
fn a_run_that_could_not_put_everything_back_says_what_is_left() {
    let full = recovered();
    let run = Run {
        promotion: None,
        scaling: None,
        rollout: None,
        health: None,
        names: None,
        reached: None,
        records: None,
        failure: Some(RunFailure {
            state: "PromoteReplica".to_owned(),
            error: "Recovery.Permanent".to_owned(),
            cause: "{}".to_owned(),
        }),
        reversal: Some(Reversal {
            fence: Some(FenceLifted {
                stays: None,
                proof: None,
                writers: vec![],
                left: vec!["open `sparc-prod` for writes".to_owned()],
                observed_at: at("03:04:00"),
            }),
            capacity: None,
        }),
        ..full
    };
    let report = of(&run);
    assert_eq!(report.outcome, RunOutcome::Failed);
    assert!(report.sentence.contains("not everything could be put back"), "{}", report.sentence);
    assert!(report.next.contains(&"Open `sparc-prod` for writes.".to_owned()), "{:?}", report.next);
}

#[test]
fn the_report_is_read_back_as_it_was_written() {
    let report = of(&recovered()).with_drill(&plan(), drill());
    let text = serde_json::to_string_pretty(&report).unwrap();
    let again: RecoveryReport = serde_json::from_str(&text).unwrap();
    assert_eq!(again, report);
}

fn drill() -> Drill {
    Drill {
        place: "one machine, PostgreSQL 15.18".to_owned(),
        acknowledged_writes: 4120,
        lost_writes: vec![LostWrite { id: "w-4119".to_owned(), acknowledged_at: at("02:58:59.950") }],
        client_gap_seconds: Some(13.4),
        last_write_before: Some(at("02:58:59.950")),
        first_write_after: Some(at("03:03:41.500")),
        names: Some(NamesSeen {
            name: "api.sparc.com".to_owned(),
            without_cache_at: at("03:11:13"),
            with_cache_at: at("03:11:14.200"),
            later_seconds: 60.0,
            resolvers: 12,
            scale: 0.02,
        }),
        faults: vec![FaultFired {
            fault: "lose-answer PromoteReplica".to_owned(),
            times: 1,
            first_at: Some(at("03:03:20")),
        }],
        stand_ins: vec![StandIn { part: "Amazon EKS".to_owned(), by: "the lab's small Kubernetes API".to_owned() }],
    }
}

#[test]
fn a_drill_names_the_acknowledged_writes_that_are_gone() {
    let report = of(&recovered()).with_drill(&plan(), drill());
    assert_eq!(item(&report, "Data integrity checks passed").state, CheckState::Failed);
    assert!(to_html(&report).unwrap().contains("w-4119"));
    assert!(to_markdown(&report).unwrap().contains("w-4119"));
    assert!(report.next.contains(&"Account for the lost data: 1 acknowledged write, named in the report.".to_owned()));
}

#[test]
fn words_of_others_cannot_become_markup() {
    let mut run = recovered();
    run.approval.as_mut().unwrap().because = "<script>alert(1)</script> `<b>`".to_owned();
    run.plan.as_mut().unwrap().incident.reason = "a | b\n<img src=x onerror=alert(1)>".to_owned();
    run.plan.as_mut().unwrap().incident.consents.push(Consent {
        to: crate::incident::Risk::DataLoss,
        by: "x".to_owned(),
        because: "y".to_owned(),
    });
    let html = to_html(&of(&run)).unwrap();
    assert!(!html.contains("<script") && !html.contains("<img"), "markup got through");
    assert!(html.contains("&lt;script&gt;"));
    assert!(to_markdown(&of(&run)).unwrap().contains("a \\| b <img"));
}

#[test]
fn the_page_needs_nothing_from_outside() {
    let html = to_html(&of(&recovered())).unwrap();
    for outside in ["<script", "<link", "url(http", "@import", "src="] {
        assert!(!html.contains(outside), "{outside}");
    }
}

#[test]
fn states_of_the_engine_become_the_timeline() {
    let run = recovered();
    let span = |state: &str, began: &str, ended: Option<&str>, attempts, trouble: Option<&str>, failed| StateSpan {
        state: state.to_owned(),
        comment: "why it stands here".to_owned(),
        began_at: at(began),
        ended_at: ended.map(at),
        attempts,
        trouble: trouble.map(str::to_owned),
        failed,
    };
    let history = [
        span("AwaitCapacity", "03:03:42", Some("03:06:20"), 31, Some("Recovery.NotYet: 12 of 50 nodes Ready"), false),
        span("PlanFailover", "03:02:11.4", Some("03:02:14.3"), 1, None, false),
        span("NotifyPromoted", "03:03:41.4", Some("03:03:41.9"), 2, Some("Recovery.Transient: no answer"), true),
        span("WriteReport", "03:11:19", None, 1, None, false),
    ];
    let report = RecoveryReport::of(&plan(), &run, &history, at("03:11:20"));
    let states: Vec<&str> = report.timeline.iter().map(|step| step.state.as_str()).collect();
    assert_eq!(states, ["PlanFailover", "NotifyPromoted", "AwaitCapacity", "WriteReport"]);
    assert_eq!(report.timeline[1].ending, Ending::Failed);
    assert_eq!(report.timeline[1].seen, "Recovery.Transient: no answer");
    assert_eq!(
        report.timeline[2].seen,
        "31 of 50 nodes Ready, 30 are enough (before that: Recovery.NotYet: 12 of 50 nodes Ready)"
    );
    assert_eq!(report.timeline[3].ending, Ending::UnderWay);
}

/// The whole page, for eyes: `REPORT_SAMPLES=DIR cargo nextest run -p recovery the_samples` writes them.
#[test]
fn the_samples_render() {
    let run = recovered();
    let incomplete = Run {
        reached: None,
        names: None,
        records: None,
        failure: Some(RunFailure {
            state: "VerifyRecovery".to_owned(),
            error: "Recovery.NotYet".to_owned(),
            cause: json!({"errorType": "Recovery.NotYet", "errorMessage": "`playback` answers 503; look at its Deployment"})
                .to_string(),
        }),
        troubles: vec![RunFailure {
            state: "NotifyPromoted".to_owned(),
            error: "Recovery.Transient".to_owned(),
            cause: json!({"errorMessage": "the topic did not take the message; call the people by phone"}).to_string(),
        }],
        ..run.clone()
    };
    let refused = Run {
        plan: None,
        failure: Some(RunFailure {
            state: "PlanFailover".to_owned(),
            error: "Recovery.Refused".to_owned(),
            cause: json!({"errorMessage": "not failing over: `sparc-prod` still takes writes; request it with mode `graceful`, or record a consent to `still-writable`"}).to_string(),
        }),
        ..Run { event: run.event.clone(), ..blank() }
    };
    let samples = [
        ("recovered", of(&run)),
        ("drill", of(&run).with_drill(&plan(), drill())),
        ("incomplete", RecoveryReport::of(&plan(), &incomplete, &[], at("03:31:00"))),
        ("refused", of(&refused)),
    ];
    for (name, report) in samples {
        let (html, markdown) = (to_html(&report).unwrap(), to_markdown(&report).unwrap());
        assert!(html.ends_with("</html>") && markdown.starts_with("# Recovery report"));
        if let Ok(folder) = std::env::var("REPORT_SAMPLES") {
            let folder = std::path::Path::new(&folder);
            std::fs::write(folder.join(format!("{name}.html")), html).unwrap();
            std::fs::write(folder.join(format!("{name}.md")), markdown).unwrap();
            std::fs::write(folder.join(format!("{name}.json")), serde_json::to_string_pretty(&report).unwrap())
                .unwrap();
        }
    }
}
