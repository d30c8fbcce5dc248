//! A function's binary as Lambda runs it: under the AWS Lambda Runtime Interface Emulator.
//!
//! The emulator is a binary inside the `aws-sam-cli` wheel. It answers an error of the function with status 200 and a body
//! that has `errorType`, like Lambda's own API; a second invocation at the same time ends it, so one is made after the other.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::Uid;
use serde_json::{Value, json};

use crate::error::{Error, Result, tail};
use crate::folder::Folder;
use crate::process::{Launch, Process};
use crate::{ports, stack};

const EMULATOR: &str = "the Lambda emulator";
/// Longest wait for an answer, the function's init included.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a function's process finds programs and libraries, those of layers last.
/// <https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html>
const SEARCHED: [(&str, &str); 2] = [
    ("PATH", "/usr/local/bin:/usr/bin/:/bin:/opt/bin"),
    ("LD_LIBRARY_PATH", "/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib"),
];

/// A function's process behind Lambda's runtime interface.
#[derive(Debug)]
pub struct Function {
    url: String,
    http: reqwest::Client,
    log: PathBuf,
    _process: Process,
    _folder: Arc<Folder>,
}

impl Function {
    /// Starts the emulator for a binary. The function itself starts with the first invocation.
    ///
    /// # Errors
    /// The emulator cannot be had or does not listen.
    pub async fn start(binary: &Path, env: Vec<(String, String)>) -> Result<Function> {
        Function::start_with(binary, None, env).await
    }

    /// The same with a layer at `/opt`, which only the function sees, and with Lambda's `PATH` and `LD_LIBRARY_PATH`.
    ///
    /// # Errors
    /// As [`Function::start`]; or the kernel lets nobody mount here.
    pub async fn start_with_layer(binary: &Path, layer: &Path, mut env: Vec<(String, String)>) -> Result<Function> {
        env.extend(SEARCHED.map(|(name, value)| (name.to_owned(), value.to_owned())));
        Function::start_with(binary, Some(layer), env).await
    }

    async fn start_with(binary: &Path, layer: Option<&Path>, env: Vec<(String, String)>) -> Result<Function> {
        let emulator = emulator()?;
        let folder = Arc::new(Folder::on_disk()?);
        let log = folder.path().join("lambda.log");
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build();
        let http = http.map_err(|error| Error::State(format!("no HTTP client: {error}")))?;
        ports::anew(|| async {
            let (address, api) = (ports::free()?, ports::free()?);
            // Both addresses: the default is every interface.
            let mut args = vec![
                "--runtime-interface-emulator-address".to_owned(),
                format!("127.0.0.1:{address}"),
                "--runtime-api-address".to_owned(),
                format!("127.0.0.1:{api}"),
                binary.display().to_string(),
            ];
            let mut program = emulator.as_path();
            if let Some(layer) = layer {
                let before = mounting(layer).into_iter().chain([emulator.display().to_string()]);
                args.splice(0..0, before);
                program = Path::new("unshare");
            }
            let mut process = Process::start(Launch {
                program,
                args,
                env: env.clone(),
                working_directory: folder.path(),
                log: &log,
                account: None,
                death_signal: "KILL",
            })?;
            let asked = Instant::now();
            while tokio::net::TcpStream::connect(("127.0.0.1", address)).await.is_err() {
                if !process.is_running() {
                    return Err(Error::Program { program: EMULATOR.to_owned(), said: tail(&log) });
                }
                if asked.elapsed() > PATIENCE {
                    return Err(not_ready(&log));
                }
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            let url = format!("http://127.0.0.1:{address}/2015-03-31/functions/function/invocations");
            let (http, log, folder) = (http.clone(), log.clone(), folder.clone());
            Ok(Function { url, http, log, _process: process, _folder: folder })
        })
        .await
    }

    /// One invocation: the function's result, or its error as `{"errorType": …, "errorMessage": …}`.
    ///
    /// # Errors
    /// The emulator does not answer.
    pub async fn invoke(&self, payload: &Value) -> Result<Value> {
        let sent = self.http.post(&self.url).body(payload.to_string()).send().await;
        let answer = match sent {
            Ok(answer) => answer.bytes().await,
            Err(error) => Err(error),
        };
        let body = answer.map_err(|_| not_ready(&self.log))?;
        if body.starts_with(b"Task timed out after ") {
            // The emulator says it in words; Lambda tells Step Functions so.
            let message = String::from_utf8_lossy(&body).into_owned();
            return Ok(json!({ "errorType": "Sandbox.Timedout", "errorMessage": message }));
        }
        serde_json::from_slice(&body).map_err(|_| {
            let said = String::from_utf8_lossy(&body).into_owned();
            Error::Program { program: EMULATOR.to_owned(), said }
        })
    }

    /// What the function has logged.
    pub fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// Arguments of `unshare` (util-linux) that put a layer to `/opt` for the program that follows and for nobody else.
fn mounting(layer: &Path) -> Vec<String> {
    let mut arguments = vec!["--mount".to_owned()];
    if !Uid::effective().is_root() {
        arguments.push("--map-root-user".to_owned());
    }
    let mount = "mount --bind \"$0\" /opt && exec \"$@\"";
    arguments.extend(["--".to_owned(), "sh".to_owned(), "-c".to_owned(), mount.to_owned()]);
    arguments.push(layer.display().to_string());
    arguments
}

fn not_ready(log: &Path) -> Error {
    Error::NotReady { server: EMULATOR.to_owned(), seconds: PATIENCE.as_secs(), log: log.to_owned(), said: tail(log) }
}

fn emulator() -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let environment = stack::environment()?;
    let libraries = std::fs::read_dir(environment.join("lib")).into_iter().flatten().flatten();
    let name = format!("site-packages/samcli/local/rapid/aws-lambda-rie-{}", std::env::consts::ARCH);
    let found = libraries.map(|python| python.path().join(&name)).find(|path| path.is_file());
    let emulator = found
        .ok_or_else(|| Error::State(format!("the wheel has no Lambda emulator for {}", std::env::consts::ARCH)))?;
    // A wheel carries it as data, not as a program.
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&emulator, executable)
        .map_err(Error::system(format!("make {} a program", emulator.display())))?;
    Ok(emulator)
}
