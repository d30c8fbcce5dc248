//! The suite's templates, deployed into the emulated AWS by `sam deploy`, with the functions' real programs.
//!
//! Two ways lead to `template.yaml`'s programs. [`built`] is `sam build` itself: what an operator deploys, and many minutes of
//! compiling a release. [`programs`] takes what the tests' own build has made, and [`Aws::deploy`] then does the rest of
//! `sam build`'s work: each program becomes the `bootstrap` of its function, layers are made by their Makefiles, and the
//! template points at both. Deploying is SAM's own work either way, against an AWS that has to accept every resource.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use sha2::{Digest, Sha256};

use crate::aws::{ACCOUNT, Aws, TERTIARY};
use crate::error::{Error, Result};
use crate::folder::Folder;
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
    /// The folder of `template.yaml` and its companions.
    pub repository: PathBuf,
    /// The compiled programs by the names of their functions; see [`programs`] and [`built`].
    pub programs: BTreeMap<String, PathBuf>,
    /// The template that `sam build` wrote, whose programs these are; without it they are laid out as `sam build` does.
    pub template: Option<PathBuf>,
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
        let of_rust = ["CARGO_HOME", "RUSTUP_HOME", "CARGO_BUILD_JOBS"];
        command.envs(of_rust.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        // One folder for all functions and all checkouts: another linker than the tests' own builds use fills it.
        command.env("CARGO_TARGET_DIR", cache::folder()?.join("sam-target"));
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
    // With `--tests`, because features of test dependencies would otherwise make another set of builds.
    build(repository, &["--bins", "--tests"])
}

/// One of them, for the test binary `test`: nothing is built beside it that was not built for that test. Blocking.
///
/// # Errors
/// It does not compile, or there is no such program.
pub fn program(repository: &Path, name: &str, test: &str) -> Result<PathBuf> {
    let built = build(repository, &["--bin", name, "--test", test])?.remove(name);
    built.ok_or_else(|| Error::State(format!("cargo has built no program `{name}`")))
}

fn build(repository: &Path, what: &[&str]) -> Result<BTreeMap<String, PathBuf>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = std::process::Command::new(cargo)
        .args(["build", "--workspace", "--locked", "--message-format=json", "--quiet"])
        .args(what)
        .current_dir(repository)
        .stdin(Stdio::null())
        .output()
        .map_err(Error::system("start cargo"))?;
    if !built.status.success() {
        let said = String::from_utf8_lossy(&built.stderr);
        let said = said.lines().filter(|line| line.starts_with("error")).collect::<Vec<_>>().join(" | ");
        return Err(Error::Program { program: format!("cargo build --workspace {}", what.join(" ")), said });
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

/// What `sam build` made. Whoever builds next replaces it, and waits until this is dropped.
#[derive(Debug)]
pub struct Built {
    /// The template that names the programs.
    pub template: PathBuf,
    /// The programs as an operator deploys them, by the names of their functions.
    pub programs: BTreeMap<String, PathBuf>,
    _lock: File,
}

/// Runs `sam build`. Minutes when the release is not compiled yet, seconds after that. One at a time.
///
/// # Errors
/// SAM, cargo-lambda or zig cannot be had, or the release does not compile; the error ends with what SAM said.
pub async fn built(repository: &Path) -> Result<Built> {
    let lock = cache::folder()?.join("sam-build.lock");
    let held = tokio::task::spawn_blocking(move || {
        let file = File::create(&lock).map_err(Error::system(format!("make {}", lock.display())))?;
        file.lock().map_err(Error::system(format!("lock {}", lock.display())))?;
        Ok::<_, Error>(file)
    });
    let lock = held.await.map_err(|error| Error::State(format!("waiting for the build panicked: {error}")))??;
    let home = Folder::on_disk()?;
    let mut build = tool(Tool::Build, "sam", home.path()).await?;
    run(build.arg("build").current_dir(repository), "sam build").await?;
    let folder = repository.join(".aws-sam/build");
    let source = repository.join("template.yaml");
    let text = std::fs::read_to_string(&source).map_err(Error::system(format!("read {}", source.display())))?;
    let programs = binaries(&text).map(|(resource, function)| (function, folder.join(resource).join("bootstrap")));
    Ok(Built { template: folder.join("template.yaml"), programs: programs.collect(), _lock: lock })
}

/// The functions of a template: the name of the resource, and of the program that it runs.
fn binaries(template: &str) -> impl Iterator<Item = (String, String)> {
    let mut resource = String::new();
    template.lines().filter_map(move |line| {
        if let Some(name) = resource_of(line) {
            resource = name.to_owned();
        }
        Some((resource.clone(), line.trim().strip_prefix("Binary: ")?.to_owned()))
    })
}

/// The resource, parameter or output that begins in this line.
fn resource_of(line: &str) -> Option<&str> {
    let name = line.strip_prefix("  ")?.strip_suffix(':')?;
    (!name.starts_with(' ')).then_some(name)
}

/// A layer as `sam build` makes it by the Makefile in its folder; once for each version of what is in that folder. Blocking.
///
/// # Errors
/// The Makefile fails, or what it needs is out of reach.
pub fn layer(folder: &Path, resource: &str) -> Result<PathBuf> {
    let listed = std::fs::read_dir(folder).map_err(Error::system(format!("read {}", folder.display())))?;
    let mut files: Vec<PathBuf> = listed.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    let mut digest = Sha256::new();
    for file in files {
        digest.update(std::fs::read(&file).map_err(Error::system(format!("read {}", file.display())))?);
    }
    let digest: String = digest.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    cache::once(&cache::folder()?, &format!("layer-{resource}-{digest}"), |layer| {
        std::fs::create_dir_all(layer).map_err(Error::system(format!("make {}", layer.display())))?;
        // The machine's own Python may lack pip, an environment's does not.
        let mut path = vec![environment()?.join("bin")];
        path.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
        let path = std::env::join_paths(path).map_err(|error| Error::State(format!("PATH cannot be made: {error}")))?;
        let mut make = std::process::Command::new("make");
        make.env("PATH", path);
        make.arg("-C").arg(folder).arg(format!("build-{resource}")).env("ARTIFACTS_DIR", layer).stdin(Stdio::null());
        let made = make.output().map_err(Error::system("start make"))?;
        if made.status.success() {
            return Ok(());
        }
        let said = [&*String::from_utf8_lossy(&made.stdout), &*String::from_utf8_lossy(&made.stderr)].concat();
        Err(Error::Program { program: format!("make -C {} build-{resource}", folder.display()), said })
    })
}

impl Stack {
    /// Lays out what `sam build` would: a folder for each function, and a template that names them.
    fn lay_out(&self, folder: &Path) -> Result<PathBuf> {
        let source = self.repository.join("template.yaml");
        let text = std::fs::read_to_string(&source).map_err(Error::system(format!("read {}", source.display())))?;
        let (mut resource, mut program) = (String::new(), None);
        let mut built = String::with_capacity(text.len());
        for line in text.lines() {
            if let Some(name) = resource_of(line) {
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
                        let source = self.repository.join(path);
                        let made = source.join("Makefile").is_file().then(|| layer(&source, &resource)).transpose()?;
                        built.push_str(&format!("      {key}: {}", made.unwrap_or(source).display()));
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

/// Runs a program of SAM's to its end.
async fn run(command: &mut tokio::process::Command, name: &str) -> Result<()> {
    let done = command.output().await.map_err(Error::system(format!("start {name}")))?;
    if done.status.success() {
        return Ok(());
    }
    let said = [&*String::from_utf8_lossy(&done.stdout), &*String::from_utf8_lossy(&done.stderr)].concat();
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    let said = lines[lines.len().saturating_sub(40)..].join("\n");
    Err(Error::Program { program: name.to_owned(), said })
}

/// A template that is deployed as it is.
#[derive(Clone, Copy, Debug)]
pub struct Companion<'a> {
    /// The file.
    pub template: &'a Path,
    /// The stack's name.
    pub name: &'a str,
    /// Where it belongs.
    pub region: &'a str,
    /// The template's parameters.
    pub parameters: &'a BTreeMap<String, String>,
}

impl Aws {
    /// Deploys the suite in the tertiary region; returns its outputs. `folder` takes what SAM needs, and is SAM's home.
    ///
    /// # Errors
    /// SAM or the emulated AWS refuses the template; the error ends with what SAM said.
    pub async fn deploy(&self, stack: &Stack, folder: &Path) -> Result<BTreeMap<String, String>> {
        let template = match &stack.template {
            Some(built) => built.clone(),
            None => {
                let laid_out = (stack.clone(), folder.to_owned());
                tokio::task::spawn_blocking(move || laid_out.0.lay_out(&laid_out.1))
                    .await
                    .map_err(|error| Error::State(format!("laying out the stack panicked: {error}")))??
            }
        };
        let whole = Companion { template: &template, name: NAME, region: TERTIARY, parameters: &stack.parameters };
        self.deploy_companion(&whole, folder).await
    }

    /// Deploys a template as it is; returns its outputs. `home` is SAM's.
    ///
    /// # Errors
    /// As [`Aws::deploy`].
    pub async fn deploy_companion(&self, stack: &Companion<'_>, home: &Path) -> Result<BTreeMap<String, String>> {
        self.make_bucket(ARTIFACTS, TERTIARY).await?;
        // Not the repository's own, which is for people: SAM finds it beside the template.
        let settings = home.join("samconfig.toml");
        std::fs::write(&settings, "version = 0.1\n").map_err(Error::system(format!("write {}", settings.display())))?;
        let mut deploy = tool(Tool::Sam, "sam", home).await?;
        deploy
            .envs(self.env())
            .args(["deploy", "--no-confirm-changeset", "--no-progressbar", "--capabilities", "CAPABILITY_NAMED_IAM"])
            .arg("--config-file")
            .arg(&settings)
            .args(["--region", stack.region, "--stack-name", stack.name, "--s3-bucket", ARTIFACTS, "--template-file"])
            .arg(stack.template)
            .arg("--parameter-overrides")
            .args(stack.parameters.iter().map(|(name, value)| format!("{name}={value}")));
        run(&mut deploy, "sam deploy").await?;
        self.outputs(stack.name, stack.region).await
    }

    /// The outputs of a stack.
    ///
    /// # Errors
    /// There is no such stack.
    pub async fn outputs(&self, name: &str, region: &str) -> Result<BTreeMap<String, String>> {
        let described = self.query("cloudformation", region, "DescribeStacks", &[("StackName", name)]).await?;
        let keys = crate::xml::texts(&described, "OutputKey");
        Ok(keys.into_iter().zip(crate::xml::texts(&described, "OutputValue")).collect())
    }
}
