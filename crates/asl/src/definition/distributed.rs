//! The fields of a Map that only mean something when it is distributed: where its items come from, how they are put into
//! batches, and where its results go.

use std::sync::Arc;

use super::{Compiler, Resource, Scene, join};
use crate::jsonata;
use crate::problem::Severity;
use crate::source::{Kind, Node};
use crate::template::{Amount, Query, Template};

/// The longest `Label`.
const MAX_LABEL: usize = 40;
/// The most items `MaxItems` may ask for.
const MAX_ITEMS: u64 = 100_000_000;
/// The most bytes of a batch.
const MAX_BATCH_BYTES: u64 = 262_144;

/// What a distributed Map has that an inline one has not.
#[derive(Debug)]
pub(crate) struct Distribution {
    pub(crate) label: Option<Arc<str>>,
    pub(crate) reader: Option<Reader>,
    pub(crate) batcher: Option<Batcher>,
    pub(crate) writer: Option<Writer>,
}

/// `ItemReader`
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) resource: Resource,
    /// `Arguments` or `Parameters`.
    pub(crate) field: &'static str,
    pub(crate) arguments: Option<Template>,
    pub(crate) format: Format,
    pub(crate) max_items: Option<Amount>,
}

/// What a reader finds.
#[derive(Debug)]
pub(crate) enum Format {
    /// `s3:listObjectsV2`
    Listing,
    Csv {
        delimiter: char,
        headers: Headers,
    },
    Json {
        /// `ItemsPointer`
        pointer: Option<String>,
    },
    JsonLines,
    /// Formats that only Step Functions reads.
    Elsewhere(&'static str),
}

/// Where the names of a table's columns are.
#[derive(Debug)]
pub(crate) enum Headers {
    FirstRow,
    Given(Vec<String>),
}

/// `ItemBatcher`
#[derive(Debug)]
pub(crate) struct Batcher {
    pub(crate) max_items: Option<Amount>,
    pub(crate) max_bytes: Option<Amount>,
    pub(crate) input: Option<Template>,
}

/// `ResultWriter`
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) export: Option<Export>,
    pub(crate) transformation: Transformation,
    /// `OutputType` is `JSONL`.
    pub(crate) lines: bool,
}

/// Where results are written.
#[derive(Debug)]
pub(crate) struct Export {
    pub(crate) resource: Resource,
    /// `Arguments` or `Parameters`.
    pub(crate) field: &'static str,
    pub(crate) arguments: Option<Template>,
}

/// What is made of results before they are shown or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transformation {
    /// Outputs with what is known of each execution.
    None,
    Compact,
    Flatten,
}

/// `ToleratedFailurePercentage`
#[derive(Debug)]
pub(crate) enum Percentage {
    Fixed(f64),
    Query(Query),
}

impl Writer {
    /// Whether it takes more than the outputs of the child executions.
    pub(crate) fn keeps_records(&self) -> bool {
        self.export.is_some() || self.transformation == Transformation::None
    }
}

impl Compiler {
    pub(super) fn distribution(&mut self, scene: &Scene<'_>) -> Distribution {
        Distribution {
            label: self.label(scene),
            reader: self.reader(scene),
            batcher: self.batcher(scene),
            writer: self.writer(scene),
        }
    }

    fn label(&mut self, scene: &Scene<'_>) -> Option<Arc<str>> {
        let label = self.text(scene.node, &scene.path, "Label")?;
        let refused =
            |letter: char| letter.is_whitespace() || letter.is_control() || "?*<>{}[]:;,\\|^~$#%&`\"".contains(letter);
        if label.is_empty() || label.chars().count() > MAX_LABEL || label.chars().any(refused) {
            let place = scene.node.get("Label").map_or(scene.node.place, |label| label.place);
            let message = format!(
                "`Label` has 1 to {MAX_LABEL} characters, no space and none of `? * < > {{ }} [ ] : ; , \\ | ^ ~ $ # % & \"`: it becomes part of an ARN"
            );
            self.error("bad-name", place, join(&scene.path, "Label"), message);
            return None;
        }
        Some(label.as_str().into())
    }

    /// An object among the fields of a Map, and the scene in which its own fields are read.
    fn part<'a>(&mut self, scene: &Scene<'a>, field: &str, known: &[&str]) -> Option<Scene<'a>> {
        let node: &'a Node = scene.node.get(field)?;
        let path = join(&scene.path, field);
        let Some(members) = node.as_object() else {
            self.error("bad-type", node.place, path, format!("`{field}` is an object, this is {}", node.kind_name()));
            return None;
        };
        self.known_fields(members, &path, &format!("`{field}`"), known);
        Some(Scene { node, path, language: scene.language, siblings: scene.siblings })
    }

    /// One of a few words.
    fn word(&mut self, scene: &Scene<'_>, field: &str, words: &[&'static str]) -> Option<&'static str> {
        let value = scene.node.get(field)?;
        let word = value.as_str().and_then(|text| words.iter().find(|word| **word == text));
        if word.is_none() {
            let message = format!("`{field}` is one of {}", words.join(", "));
            self.error("bad-value", value.place, join(&scene.path, field), message);
        }
        word.copied()
    }

    fn storage_call(&mut self, scene: &Scene<'_>, actions: &[&str]) -> Option<(Resource, &'static str)> {
        let known = |text: &str| {
            Resource::parse(text).filter(|_| actions.iter().any(|action| text.ends_with(&format!(":s3:{action}"))))
        };
        let wanted: Vec<String> = actions.iter().map(|action| format!("`arn:aws:states:::s3:{action}`")).collect();
        let wanted = wanted.join(" or ");
        let Some(value) = scene.node.get("Resource") else {
            self.error(
                "missing-field",
                scene.node.place,
                &scene.path,
                format!("`Resource` is missing: it is {wanted}"),
            );
            return None;
        };
        let Some(resource) = value.as_str().and_then(known) else {
            self.error("bad-resource", value.place, join(&scene.path, "Resource"), format!("`Resource` is {wanted}"));
            return None;
        };
        Some((resource, scene.arguments_field()))
    }

    fn reader(&mut self, scene: &Scene<'_>) -> Option<Reader> {
        let field = scene.arguments_field();
        let scene = self.part(scene, "ItemReader", &["Resource", "ReaderConfig", field])?;
        let (resource, field) = self.storage_call(&scene, &["getObject", "listObjectsV2"])?;
        let config = self.part(
            &scene,
            "ReaderConfig",
            &[
                "InputType",
                "Transformation",
                "CSVDelimiter",
                "CSVHeaderLocation",
                "CSVHeaders",
                "ItemsPointer",
                "ManifestType",
                "MaxItems",
                "MaxItemsPath",
            ],
        );
        let arguments = self.template(&scene, field);
        let max_items =
            config.as_ref().and_then(|config| self.amount_path(config, "MaxItems", "MaxItemsPath", 0, MAX_ITEMS));
        let format = if resource.arn.ends_with(":listObjectsV2") {
            Format::Listing
        } else {
            let Some(config) = config else {
                let message = "`ReaderConfig` is missing: say with `InputType` what the object holds";
                self.error("missing-field", scene.node.place, &scene.path, message);
                return None;
            };
            self.format(&config)?
        };
        Some(Reader { resource, field, arguments, format, max_items })
    }

    fn format(&mut self, config: &Scene<'_>) -> Option<Format> {
        if config.node.get("InputType").is_none() {
            let message = "`InputType` is missing: it is CSV, JSON, JSONL, PARQUET or MANIFEST";
            self.error("missing-field", config.node.place, &config.path, message);
        }
        let input = self.word(config, "InputType", &["CSV", "JSON", "JSONL", "PARQUET", "MANIFEST"])?;
        let delimiter = self.word(config, "CSVDelimiter", &["COMMA", "PIPE", "SEMICOLON", "SPACE", "TAB"]);
        let location = self.word(config, "CSVHeaderLocation", &["FIRST_ROW", "GIVEN"]);
        Some(match input {
            "CSV" => {
                let delimiter = match delimiter {
                    Some("PIPE") => '|',
                    Some("SEMICOLON") => ';',
                    Some("SPACE") => ' ',
                    Some("TAB") => '\t',
                    _ => ',',
                };
                let headers = match location {
                    Some("GIVEN") => Headers::Given(self.headers(config)?),
                    Some(_) => Headers::FirstRow,
                    None => {
                        let message = "`CSVHeaderLocation` is missing: it is FIRST_ROW, or GIVEN with `CSVHeaders`";
                        self.error("missing-field", config.node.place, &config.path, message);
                        return None;
                    }
                };
                Format::Csv { delimiter, headers }
            }
            "JSON" => Format::Json { pointer: self.text(config.node, &config.path, "ItemsPointer") },
            "JSONL" => Format::JsonLines,
            other => Format::Elsewhere(other),
        })
    }

    fn headers(&mut self, config: &Scene<'_>) -> Option<Vec<String>> {
        let names = match config.node.get("CSVHeaders").map(|value| &value.kind) {
            Some(Kind::Array(names)) => {
                names.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
            }
            _ => None,
        };
        if names.is_none() {
            let place = config.node.get("CSVHeaders").map_or(config.node.place, |headers| headers.place);
            let message = "`CSVHeaders` is a list of the columns' names, as `CSVHeaderLocation` GIVEN wants it";
            self.error("bad-value", place, join(&config.path, "CSVHeaders"), message);
        }
        names
    }

    fn batcher(&mut self, scene: &Scene<'_>) -> Option<Batcher> {
        let limits = ["MaxItemsPerBatch", "MaxItemsPerBatchPath", "MaxInputBytesPerBatch", "MaxInputBytesPerBatchPath"];
        let known: Vec<&str> = limits.iter().copied().chain(["BatchInput"]).collect();
        let scene = self.part(scene, "ItemBatcher", &known)?;
        if limits.iter().all(|limit| scene.node.get(limit).is_none()) {
            let message = "`ItemBatcher` needs a limit: `MaxItemsPerBatch` or `MaxInputBytesPerBatch`";
            self.error("missing-field", scene.node.place, &scene.path, message);
        }
        let max_items = self.amount_path(&scene, "MaxItemsPerBatch", "MaxItemsPerBatchPath", 1, MAX_ITEMS);
        let max_bytes =
            self.amount_path(&scene, "MaxInputBytesPerBatch", "MaxInputBytesPerBatchPath", 1, MAX_BATCH_BYTES);
        let input = self.template(&scene, "BatchInput");
        Some(Batcher { max_items, max_bytes, input })
    }

    fn writer(&mut self, scene: &Scene<'_>) -> Option<Writer> {
        let field = scene.arguments_field();
        let scene = self.part(scene, "ResultWriter", &["Resource", "WriterConfig", field])?;
        let config = self.part(&scene, "WriterConfig", &["Transformation", "OutputType"]);
        let exports = scene.node.get("Resource").is_some() || scene.node.get(field).is_some();
        if !exports && config.is_none() {
            let message =
                format!("`ResultWriter` is empty: give it `Resource` and `{field}`, `WriterConfig`, or all three");
            self.error("missing-field", scene.node.place, &scene.path, message);
        }
        let export = match exports.then(|| self.storage_call(&scene, &["putObject"])) {
            None => None,
            Some(call) => {
                let arguments = self.template(&scene, field);
                let (resource, field) = call?;
                Some(Export { resource, field, arguments })
            }
        };
        let word = |compiler: &mut Compiler, field: &str, words: &[&'static str]| {
            config.as_ref().and_then(|config| compiler.word(config, field, words))
        };
        let transformation = match word(self, "Transformation", &["NONE", "COMPACT", "FLATTEN"]) {
            Some("COMPACT") => Transformation::Compact,
            Some("FLATTEN") => Transformation::Flatten,
            _ => Transformation::None,
        };
        let lines = word(self, "OutputType", &["JSON", "JSONL"]) == Some("JSONL");
        Some(Writer { export, transformation, lines })
    }

    pub(super) fn percentage(&mut self, scene: &Scene<'_>) -> Option<Percentage> {
        const FIELD: &str = "ToleratedFailurePercentage";
        const PATH_FIELD: &str = "ToleratedFailurePercentagePath";
        if let Some(value) = scene.node.get(PATH_FIELD).filter(|_| !scene.is_jsonata()) {
            if scene.node.get(FIELD).is_some() {
                let message = format!("`{FIELD}` and `{PATH_FIELD}` exclude each other: keep one");
                self.error("conflict", value.place, join(&scene.path, PATH_FIELD), message);
            }
            return self
                .path_query(value, &join(&scene.path, PATH_FIELD), PATH_FIELD, false)
                .map(|query| Percentage::Query(Query::Path(query)));
        }
        let value = scene.node.get(FIELD)?;
        match &value.kind {
            Kind::Number(number) if number.as_f64().is_some_and(|number| (0.0..=100.0).contains(&number)) => {
                number.as_f64().map(Percentage::Fixed)
            }
            Kind::String(text) if scene.is_jsonata() && jsonata::delimited(text).is_some() => self
                .jsonata_text(text, value.place, &join(&scene.path, FIELD))
                .map(|expression| Percentage::Query(Query::Jsonata(expression))),
            _ => {
                let message = format!("`{FIELD}` is a number from 0 to 100");
                self.report(Severity::Error, "bad-value", value.place, join(&scene.path, FIELD), message);
                None
            }
        }
    }
}
