//! What programs write, in an emulated bucket, with calls that are lost, throttled, or never succeed.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, io::Read, sync::Arc, time::Duration};

use lab::{
    aws::{Aws as EmulatedAws, Seed, TERTIARY},
    faults::{Desk, HttpProxy, Script, Selector, Times, Upstream},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use recovery::{
    backup::{Encoding, Keeping, Lock, PartStore},
    fault::{Classified, Fault},
    plan::{Plan, StorageClass},
};
use recovery_aws::Aws;
use recovery_datapath::{DatapathError, Options, Parts, Produced, SMALLEST_PART, crc64nvme, sha256, store};
use reqwest::Method;
use tokio::process::Command;

const KEY: &str = "backups/logical/sparc-prod/20261126T020000Z/databases/sparc_prod.dump.zst";
const BUCKET: &str = "sparc-backups-prod";

struct World {
    emulated: EmulatedAws,
    desk: Desk,
    bucket: Arc<dyn PartStore>,
    _proxy: HttpProxy,
}

async fn world() -> World {
    let emulated = EmulatedAws::start().await.unwrap();
    emulated.seed(&Seed::default()).await.unwrap();
    let desk = Desk::default();
    let proxy = HttpProxy::start(Upstream::plain(emulated.control_url()), desk.clone()).await.unwrap();
    emulated.route("S3", proxy.url());
    let plan = Plan::parse("plans/sparc.toml", include_str!("../../../plans/sparc.toml")).unwrap();
    let aws = Aws::from_environment(&plan, emulated.env()).await;
    World { emulated, desk, bucket: aws.backup_parts(), _proxy: proxy }
}

fn options() -> Options {
    Options {
        encoding: Encoding::Zstd,
        keeping: Keeping {
            kms_key: Some("arn:aws:kms:eu-west-1:111122223333:key/11112222-3333-4444-5555-666677778888".to_owned()),
            storage_class: StorageClass::StandardIa,
            lock: Lock::Compliance,
            retain_until: "2026-12-26T02:00:00Z".parse().unwrap(),
            tags: BTreeMap::from([("backup".to_owned(), "logical/sparc-prod/20261126T020000Z".to_owned())]),
        },
        parts: Parts::for_about(0),
        within: Duration::from_secs(300),
        whole: |_| Ok(()),
    }
}

/// What no compressor makes shorter: two parts and a bit.
fn bytes() -> Vec<u8> {
    let mut bytes = vec![0; 2 * usize::try_from(SMALLEST_PART).unwrap() + 100_000];
    StdRng::seed_from_u64(7).fill(&mut bytes[..]);
    bytes
}

impl World {
    async fn object(&self) -> Option<Vec<u8>> {
        let path = format!("/{BUCKET}/{KEY}");
        let url = format!("{}{path}", self.emulated.control_url());
        // Past the proxy, and as bytes: the lab's own hand reads text.
        let curl = Command::new("curl").args(["--silent", "--fail", &url]).output().await.unwrap();
        curl.status.success().then_some(curl.stdout)
    }

    /// Headers of the object, as the bucket describes it.
    async fn description(&self) -> String {
        let url = format!("{}/{BUCKET}/{KEY}", self.emulated.control_url());
        let curl = Command::new("curl").args(["--silent", "--fail", "--head", &url]).output().await.unwrap();
        String::from_utf8(curl.stdout).unwrap().to_lowercase()
    }

    async fn assert_nothing_is_left(&self) {
        assert_eq!(self.object().await, None, "an object is there");
        assert_eq!(self.bucket.unfinished(KEY).await.unwrap(), None, "an upload is there");
    }

    async fn fails(&self, produced: Produced) -> DatapathError {
        let error = store(&self.bucket, KEY, produced, &options()).await.unwrap_err();
        self.assert_nothing_is_left().await;
        error
    }
}

fn shell(script: &str) -> Produced {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    Produced::by_program("the dump of `sparc_prod`", command).unwrap()
}

#[tokio::test]
async fn what_is_written_arrives_with_the_digests_that_were_computed_on_the_way() {
    let world = world().await;
    for encoding in [Encoding::Zstd, Encoding::Gzip, Encoding::Identity] {
        let stored = store(
            &world.bucket,
            KEY,
            shell("seq 1 2000000; head -c 6000000 /dev/urandom"),
            &Options { encoding, ..options() },
        )
        .await
        .unwrap();
        let object = world.object().await.unwrap();
        assert_eq!(object.len() as u64, stored.stored_bytes);
        assert_eq!(sha256(&object), stored.stored_sha256);
        assert_eq!(crc64nvme(&object), stored.crc64nvme);
        let kept = world.description().await;
        for header in [
            "x-amz-server-side-encryption: aws:kms",
            "x-amz-server-side-encryption-aws-kms-key-id: arn:aws:kms:eu-west-1:",
            "x-amz-storage-class: standard_ia",
            "x-amz-object-lock-mode: compliance",
            "x-amz-object-lock-retain-until-date: 2026-12-26t02:00:00",
        ] {
            assert!(kept.contains(header), "{header} is not in\n{kept}");
        }
        let path = format!("/{BUCKET}/{KEY}?tagging");
        let tags = world.emulated.call("s3", TERTIARY, Method::GET, &path, &[], "").await.unwrap().body;
        assert!(tags.contains("<Value>logical/sparc-prod/20261126T020000Z</Value>"), "{tags}");
        let plain = match encoding {
            Encoding::Identity => object,
            Encoding::Zstd => zstd::stream::decode_all(&*object).unwrap(),
            Encoding::Gzip => {
                let mut plain = Vec::new();
                flate2::read::GzDecoder::new(&*object).read_to_end(&mut plain).unwrap();
                plain
            }
        };
        assert_eq!(sha256(&plain), stored.plain_sha256, "{encoding:?}");
        assert_eq!((plain.len() as u64, plain.starts_with(b"1\n2\n3\n")), (stored.ends.bytes, true));
    }
}

#[tokio::test]
async fn what_failed_was_cut_off_or_wrote_nothing_is_not_published() {
    let world = world().await;
    let failed = world.fails(shell("head -c 12000000 /dev/urandom; echo 'connection lost' >&2; exit 1")).await;
    assert_eq!(failed.fault(), Fault::Transient);
    let text = recovery::fault::chain(&failed);
    assert!(text.contains("exit status: 1: connection lost"), "{text}");

    let denied = world.fails(shell("echo 'permission denied for table t' >&2; exit 1")).await;
    assert_eq!(denied.fault(), Fault::Refused);

    let killed = world.fails(shell("head -c 12000000 /dev/urandom; kill -9 $$")).await;
    assert!(recovery::fault::chain(&killed).contains("signal: 9"), "{killed:?}");

    let empty = world.fails(shell("exit 0")).await;
    assert!(empty.to_string().contains("it wrote nothing"), "{empty}");

    let whole = |ends: &recovery_datapath::Ends| {
        if ends.tail.ends_with(b"\n") { Ok(()) } else { Err("its last line has no end".to_owned()) }
    };
    let cut = store(&world.bucket, KEY, shell("printf 'one\\ntw'"), &Options { whole, ..options() }).await.unwrap_err();
    assert!(cut.to_string().contains("its last line has no end"), "{cut}");
    world.assert_nothing_is_left().await;

    let hanging = Options { within: Duration::from_secs(1), ..options() };
    let hangs = store(&world.bucket, KEY, shell("echo one; exec sleep 600"), &hanging).await.unwrap_err();
    assert!(matches!(hangs, DatapathError::TooSlow { .. }), "{hangs:?}");
    world.assert_nothing_is_left().await;
}

#[tokio::test]
async fn lost_answers_and_throttling_change_nothing_in_the_object() {
    let world = world().await;
    let bytes = bytes();
    world.desk.lay(Selector::request("POST", "uploadId="), Times::Nth(1), Script::LoseAnswer);
    world.desk.lay(Selector::request("PUT", "partNumber=1"), Times::Nth(1), Script::LoseAnswer);
    let slow_down = Script::Reject { status: 503, code: "SlowDown".into() };
    world.desk.lay(Selector::request("PUT", "partNumber=2"), Times::First(3), slow_down);
    let stored = store(&world.bucket, KEY, Produced::by_memory("some bytes", bytes.clone()), &options()).await.unwrap();
    assert_eq!(world.desk.fired().len(), 5, "{:?}", world.desk.fired());
    assert_eq!(stored.plain_sha256, sha256(&bytes));
    assert_eq!(sha256(&world.object().await.unwrap()), stored.stored_sha256);
    assert_eq!(world.bucket.unfinished(KEY).await.unwrap(), None);
}

#[tokio::test]
async fn a_part_that_never_arrives_ends_the_upload_and_the_program() {
    let world = world().await;
    let slow_down = Script::Reject { status: 503, code: "SlowDown".into() };
    world.desk.lay(Selector::request("PUT", "partNumber=2"), Times::Always, slow_down);
    // It would write for ever; that it ends shows that it was ended.
    let error = world.fails(shell("exec cat /dev/urandom")).await;
    assert_eq!(error.fault(), Fault::Transient);
    assert!(recovery::fault::chain(&error).contains("SlowDown"), "{error:?}");
}

#[tokio::test]
async fn an_upload_that_was_never_confirmed_and_is_not_there_is_no_backup() {
    let world = world().await;
    let gone = Script::Reject { status: 404, code: "NoSuchUpload".into() };
    world.desk.lay(Selector::request("POST", "uploadId="), Times::Always, gone);
    let error = world.fails(Produced::by_memory("some bytes", bytes())).await;
    assert!(matches!(error, DatapathError::Gone { .. }), "{error:?}");
}

#[tokio::test]
async fn the_next_attempt_sends_only_the_parts_that_are_missing_or_differ() {
    let world = world().await;
    let bytes = bytes();
    let plain = Options { encoding: Encoding::Identity, ..options() };
    // An attempt that was killed: one part is right, one is of other bytes, and a fourth is of an older, longer stream.
    let upload = world.bucket.begin(KEY, &plain.keeping).await.unwrap();
    let part = usize::try_from(SMALLEST_PART).unwrap();
    for (number, left) in [(1, &bytes[..part]), (2, &bytes[..part]), (4, &bytes[..10])] {
        let sent = world.bucket.put_part(KEY, &upload, number, left.to_vec().into(), &crc64nvme(left)).await.unwrap();
        assert!(sent.is_some());
    }
    world.desk.lay(Selector::request("PUT", "partNumber="), Times::Always, Script::Slow(Duration::ZERO));
    let stored = store(&world.bucket, KEY, Produced::by_memory("some bytes", bytes.clone()), &plain).await.unwrap();
    let mut sent: Vec<String> = world.desk.fired().iter().map(|fired| fired.path.clone()).collect();
    sent.sort();
    assert_eq!(sent.len(), 2, "{sent:?}");
    assert!(sent[0].contains("partNumber=2") && sent[1].contains("partNumber=3"), "{sent:?}");
    assert_eq!(stored.stored_sha256, sha256(&bytes));
    assert_eq!(sha256(&world.object().await.unwrap()), sha256(&bytes));
    assert_eq!(world.bucket.unfinished(KEY).await.unwrap(), None);
}
