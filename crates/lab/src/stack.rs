//! `template.yaml`, deployed into the emulated AWS by `sam deploy`, with the functions' real programs.
//!
//! `sam build` would compile the programs a second time, for ten minutes and more; so what it does after that is done here:
//! each program becomes the `bootstrap` of its function, and the template points at it. Deploying is SAM's own work, against
//! an AWS that has to accept every resource.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use sha2::{Digest, Sha256};

use crate::aws::{ACCOUNT, Aws, TERTIARY};
use crate::error::{Error, Result};
use crate::{cache, python};

const SAM: &str = include_str!("../../../lab/sam-requirements.txt");
const BUILD: &str = include_str!("../../../lab/build-requirements.txt");
const CHECKOV: &str = include_str!("../../../lab/checkov-requirements.txt");
/// Where SAM puts what it deploys.
const ARTIFACTS: &str = "sparc-lab-artifacts";
/// The stack's name.
pub const NAME: &str = "sparc-recovery";

/// A template and what it deploys.
#[derive(Clone, Debug)]
pub struct Stack {
    /// The folder of `template.yaml`.
    pub repository: PathBuf,
    /// The compiled programs by the names of their functions; see [`programs`].
    pub programs: BTreeMap<String, PathBuf>,
    /// The template's parameters.
    pub parameters: BTreeMap<String, String>,
}

/// Which programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// SAM and CloudFormation's linter.
    Sam,
    /// SAM with what it compiles functions with: cargo-lambda and zig.
    Build,
    /// The scanner of policies.
    Checkov,
}

/// The Python environment with SAM and its linter, made when it is not in the cache yet (about a minute). Blocking.
///
/// # Errors
/// Python is missing or the package registry is out of reach.
pub fn environment() -> Result<PathBuf> {
    python::environment(&cache::folder()?, "sam", SAM)
}

/// A program of an environment of the lab, made when it is not in the cache yet. It gets a home of its own, so nothing of the
/// person's AWS configuration, and it tells nobody that it runs.
///
/// # Errors
/// As [`environment`].
pub async fn tool(tool: Tool, program: &str, home: &Path) -> Result<tokio::process::Command> {
    let prepared = tokio::task::spawn_blocking(move || {
        let (environment, folder) = (environment()?, cache::folder()?);
        Ok::<_, Error>(match tool {
            Tool::Sam => vec![environment],
            Tool::Build => vec![environment, python::environment(&folder, "build", BUILD)?],
            Tool::Checkov => vec![python::environment(&folder, "checkov", CHECKOV)?],
        })
    });
    let environments = prepared.await.map_err(|e| Error::State(format!("making an environment panicked: {e}")))??;
    let mut command = tokio::process::Command::new(environments[0].join("bin").join(program));
    command.env_clear();
    let mut path: Vec<PathBuf> = environments.into_iter().rev().map(|environment| environment.join("bin")).collect();
    if tool == Tool::Build {
        // Rust is the person's own, and so is where it keeps its things.
        path.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
        let of_rust = ["CARGO_HOME", "RUSTUP_HOME", "CARGO_TARGET_DIR", "CARGO_BUILD_JOBS"];
        command.envs(of_rust.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        // Both look into the home for what is not set.
        command.env("HOME", std::env::var_os("HOME").unwrap_or_else(|| home.into()));
    } else {
        command.env("HOME", home);
        path.extend(["/usr/local/bin", "/usr/bin", "/bin"].map(PathBuf::from));
    }
    let path = std::env::join_paths(path).map_err(|error| Error::State(format!("PATH cannot be made: {error}")))?;
    command
        .env("PATH", path)
        .env("LANG", "C.UTF-8")
        .env("SAM_CLI_TELEMETRY", "0")
        .env("AWS_DEFAULT_REGION", TERTIARY)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    Ok(command)
}

/// The workspace's programs as the tests' own build makes them, by name. Up to date when this returns: cargo is asked, which
/// is done in a second when nothing has changed. Blocking.
///
/// # Errors
/// They do not compile.
pub fn programs(repository: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // With `--tests`, because features of test dependencies would otherwise make another set of builds.
    let arguments = ["build", "--workspace", "--locked", "--bins", "--tests", "--message-format=json", "--quiet"];
    let built = std::process::Command::new(cargo)
        .args(arguments)
        .current_dir(repository)
        .stdin(Stdio::null())
        .output()
        .map_err(Error::system("start cargo"))?;
    if !built.status.success() {
        let said = String::from_utf8_lossy(&built.stderr);
        let said = said.lines().filter(|line| line.starts_with("error")).collect::<Vec<_>>().join(" | ");
        return Err(Error::Program { program: "cargo build --workspace --bins --tests".into(), said });
    }
    let messages = String::from_utf8_lossy(&built.stdout);
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let program = |message: serde_json::Value| {
        let is_program = message["target"]["kind"][0] == "bin" && message["profile"]["test"] == false;
        let name = message["target"]["name"].as_str()?.to_owned();
        is_program.then(|| Some((name, PathBuf::from(message["executable"].as_str()?)))).flatten()
    };
    Ok(messages.filter_map(program).collect())
}

impl Stack {
    /// Lays out what `sam build` would: a folder for each function, and a template that names them.
    fn lay_out(&self, folder: &Path) -> Result<PathBuf> {
        let source = self.repository.join("template.yaml");
        let text = std::fs::read_to_string(&source).map_err(Error::system(format!("read {}", source.display())))?;
        let repository = self.repository.display();
        let (mut resource, mut program) = (String::new(), None);
        let mut built = String::with_capacity(text.len());
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("  ").and_then(|rest| rest.strip_suffix(':'))
                && !name.starts_with(' ')
            {
                resource = name.to_owned();
            }
            if let Some(name) = line.trim().strip_prefix("Binary: ") {
                program = Some(name.to_owned());
            }
            match (line.trim(), program.take_if(|_| line.trim() == "CodeUri: .")) {
                (_, Some(program)) => {
                    let place = folder.join(&resource);
                    let compiled = self.programs.get(&program);
                    let missing = || Error::State(format!("`{resource}` runs `{program}`, which nobody compiled"));
                    pack(compiled.ok_or_else(missing)?, &place)?;
                    built.push_str(&format!("      CodeUri: {}", place.display()));
                }
                (trimmed, None) => match trimmed.split_once(": ") {
                    Some((key @ ("DefinitionUri" | "ContentUri"), path)) => {
                        built.push_str(&format!("      {key}: {repository}/{path}"));
                    }
                    _ => built.push_str(line),
                },
            }
            built.push('\n');
        }
        let template = folder.join("template.yaml");
        std::fs::write(&template, built).map_err(Error::system(format!("write {}", template.display())))?;
        Ok(template)
    }

    /// Access keys and secrets of the functions' sessions under these roles (ARNs with commas between), as ministack makes them
    /// from the ARNs of both. Which function a role belongs to is for ministack to say: a pair that it never makes is nobody's.
    pub(crate) fn sessions(&self, roles: &str) -> Vec<(String, String)> {
        let hex = |text: String| -> String { Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect() };
        let platform = self.parameters.get("Platform").map_or("sparc", String::as_str);
        let mut sessions = Vec::new();
        for role in roles.split(',') {
            for function in self.programs.keys() {
                let arn = format!("arn:aws:lambda:{TERTIARY}:{ACCOUNT}:function:{platform}-{function}");
                let digest = hex(format!("{arn}:{role}"));
                sessions.push((format!("ASIA{}", digest[..16].to_uppercase()), hex(format!("secret:{digest}"))));
            }
        }
        sessions
    }
}

/// A program as a function's package: without symbols, as a release has none, or nine of them fill a gigabyte.
fn pack(program: &Path, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::system(format!("make {}", folder.display())))?;
    let bootstrap = folder.join("bootstrap");
    let stripped =
        std::process::Command::new("strip").arg("-o").arg(&bootstrap).arg(program).output().map_err(|_| {
            Error::Missing {
                program: "strip".into(),
                purpose: "functions are deployed without symbols".into(),
                install: "install it with `apt-get install binutils`".into(),
            }
        })?;
    if !stripped.status.success() {
        let said = String::from_utf8_lossy(&stripped.stderr).trim().to_owned();
        return Err(Error::Program { program: format!("strip {}", program.display()), said });
    }
    std::fs::set_permissions(&bootstrap, std::fs::Permissions::from_mode(0o755))
        .map_err(Error::system(format!("make {} a program", bootstrap.display())))
}

impl Aws {
    /// Deploys a stack in the tertiary region; returns its outputs.
    ///
    /// # Errors
    /// SAM or the emulated AWS refuses the template; the error ends with what SAM said.
    pub async fn deploy(&self, stack: &Stack, folder: &Path) -> Result<BTreeMap<String, String>> {
        let laid_out = (stack.clone(), folder.to_owned());
        let template = tokio::task::spawn_blocking(move || laid_out.0.lay_out(&laid_out.1))
            .await
            .map_err(|error| Error::State(format!("laying out the stack panicked: {error}")))??;
        self.make_bucket(ARTIFACTS, TERTIARY).await?;
        let mut deploy = tool(Tool::Sam, "sam", folder).await?;
        deploy
            .envs(self.env())
            .args(["deploy", "--no-confirm-changeset", "--no-progressbar", "--capabilities", "CAPABILITY_NAMED_IAM"])
            .args(["--region", TERTIARY, "--stack-name", NAME, "--s3-bucket", ARTIFACTS, "--template-file"])
            .arg(template)
            .arg("--parameter-overrides")
            .args(stack.parameters.iter().map(|(name, value)| format!("{name}={value}")));
        let done = deploy.output().await.map_err(Error::system("start sam"))?;
        if !done.status.success() {
            let said = [&*String::from_utf8_lossy(&done.stdout), &*String::from_utf8_lossy(&done.stderr)].concat();
            let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
            let said = lines[lines.len().saturating_sub(40)..].join("\n");
            return Err(Error::Program { program: "sam deploy".into(), said });
        }
        self.outputs(NAME).await
    }

    /// The outputs of a stack in the tertiary region.
    ///
    /// # Errors
    /// There is no such stack.
    pub async fn outputs(&self, name: &str) -> Result<BTreeMap<String, String>> {
        let described = self.query("cloudformation", TERTIARY, "DescribeStacks", &[("StackName", name)]).await?;
        let keys = crate::xml::texts(&described, "OutputKey");
        Ok(keys.into_iter().zip(crate::xml::texts(&described, "OutputValue")).collect())
    }
}
