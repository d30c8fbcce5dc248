//! The four scripts, in front of AWS and of PostgreSQL.

#![allow(clippy::unwrap_used)] // also in the functions that tests share

use std::time::{Duration, Instant};

use lab::aws::{Aws, Seed};
use lab::faults::{Desk, HttpProxy, PostgresProxy, Script, Selector, Times, Upstream};
use lab::postgres::{Options, Pair, Role};

fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap()
}

async fn put(proxy: &HttpProxy, key: &str) -> reqwest::Result<reqwest::Response> {
    let authorization =
        "AWS4-HMAC-SHA256 Credential=AKIALAB/20260101/eu-west-1/s3/aws4_request, SignedHeaders=host, Signature=0";
    let url = format!("{}/sparc-recovery-evidence/{key}", proxy.url());
    http().put(url).header("authorization", authorization).body("x").send().await
}

#[tokio::test]
async fn the_four_scripts_act_on_calls_of_aws_and_are_written_down() {
    let aws = Aws::start().await.unwrap();
    let seeded = aws.seed(&Seed::default()).await.unwrap();
    let bucket = &seeded.evidence_bucket;
    let proxy = HttpProxy::start(Upstream::plain(aws.control_url()), Desk::new()).await.unwrap();
    assert_eq!(put(&proxy, "passed").await.unwrap().status(), 200);

    let desk = proxy.desk();
    desk.lay(
        Selector::request("PUT", "rejected").of("s3"),
        Times::Nth(2),
        Script::Reject { status: 503, code: "SlowDown".into() },
    );
    assert_eq!(put(&proxy, "rejected-1").await.unwrap().status(), 200);
    let rejected = put(&proxy, "rejected-2").await.unwrap();
    assert_eq!(rejected.status(), 503);
    assert!(rejected.text().await.unwrap().contains("<Code>SlowDown</Code>"));
    assert_eq!(put(&proxy, "rejected-3").await.unwrap().status(), 200);
    assert_eq!(aws.object(bucket, "rejected-2").await.unwrap(), None, "rejected is not done");

    desk.lay(Selector::request("PUT", "lost"), Times::First(1), Script::LoseAnswer);
    assert!(put(&proxy, "lost").await.is_err());
    assert_eq!(aws.object(bucket, "lost").await.unwrap().as_deref(), Some("x"), "lost is done");

    desk.lay(Selector::request("PUT", "held"), Times::Always, Script::Hold);
    assert!(tokio::time::timeout(Duration::from_millis(200), put(&proxy, "held")).await.is_err());
    assert_eq!(aws.object(bucket, "held").await.unwrap(), None);
    desk.release();
    while aws.object(bucket, "held").await.unwrap().is_none() {}

    desk.lay(Selector::request("PUT", "slow"), Times::Always, Script::Slow(Duration::from_millis(300)));
    let begun = Instant::now();
    assert_eq!(put(&proxy, "slow").await.unwrap().status(), 200);
    assert!(begun.elapsed() >= Duration::from_millis(300));

    assert_eq!(desk.fired().len(), 4);
    assert!(desk.calls().len() > desk.fired().len());
    assert!(desk.fired().iter().all(|call| call.service == "s3" && call.operation == "PUT"));
}

#[tokio::test]
async fn large_answers_come_in_a_trickle_or_break_off_and_head_says_how_large_they_are() {
    let aws = Aws::start().await.unwrap();
    let seeded = aws.seed(&Seed::default()).await.unwrap();
    let proxy = HttpProxy::start(Upstream::plain(aws.control_url()), Desk::new()).await.unwrap();
    let key = "large";
    let authorization =
        "AWS4-HMAC-SHA256 Credential=AKIALAB/20260101/eu-west-1/s3/aws4_request, SignedHeaders=host, Signature=0";
    let url = format!("{}/{}/{key}", proxy.url(), seeded.evidence_bucket);
    let ask = |method| http().request(method, &url).header("authorization", authorization);
    ask(reqwest::Method::PUT).body("0123456789").send().await.unwrap();

    let head = ask(reqwest::Method::HEAD).send().await.unwrap();
    assert_eq!(head.headers()["content-length"], "10");

    let desk = proxy.desk();
    let pause = Duration::from_millis(50);
    desk.lay(Selector::request("GET", key).of("s3"), Times::First(1), Script::Trickle { piece_bytes: 3, pause });
    let begun = Instant::now();
    assert_eq!(ask(reqwest::Method::GET).send().await.unwrap().text().await.unwrap(), "0123456789");
    assert!(begun.elapsed() >= 4 * pause, "four pieces");

    desk.clear();
    desk.lay(Selector::request("GET", key).of("s3"), Times::First(1), Script::BreakBody { after_bytes: 4 });
    let mut broken = ask(reqwest::Method::GET).send().await.unwrap();
    assert_eq!(broken.content_length(), Some(10));
    let mut came = 0;
    let broke = loop {
        match broken.chunk().await {
            Ok(Some(piece)) => came += piece.len(),
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    assert!(broke && came <= 4, "{came} bytes came, broke: {broke}");
    assert_eq!(ask(reqwest::Method::GET).send().await.unwrap().text().await.unwrap(), "0123456789");
    assert_eq!(desk.fired().len(), 2);
}

#[tokio::test]
async fn the_four_scripts_act_on_statements() {
    let pair = Pair::start(Options::default()).await.unwrap();
    let proxy = PostgresProxy::start(&pair.primary, pair.authority(), Desk::new()).await.unwrap();
    let desk = proxy.desk();
    let connect = async || {
        let mut config = pair.primary.config(Role::Application, "sparc_prod");
        config = {
            let mut through = tokio_postgres::Config::new();
            through
                .host("127.0.0.1")
                .port(proxy.port())
                .user(config.get_user().unwrap())
                .password(config.get_password().unwrap())
                .dbname("sparc_prod")
                .ssl_mode(tokio_postgres::config::SslMode::Require);
            through
        };
        let (client, connection) = config.connect(pair.authority().connector().unwrap()).await?;
        tokio::spawn(connection);
        Ok::<_, tokio_postgres::Error>(client)
    };
    let insert = "insert into recovery.write_attempt (run) values ($1)";
    let count = async |run: &str| -> i64 {
        let question = "select count(*) from recovery.write_attempt where run = $1";
        pair.primary.admin().await.unwrap().query_one(question, &[&run]).await.unwrap().get(0)
    };

    assert_eq!(connect().await.unwrap().execute(insert, &[&"passed"]).await.unwrap(), 1);

    desk.lay(Selector::operation("write_attempt"), Times::First(1), Script::LoseAnswer);
    assert!(connect().await.unwrap().execute(insert, &[&"lost"]).await.is_err());
    assert_eq!(count("lost").await, 1, "lost is done");

    desk.clear();
    desk.lay(Selector::operation("write_attempt"), Times::First(1), Script::Reject { status: 0, code: "57P03".into() });
    let refused = connect().await.unwrap().execute(insert, &[&"rejected"]).await.unwrap_err();
    assert_eq!(refused.code().map(|code| code.code()), Some("57P03"));
    assert_eq!(count("rejected").await, 0);

    desk.clear();
    desk.lay(Selector::operation("write_attempt"), Times::First(1), Script::Hold);
    let client = connect().await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(200), client.execute(insert, &[&"held"])).await.is_err());
    assert_eq!(count("held").await, 0);
    desk.release();
    while count("held").await == 0 {}

    desk.clear();
    desk.lay(Selector::operation("write_attempt"), Times::First(1), Script::Slow(Duration::from_millis(300)));
    let client = connect().await.unwrap();
    let begun = Instant::now();
    client.execute(insert, &[&"slow"]).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300));

    desk.clear();
    desk.lay(Selector::operation("connect"), Times::First(1), Script::Reject { status: 0, code: String::new() });
    assert!(connect().await.is_err());
    assert!(connect().await.is_ok());
}
