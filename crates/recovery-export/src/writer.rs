//! Writes an export line by line: chooses, seals and counts.

use std::collections::{BTreeMap, HashSet};

use recovery::cluster_state::{EVERY_NAMESPACE, ExportError, ExportHeader, ExportSummary, Selection};
use recovery::envelope::PlainKey;
use serde_json::Value;

use crate::Line;
use crate::portable::{left_out, portable, secret_in_the_clear};
use crate::seal::{ObjectName, Seal};

/// Writes one export. Lines are given to whoever asked for them, with their line feed.
pub struct ExportWriter {
    selection: Selection,
    seal: Seal,
    line: u64,
    summary: ExportSummary,
    /// `uid`s: some resources are served by two groups, and their objects are the same.
    seen: HashSet<String>,
    /// Services whose endpoints a controller fills in.
    selecting: HashSet<(String, String)>,
}

impl ExportWriter {
    /// Begins an export with its first line.
    ///
    /// # Errors
    /// The data key is of another size.
    pub fn begin(header: ExportHeader, plain: &PlainKey) -> Result<(ExportWriter, Vec<u8>), ExportError> {
        let seal = Seal::new(plain, &header.identity, &header.cluster);
        let writer = ExportWriter {
            selection: header.selection.clone(),
            seal: seal.map_err(|why| ExportError::Damaged { line: 1, why })?,
            line: 1,
            summary: ExportSummary { server: header.server.clone(), ..ExportSummary::default() },
            seen: HashSet::new(),
            selecting: HashSet::new(),
        };
        let first = writer.bytes(&Line::Export(header))?;
        Ok((writer, first))
    }

    /// Notes what will not be listed, and why.
    pub fn not_listed(&mut self, resources: BTreeMap<String, String>) {
        self.summary.not_listed.extend(resources);
    }

    /// Notes the server's version of a list.
    pub fn listed(&mut self, resource: &str, version: &str) {
        self.summary.listed_at.insert(resource.to_owned(), version.to_owned());
    }

    /// The line of an object that the server has listed, with its `apiVersion` and `kind`; `None` if it is left out.
    ///
    /// # Errors
    /// It has no name, or cannot be sealed.
    pub fn object(&mut self, resource: &str, object: Value) -> Result<Option<Vec<u8>>, ExportError> {
        self.summary.found += 1;
        if let Some(reason) = self.reason_against(&object) {
            *self.summary.left_out.entry(reason.to_owned()).or_default() += 1;
            return Ok(None);
        }
        self.line += 1;
        let line = self.line;
        let damaged = |why| ExportError::Damaged { line, why };
        let object = portable(object);
        let of = ObjectName::of(&object).ok_or_else(|| damaged(format!("an object of `{resource}` has no name")))?;
        let suspicious = if of.kind == "Secret" { None } else { secret_in_the_clear(&object) };
        let asked = of.kind == "Secret" || names(&self.selection.seal, resource);
        self.summary.exported += 1;
        *self.summary.counts.entry(of.full_kind()).or_default() += 1;
        if let Some(place) = &suspicious {
            self.summary.suspicious.push(format!("{} at {place}", of.label()));
        }
        if !asked && suspicious.is_none() {
            return self.bytes(&Line::Object(object)).map(Some);
        }
        self.summary.sealed += 1;
        let sealed = self.seal.close(of, &object).map_err(damaged)?;
        self.bytes(&Line::Sealed(sealed)).map(Some)
    }

    /// Ends the export: what it says of itself, and its last line.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn end(self) -> Result<(ExportSummary, Vec<u8>), ExportError> {
        let last = self.bytes(&Line::End(self.summary.clone()))?;
        Ok((self.summary, last))
    }

    fn bytes(&self, line: &Line) -> Result<Vec<u8>, ExportError> {
        let mut bytes = serde_json::to_vec(line).map_err(|error| ExportError::Write(error.into()))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    fn reason_against(&mut self, object: &Value) -> Option<&'static str> {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        if !self.seen.insert(text("/metadata/uid")) {
            return Some("served by another group too");
        }
        let owner = if object["kind"] == "Namespace" { &name } else { &namespace };
        if !owner.is_empty() && !self.selects(owner) {
            return Some("of another namespace");
        }
        if object["kind"] == "Service" && object["spec"]["selector"].as_object().is_some_and(|one| !one.is_empty()) {
            self.selecting.insert((namespace.clone(), name.clone()));
        }
        if object["kind"] == "Endpoints" && self.selecting.contains(&(namespace, name)) {
            // Addresses of pods that are gone; the controller would have to take them out again.
            return Some("made by its owner");
        }
        left_out(object)
    }

    fn selects(&self, namespace: &str) -> bool {
        let named = |name: &str| self.selection.namespaces.iter().any(|one| one == name);
        named(namespace) || (named(EVERY_NAMESPACE) && !is_of_kubernetes(namespace))
    }
}

/// Whether a list of the plan names a resource, by itself or by its group (`*.group`).
pub fn names(list: &[String], resource: &str) -> bool {
    let group = resource.split_once('.').map(|(_, group)| group);
    list.iter().any(|one| one == resource || one.strip_prefix("*.").is_some_and(|named| Some(named) == group))
}

/// The namespaces of Kubernetes itself: <https://kubernetes.io/docs/concepts/overview/working-with-objects/namespaces/>
/// reserves the prefix.
pub fn is_of_kubernetes(namespace: &str) -> bool {
    namespace.starts_with("kube-")
}

#[cfg(test)]
mod tests {
    use recovery::cluster_state::{ExportIdentity, FORM};
    use recovery::envelope::{KeyContext, WrappedKey};
    use serde_json::json;

    use super::*;
    use crate::{Entry, ExportCheck, ExportReader};

    fn header() -> ExportHeader {
        ExportHeader {
            form: FORM,
            identity: ExportIdentity {
                platform: "sparc".to_owned(),
                backup: "cluster/east/20260102T030405Z".parse().unwrap(),
                began_at: "2026-01-02T03:04:05Z".parse().unwrap(),
            },
            cluster: "east".to_owned(),
            server: "v1.33.0".to_owned(),
            selection: Selection { seal: vec!["*.vault.example".to_owned()], ..Selection::default() },
            key: WrappedKey { key_arn: "arn".to_owned(), ciphertext: "x".to_owned(), context: KeyContext::new() },
        }
    }

    fn object(kind: &str, namespace: &str, name: &str, more: Value) -> Value {
        let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace, "uid": format!("{kind}{namespace}{name}")}});
        object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        object
    }

    fn export() -> (Vec<Vec<u8>>, ExportSummary) {
        let plain = PlainKey::new([7; 32]);
        let (mut writer, first) = ExportWriter::begin(header(), &plain).unwrap();
        let mut lines = vec![first];
        let selecting = json!({"spec": {"selector": {"app": "a"}}});
        for (resource, object) in [
            ("secrets", object("Secret", "sparc", "db", json!({"data": {"password": "Z2VoZWlt"}}))),
            ("services", object("Service", "sparc", "a", selecting)),
            ("services", object("Service", "sparc", "outside", json!({"spec": {}}))),
            ("endpoints", object("Endpoints", "sparc", "a", json!({}))),
            ("endpoints", object("Endpoints", "sparc", "outside", json!({}))),
            ("leaves.vault.example", object("Leaf", "sparc", "l", json!({"spec": {"held": "quiet"}}))),
            ("leaves.vault.example", object("Leaf", "sparc", "l", json!({"spec": {"held": "quiet"}}))),
            ("leaves.vault.example", object("Leaf", "kube-system", "l", json!({"spec": {"held": "quiet"}}))),
        ] {
            lines.extend(writer.object(resource, object).unwrap());
        }
        let (summary, last) = writer.end().unwrap();
        lines.push(last);
        (lines, summary)
    }

    #[test]
    fn what_is_chosen_is_counted_and_what_is_not_has_a_reason() {
        let (lines, summary) = export();
        assert_eq!((summary.found, summary.exported, summary.sealed), (8, 5, 2));
        let reasons: Vec<(&str, u64)> = summary.left_out.iter().map(|(why, count)| (why.as_str(), *count)).collect();
        assert_eq!(
            reasons,
            [("made by its owner", 1), ("of another namespace", 1), ("served by another group too", 1)]
        );
        let text = String::from_utf8(lines.concat()).unwrap();
        assert!(!text.contains("Z2VoZWlt") && !text.contains("quiet"), "{text}");
    }

    #[test]
    fn an_export_is_read_with_and_without_its_key() {
        let (lines, summary) = export();
        let read = |unlock: bool| {
            let mut reader = ExportReader::begin(&lines[0]).unwrap();
            if unlock {
                reader.unlock(&PlainKey::new([7; 32])).unwrap();
            }
            let entries: Vec<Entry> = lines[1..].iter().filter_map(|line| reader.line(line).unwrap()).collect();
            assert_eq!(reader.finish().unwrap(), summary);
            entries
        };
        let (locked, open) = (read(false), read(true));
        assert_eq!((locked.len(), open.len()), (5, 5));
        assert!(locked.iter().filter(|entry| entry.sealed).all(|entry| entry.object.is_none()));
        assert_eq!(open[0].object.as_ref().unwrap()["data"]["password"], "Z2VoZWlt");
    }

    #[test]
    fn a_check_takes_bytes_as_they_come_and_knows_where_they_end() {
        let (lines, summary) = export();
        let bytes = lines.concat();
        for size in [1, 7, 4096, bytes.len()] {
            let mut check = ExportCheck::with_key(PlainKey::new([7; 32]));
            bytes.chunks(size).for_each(|chunk| check.feed(chunk).unwrap());
            let (header, counted) = check.finish().unwrap();
            assert_eq!((header.cluster.as_str(), &counted), ("east", &summary), "in pieces of {size}");
        }
        for (cut, expected) in [
            (bytes.len() - 1, "it breaks off within a line"),
            (bytes.len() - lines.last().unwrap().len(), "it breaks off: there is no end"),
            (0, "there is nothing in it"),
        ] {
            let mut check = ExportCheck::new();
            check.feed(&bytes[..cut]).unwrap();
            let error = check.finish().unwrap_err();
            assert!(error.to_string().contains(expected), "{cut}: {error}");
        }
        let endless = vec![b'x'; 7 << 20];
        assert!(ExportCheck::new().feed(&endless).is_err(), "memory is bounded");
    }
}
