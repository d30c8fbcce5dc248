//! The emulated AWS: ministack for the control plane; moto for RDS, EKS, EC2 and Service Quotas, in three regions.
//!
//! Both run from a virtual environment of the lab, pinned with hashes in `lab/requirements.txt`, and listen on 127.0.0.1
//! only. Which of the two answers is chosen by service through `AWS_ENDPOINT_URL_*`, which every SDK understands, so
//! that no code of the suite knows of it. Neither checks signatures; the region is read from the credential scope of the
//! `Authorization` header, which is why [`Aws::call`] writes one.

mod seed;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::error::{Error, Result, tail};
use crate::folder::Folder;
use crate::process::{Launch, Process};
use crate::{cache, ports, python};

pub(crate) use seed::{INSTANCE, REPLICA};
pub use seed::{Seed, Seeded, Sent};

/// The region that is lost.
pub const PRIMARY: &str = "us-east-1";
/// The region that takes over.
pub const SECONDARY: &str = "us-west-2";
/// The region of the suite itself: evidence, switch, secrets, topics.
pub const TERTIARY: &str = "eu-west-1";
/// The account, in every ARN.
pub const ACCOUNT: &str = "111122223333";

const REQUIREMENTS: &str = include_str!("../../../lab/requirements.txt");
const MINISTACK: &str = include_str!("../../../lab/run_ministack.py");
const MOTO: &str = include_str!("../../../lab/run_moto.py");
/// What moto answers: as its environment variable calls it, and as requests are signed for it.
const MOTOS: [(&str, &str); 4] = [("RDS", "rds"), ("EKS", "eks"), ("EC2", "ec2"), ("SERVICE_QUOTAS", "servicequotas")];
/// Ready within seconds; on a cold disk, with compilers beside them, the imports alone take most of a minute.
const PATIENCE: Duration = Duration::from_secs(180);
/// One look whether an emulator is ready.
const LOOK: Duration = Duration::from_secs(5);
/// One answer of an emulator.
const ANSWER: Duration = Duration::from_secs(60);

/// The running emulators.
#[derive(Debug)]
pub struct Aws {
    control: String,
    rds_and_eks: String,
    http: reqwest::Client,
    endpoints: Mutex<Vec<(&'static str, String)>>,
    _processes: [Process; 2],
    folder: Arc<Folder>,
}

/// Who may do what in the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody everything.
    Open,
    /// What the policies of their roles say; [`ACCESS_KEY`] is the account's root.
    Judged,
}

/// An answer to [`Aws::call`].
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// `ETag`, where the service gives one.
    pub etag: Option<String>,
    /// The body.
    pub body: String,
}

impl Aws {
    /// Starts both in a folder of their own; returns when both answer.
    pub async fn start() -> Result<Self> {
        Self::start_in(Arc::new(Folder::on_disk()?), Access::Open).await
    }

    /// The same in a folder that others share. It should lie on a disk: functions run as programs from inside.
    pub async fn start_in(folder: Arc<Folder>, access: Access) -> Result<Self> {
        let environment = tokio::task::spawn_blocking(prepare)
            .await
            .map_err(|e| Error::State(format!("making the Python environment panicked: {e}")))??;
        let home = folder.make("aws", 0o700)?;
        let temporary = folder.make("aws/tmp", 0o700)?;
        let (script, moto_script) = (home.join("run_ministack.py"), home.join("run_moto.py"));
        for (file, text) in [(&script, MINISTACK), (&moto_script, MOTO)] {
            std::fs::write(file, text).map_err(Error::system(format!("write {}", file.display())))?;
        }
        let (control_log, moto_log) = (folder.path().join("ministack.log"), folder.path().join("moto.log"));
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(ANSWER)
            .build()
            .map_err(|e| Error::State(format!("no HTTP client: {e}")))?;
        let (control, rds_and_eks, processes) = ports::anew(|| async {
            let (control_port, moto_port) = (ports::free()?, ports::free()?);
            let control = format!("http://127.0.0.1:{control_port}");
            let rds_and_eks = format!("http://127.0.0.1:{moto_port}");
            let env = |more: &[(&str, &str)]| -> Vec<(String, String)> {
                let common = [
                    ("HOME", home.to_str().unwrap_or("/")),
                    ("TMPDIR", temporary.to_str().unwrap_or("/tmp")),
                    ("PYTHONUNBUFFERED", "1"),
                    ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
                    ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
                    ("AWS_REGION", TERTIARY),
                    ("AWS_DEFAULT_REGION", TERTIARY),
                    ("AWS_EC2_METADATA_DISABLED", "true"),
                ];
                common.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
            };
            let mut ministack = Process::start(Launch {
                program: &environment.join("bin/python"),
                args: vec![script.display().to_string()],
                env: env(&[
                    // Without it ministack listens on all addresses.
                    ("BIND_HOST", "127.0.0.1"),
                    ("GATEWAY_PORT", &control_port.to_string()),
                    ("MINISTACK_ACCOUNT_ID", ACCOUNT),
                    ("MINISTACK_REGION", TERTIARY),
                    ("MINISTACK_HOST", "127.0.0.1"),
                    ("IOT_MTLS_ENABLED", "0"),
                    ("SFTP_ENABLED", "0"),
                    ("LOG_LEVEL", "WARNING"),
                    ("AUTH", if access == Access::Judged { "true" } else { "false" }),
                    // Its Lambda children inherit the environment.
                    ("AWS_ENDPOINT_URL", &control),
                    ("AWS_ENDPOINT_URL_RDS", &rds_and_eks),
                    ("AWS_ENDPOINT_URL_EKS", &rds_and_eks),
                ]),
                working_directory: &home,
                log: &control_log,
                account: None,
                death_signal: "KILL",
            })?;
            let mut moto = Process::start(Launch {
                program: &environment.join("bin/python"),
                args: vec![
                    moto_script.display().to_string(),
                    "-H".into(),
                    "127.0.0.1".into(),
                    "-p".into(),
                    moto_port.to_string(),
                ],
                // An instance makes moto look for its network, and so load every machine image of a region: seconds of CPU.
                env: env(&[("MOTO_ACCOUNT_ID", ACCOUNT), ("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")]),
                working_directory: &home,
                log: &moto_log,
                account: None,
                death_signal: "KILL",
            })?;
            await_ready(&http, &format!("{control}/_ministack/health"), "ministack", &mut ministack, &control_log)
                .await?;
            await_ready(&http, &format!("{rds_and_eks}/moto-api/data.json"), "moto", &mut moto, &moto_log).await?;
            Ok((control, rds_and_eks, [ministack, moto]))
        })
        .await?;
        let endpoints = MOTOS.map(|(name, _)| (name, rds_and_eks.clone())).into();
        Ok(Self { control, rds_and_eks, http, endpoints: Mutex::new(endpoints), _processes: processes, folder })
    }

    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Where the control plane answers.
    pub fn control_url(&self) -> &str {
        &self.control
    }

    /// Where moto answers, for RDS, EKS, EC2 and Service Quotas.
    pub fn moto_url(&self) -> &str {
        &self.rds_and_eks
    }

    /// Puts another endpoint in front of a service, from now on: a fault proxy or a layer of the lab. `service` is the
    /// suffix of the environment variable: `RDS`, `ROUTE_53`, `S3`, `SECRETS_MANAGER`, `CLOUDFRONT`, `SFN`, `SNS`,
    /// `STS`, `EVENTBRIDGE`, `CLOUDWATCH`, `EKS`.
    pub fn route(&self, service: &'static str, url: impl Into<String>) {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.retain(|(name, _)| *name != service);
        endpoints.push((service, url.into()));
    }

    /// Where clients reach a service at the moment (see [`Aws::route`]).
    pub fn endpoint(&self, service: &str) -> String {
        let endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.iter().find(|(name, _)| *name == service).map_or_else(|| self.control.clone(), |(_, url)| url.clone())
    }

    /// The environment for a child process, or for an SDK's configuration: endpoints, credentials that open nothing,
    /// and the tertiary region.
    pub fn env(&self) -> Vec<(String, String)> {
        let mut env: Vec<(String, String)> = [
            ("AWS_ENDPOINT_URL", self.control.as_str()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
            ("AWS_REGION", TERTIARY),
            ("AWS_DEFAULT_REGION", TERTIARY),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_CONFIG_FILE", "/dev/null"),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
        ]
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
        let endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        env.extend(endpoints.iter().map(|(name, url)| (format!("AWS_ENDPOINT_URL_{name}"), url.clone())));
        env
    }

    /// Sends a request as an SDK would, without a signature that anybody checks. Goes to the emulators themselves, past
    /// [`Aws::route`]: it is the lab's own hand, not a client's.
    pub async fn call(
        &self,
        service: &str,
        region: &str,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Result<Answer> {
        let base = if MOTOS.iter().any(|(_, name)| *name == service) { &self.rds_and_eks } else { &self.control };
        let mut request = self
            .http
            .request(method.clone(), format!("{base}{path}"))
            .header("authorization", authorization(service, region))
            .header("x-amz-date", "20260101T000000Z");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let failed = |e: reqwest::Error| Error::Aws {
            service: service.into(),
            operation: format!("{method} {path}"),
            said: e.to_string(),
        };
        let response = request.body(body).send().await.map_err(failed)?;
        let status = response.status();
        let etag = response.headers().get("etag").and_then(|v| v.to_str().ok()).map(|v| v.trim_matches('"').to_owned());
        let body = response.text().await.map_err(failed)?;
        Ok(Answer { status, etag, body })
    }

    /// A call of the JSON protocol (`X-Amz-Target`), for example `secretsmanager.CreateSecret`, `AmazonSQS.CreateQueue`,
    /// `AWSStepFunctions.StartExecution`, `AWSEvents.PutRule`.
    pub async fn json(&self, service: &str, region: &str, target: &str, body: Value) -> Result<Value> {
        let headers = [("content-type", "application/x-amz-json-1.0"), ("x-amz-target", target)];
        let answer = self.call(service, region, Method::POST, "/", &headers, body.to_string()).await?;
        let refused =
            |said: &str| Error::Aws { service: service.into(), operation: target.into(), said: said.to_owned() };
        if !answer.status.is_success() {
            return Err(refused(&answer.body));
        }
        if answer.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&answer.body).map_err(|_| refused(&answer.body))
    }

    /// A call of the query protocol (`Action=…`), answered in XML: RDS, SNS, STS, CloudWatch.
    pub async fn query(
        &self,
        service: &str,
        region: &str,
        action: &str,
        parameters: &[(&str, &str)],
    ) -> Result<String> {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("Action", action);
        let version = match service {
            "rds" => "2014-10-31",
            "ec2" => "2016-11-15",
            _ => "2010-03-31",
        };
        form.append_pair("Version", version);
        form.extend_pairs(parameters);
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        let answer = self.call(service, region, Method::POST, "/", &headers, form.finish()).await?;
        answer.or_refused(service, action)
    }

    /// Writes an object.
    pub async fn put_object(&self, bucket: &str, key: &str, body: impl Into<reqwest::Body>) -> Result<()> {
        self.put_object_with(bucket, key, &[], body).await
    }

    /// Writes an object with headers: how it is encrypted, locked, stored.
    pub async fn put_object_with(
        &self,
        bucket: &str,
        key: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Result<()> {
        let answer = self.call("s3", TERTIARY, Method::PUT, &format!("/{bucket}/{key}"), headers, body).await?;
        answer.or_refused("s3", "PutObject").map(drop)
    }

    /// Reads an object; `None` when there is none.
    pub async fn object(&self, bucket: &str, key: &str) -> Result<Option<String>> {
        let answer = self.call("s3", TERTIARY, Method::GET, &format!("/{bucket}/{key}"), &[], "").await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        answer.or_refused("s3", "GetObject").map(Some)
    }

    /// Removes an object; that there was none is no error.
    pub async fn delete_object(&self, bucket: &str, key: &str) -> Result<()> {
        let answer = self.call("s3", TERTIARY, Method::DELETE, &format!("/{bucket}/{key}"), &[], "").await?;
        answer.or_refused("s3", "DeleteObject").map(drop)
    }

    /// The keys in a bucket.
    pub async fn keys(&self, bucket: &str) -> Result<Vec<String>> {
        let answer = self.call("s3", TERTIARY, Method::GET, &format!("/{bucket}?list-type=2"), &[], "").await?;
        let body = answer.or_refused("s3", "ListObjectsV2")?;
        Ok(crate::xml::texts(&body, "Key"))
    }

    /// Scales the waits of the emulator's Step Functions: 0 makes them instant.
    pub async fn scale_waits(&self, factor: f64) -> Result<()> {
        let body = json!({ "stepfunctions._SFN_WAIT_SCALE": factor }).to_string();
        let headers = [("content-type", "application/json")];
        let answer = self.call("states", TERTIARY, Method::POST, "/_ministack/config", &headers, body).await?;
        answer.or_refused("states", "set the wait scale").map(drop)
    }
}

impl Answer {
    /// The body, if the service agreed.
    pub fn or_refused(self, service: &str, operation: &str) -> Result<String> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        Err(Error::Aws {
            service: service.into(),
            operation: operation.into(),
            said: format!("{} {}", self.status, self.body),
        })
    }
}

/// The access key in [`Aws::env`]; it opens nothing outside the lab.
pub const ACCESS_KEY: &str = "AKIALABLABLABLABLABL";
/// Its secret, which is none.
pub const SECRET_KEY: &str = "not-a-secret";

/// The header that tells the emulators account, region and service.
pub(crate) fn authorization(service: &str, region: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20260101/{region}/{service}/aws4_request, SignedHeaders=host, Signature=00"
    )
}

/// The region that a request is for, from its credential scope.
pub(crate) fn region_of(authorization: &str) -> Option<&str> {
    authorization.split("Credential=").nth(1)?.split('/').nth(2)
}

/// Makes the Python environment of the emulators when it is not in the cache yet (about a quarter of a minute). Blocking.
pub fn prepare() -> Result<PathBuf> {
    python::environment(&cache::folder()?, "aws", REQUIREMENTS)
}

async fn await_ready(
    http: &reqwest::Client,
    url: &str,
    name: &str,
    process: &mut Process,
    log: &std::path::Path,
) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if http.get(url).timeout(LOOK).send().await.is_ok_and(|response| response.status().is_success()) {
            return Ok(());
        }
        if !process.is_running() {
            return Err(Error::Program { program: name.into(), said: tail(log) });
        }
        if Instant::now() > deadline {
            return Err(Error::NotReady {
                server: name.into(),
                seconds: PATIENCE.as_secs(),
                log: log.into(),
                said: tail(log),
            });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
