//! Faults of the bucket while real servers are backed up: a backup is complete once, or honestly missing with nothing left of
//! it; and what the person on call reads.

#![allow(clippy::unwrap_used)]

mod site;

use std::time::Duration;

use jiff::{Timestamp, ToSpan};
use lab::faults::{Script, Selector, Times};
use recovery::{
    backup::{Kind, Lock, Taken},
    fault::{Classified, Fault, chain},
};
use site::{Platform, id, platform};

/// The largest artifact of the logical backup: some parts, once the pair is filled.
const DUMP: &str = "sparc_prod.dump.zst";
/// Some parts, in bytes that no compressor shortens.
const FILL: &str = "create table public.noise as
    select n, (select string_agg(md5(random()::text || n || m), '') from generate_series(1, 64) m) as text from generate_series(1, 20000) n";

async fn filled() -> Platform {
    let platform = platform(Taken::Primary).await;
    platform.site.pair.primary.admin_of("sparc_prod").await.unwrap().batch_execute(FILL).await.unwrap();
    platform
}

fn slow_down() -> Script {
    Script::Reject { status: 503, code: "SlowDown".to_owned() }
}

fn beginning() -> Selector {
    Selector::request("POST", &format!("{DUMP}?uploads")).of("s3")
}

/// The call that makes an object of the dump's parts.
fn completion() -> Selector {
    Selector::complete_upload().at(&format!("{DUMP}?uploadId="))
}

#[tokio::test]
async fn a_lost_answer_to_the_completion_makes_one_object_and_one_backup() {
    let platform = filled().await;
    let backup = id(Kind::Logical);
    // The SDK asks again, and hears that there is no such upload any more.
    let laid = platform.desk().lay(completion(), Times::First(1), Script::LoseAnswer);
    let outcome = platform.take(&backup, "nightly").await.unwrap();
    assert!(platform.desk().fired().iter().any(|call| call.fired_by == Some(laid)));
    assert!(!outcome.already);
    let (_, artifacts) = platform.published(&backup).await;
    for (artifact, _) in &artifacts {
        assert_eq!(platform.versions(&artifact.key).await, 1, "{}", artifact.key);
    }
    assert_eq!((platform.versions(&backup.manifest_key()).await, platform.uploads().await), (1, 0));
    assert!(platform.take(&backup, "nightly").await.unwrap().already);
}

#[tokio::test]
async fn throttling_is_waited_out_while_it_passes_and_told_when_it_does_not() {
    let platform = filled().await;
    let backup = id(Kind::Logical);
    let dump = || Selector::request("PUT", DUMP).of("s3");
    platform.desk().lay(dump(), Times::First(3), slow_down());
    platform.desk().lay(completion(), Times::First(2), slow_down());
    platform.take(&backup, "nightly").await.unwrap();
    assert_eq!(platform.desk().fired().len(), 5, "{:?}", platform.desk().fired());
    platform.published(&backup).await;

    let second = "logical/sparc-prod/20261127T020000Z".parse().unwrap();
    platform.desk().clear();
    platform.desk().lay(dump(), Times::Always, slow_down());
    let error = platform.take(&second, "nightly").await.unwrap_err();
    assert_eq!(error.fault(), Fault::Transient, "{}", chain(&error));
    for words in ["`logical/sparc-prod/20261127T020000Z` was not taken", DUMP, "SlowDown"] {
        assert!(chain(&error).contains(words), "{}", chain(&error));
    }
    platform.desk().clear();
    platform.assert_nothing_is_published(&second).await;
    platform.take(&second, "nightly").await.unwrap();
    platform.published(&second).await;
}

#[tokio::test]
async fn a_part_that_fails_for_ever_leaves_no_part_and_the_next_attempt_is_whole() {
    let platform = filled().await;
    let backup = id(Kind::Logical);
    let refused = Script::Reject { status: 403, code: "AccessDenied".to_owned() };
    let situations = [
        (Script::LoseAnswer, Fault::Transient, "sparc_prod"),
        (Script::Reject { status: 500, code: "InternalError".to_owned() }, Fault::Transient, "InternalError"),
        (refused, Fault::Refused, "AccessDenied"),
    ];
    for (script, fault, words) in situations {
        platform.desk().lay(Selector::part(2), Times::Always, script.clone());
        let error = platform.take(&backup, "nightly").await.unwrap_err();
        assert_eq!(error.fault(), fault, "{script:?}: {}", chain(&error));
        assert!(chain(&error).contains(DUMP) && chain(&error).contains(words), "{}", chain(&error));
        assert!(!error.remedy().is_empty());
        platform.desk().clear();
        platform.assert_nothing_is_published(&backup).await;
    }
    platform.take(&backup, "nightly").await.unwrap();
    platform.published(&backup).await;
}

#[tokio::test]
async fn a_bucket_that_is_slow_is_waited_for_within_the_time_and_not_beyond_it() {
    let mut platform = filled().await;
    let backup = id(Kind::Logical);
    platform.desk().lay(Selector::request("PUT", DUMP).of("s3"), Times::Always, Script::Slow(Duration::from_secs(1)));
    platform.take(&backup, "nightly").await.unwrap();
    platform.published(&backup).await;

    let second = "logical/sparc-prod/20261127T020000Z".parse().unwrap();
    platform.desk().clear();
    platform.desk().lay(Selector::request("PUT", DUMP).of("s3"), Times::Always, Script::Slow(Duration::from_secs(30)));
    platform.within = Duration::from_secs(6);
    let error = platform.take(&second, "nightly").await.unwrap_err();
    assert_eq!(error.fault(), Fault::Permanent, "{}", chain(&error));
    assert!(chain(&error).contains("the dump of `sparc_prod` was not written within"), "{}", chain(&error));
    assert!(error.remedy().contains("so that a Job takes it"), "{}", error.remedy());
    platform.desk().clear();
    platform.assert_nothing_is_published(&second).await;
}

/// After the silence that is taken for death.
fn later() -> Timestamp {
    Timestamp::now() + 5.minutes()
}

impl Platform {
    /// An attempt that is killed while a part of the dump is on its way.
    async fn killed(&self) {
        self.desk().clear();
        let before = self.desk().fired().len();
        let backup = id(Kind::Logical);
        self.desk().lay(Selector::request("PUT", DUMP).of("s3"), Times::Always, Script::Hold);
        tokio::select! {
            ended = self.take(&backup, "killed") => panic!("{ended:?}"),
            () = self.desk().wait_for_fired(before + 1) => {}
        }
        // Nothing of it runs any more, and nothing was ended.
        self.desk().clear();
        assert_eq!(self.uploads().await, 1);
    }
}

#[tokio::test]
async fn what_a_killed_attempt_has_left_is_gone_on_with_only_under_the_same_settings() {
    let mut platform = filled().await;
    platform.killed().await;
    let backup = id(Kind::Logical);
    let running = platform.take(&backup, "next").await.unwrap_err();
    assert_eq!(running.fault(), Fault::NotYet, "{}", chain(&running));

    // The same plan: the upload is gone on with.
    platform.now = later;
    let begun = platform.calls(&beginning());
    platform.killed().await;
    assert_eq!(platform.calls(&beginning()), begun);

    // Another lock and another key: what was begun before is ended, and the dump is kept as the plan says now.
    let key = platform.site.account.aws.make_key().await.unwrap();
    platform
        .change(|plan| {
            plan.backups.lock = Lock::Governance;
            plan.backups.kms_key.clone_from(&key);
        })
        .await;
    platform.now = || Timestamp::now() + 15.minutes();
    platform.take(&backup, "next").await.unwrap();
    let (manifest, artifacts) = platform.published(&backup).await;
    assert_eq!((manifest.protection.lock, manifest.protection.kms_key.as_ref()), (Lock::Governance, Some(&key)));
    let backups = platform.aws.backups();
    for (artifact, _) in &artifacts {
        let kept = backups.head(&artifact.key, None).await.unwrap().unwrap();
        assert_eq!((kept.lock, kept.kms_key.as_ref()), (Lock::Governance, Some(&key)), "{}", artifact.key);
        assert_eq!(kept.retain_until, Some(manifest.protection.retain_until));
    }
    assert_eq!(platform.calls(&beginning()), begun + 1);
    assert_eq!(platform.uploads().await, 0);
}
