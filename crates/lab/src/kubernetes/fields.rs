//! Who owns which field: server-side apply and field managers, as far as the small API has them.
//!
//! The rules are those of kubernetes.io "Server-Side Apply": applying a value that differs from the present one, in a
//! field that another manager owns, is a conflict; with force the field changes hands; a field that a manager applied
//! before and now leaves out goes away unless somebody else owns it; every other write takes what it changes. Coarser
//! than a real server in one thing: which lists are merged by key is known by the name of the list, not from a schema.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// `(manager, operation)` and the paths that it owns.
pub(super) type Managers = BTreeMap<(String, &'static str), BTreeSet<String>>;

/// Somebody else's field: manager and path.
pub(super) type Conflict = (String, String);

/// Lists whose items have an identity, with the field that makes it. `ports` has two.
fn keys_of(list: &str) -> &'static [&'static str] {
    match list {
        "containers" | "initContainers" | "env" | "volumes" | "imagePullSecrets" => &["name"],
        "volumeMounts" => &["mountPath"],
        "ports" => &["containerPort", "port"],
        "conditions" => &["type"],
        _ => &[],
    }
}

fn identity(list: &str, item: &Value) -> Option<String> {
    let key = keys_of(list).iter().find(|key| item.get(**key).is_some())?;
    Some(format!("[{key}={}]", item[*key]))
}

/// Every leaf of an object with its path, written as the server writes them: `.spec.containers[name="api"].image`.
fn leaves(object: &Value) -> BTreeMap<String, Value> {
    fn walk(value: &Value, name: &str, path: &str, found: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (field, value) in fields {
                    walk(value, field, &format!("{path}.{field}"), found);
                }
            }
            Value::Array(items) if !items.is_empty() && items.iter().all(|item| identity(name, item).is_some()) => {
                for item in items {
                    let path = format!("{path}{}", identity(name, item).unwrap_or_default());
                    walk(item, "", &path, found);
                }
            }
            leaf => {
                found.insert(path.to_owned(), leaf.clone());
            }
        }
    }
    let mut found = BTreeMap::new();
    for (field, value) in object.as_object().into_iter().flatten() {
        match field.as_str() {
            "apiVersion" | "kind" | "status" => {}
            "metadata" => {
                for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
                    if let Some(value) = value.get(field) {
                        walk(value, field, &format!(".metadata.{field}"), &mut found);
                    }
                }
            }
            _ => walk(value, field, &format!(".{field}"), &mut found),
        }
    }
    found
}

/// Applies `wanted` to `live` for `manager`.
pub(super) fn apply(
    live: &Value,
    managers: &Managers,
    wanted: &Value,
    manager: &str,
    force: bool,
) -> Result<(Value, Managers), Vec<Conflict>> {
    let (present, asked) = (leaves(live), leaves(wanted));
    let us = (manager.to_owned(), "Apply");
    let mut managers = managers.clone();
    let mut conflicts = Vec::new();
    for (path, value) in &asked {
        if present.get(path) == Some(value) {
            continue;
        }
        for (who, owned) in managers.iter_mut().filter(|(who, _)| **who != us) {
            if owned.contains(path) {
                if force {
                    owned.remove(path);
                } else {
                    conflicts.push((who.0.clone(), path.clone()));
                }
            }
        }
    }
    if !conflicts.is_empty() {
        return Err(conflicts);
    }
    let before = managers.remove(&us).unwrap_or_default();
    let mut object = live.clone();
    for path in before.iter().filter(|path| !asked.contains_key(*path)) {
        if !managers.values().any(|owned| owned.contains(path)) {
            remove(&mut object, path);
        }
    }
    merge(&mut object, wanted, true);
    managers.insert(us, asked.into_keys().collect());
    managers.retain(|_, owned| !owned.is_empty());
    Ok((object, managers))
}

/// Whoever changes a field otherwise than by apply owns it from then on.
pub(super) fn update(before: &Value, after: &Value, managers: &Managers, manager: &str) -> Managers {
    let (old, new) = (leaves(before), leaves(after));
    let mut managers = managers.clone();
    let changed: BTreeSet<String> =
        new.iter().filter(|(path, value)| old.get(*path) != Some(value)).map(|(path, _)| path.clone()).collect();
    let gone: BTreeSet<&String> = old.keys().filter(|path| !new.contains_key(*path)).collect();
    for owned in managers.values_mut() {
        owned.retain(|path| !changed.contains(path) && !gone.contains(path));
    }
    if !changed.is_empty() {
        managers.entry((manager.to_owned(), "Update")).or_default().extend(changed);
    }
    managers.retain(|_, owned| !owned.is_empty());
    managers
}

/// For `metadata.managedFields`. The paths stand flat under `fieldsV1`, where a real server nests them.
pub(super) fn rendered(managers: &Managers, api_version: &str) -> Value {
    let entries = managers.iter().map(|((manager, operation), paths)| {
        let paths: Map<String, Value> = paths.iter().map(|path| (format!("f:{path}"), json!({}))).collect();
        json!({"manager": manager, "operation": operation, "apiVersion": api_version, "fieldsType": "FieldsV1", "fieldsV1": paths})
    });
    entries.collect()
}

/// Merges `patch` into `target`: RFC 7396, and with `by_key` also lists whose items have an identity.
pub(super) fn merge(target: &mut Value, patch: &Value, by_key: bool) {
    fn into(target: &mut Value, name: &str, patch: &Value, by_key: bool) {
        match (&mut *target, patch) {
            (Value::Object(_), Value::Object(fields)) => {
                for (field, value) in fields {
                    let Some(present) = target.as_object_mut() else { return };
                    if value.is_null() {
                        present.remove(field);
                    } else {
                        into(present.entry(field.clone()).or_insert(Value::Null), field, value, by_key);
                    }
                }
            }
            (Value::Array(present), Value::Array(items))
                if by_key && !items.is_empty() && items.iter().all(|item| identity(name, item).is_some()) =>
            {
                for item in items {
                    let key = identity(name, item);
                    match present.iter_mut().find(|there| identity(name, there) == key) {
                        Some(there) => into(there, "", item, by_key),
                        None => present.push(item.clone()),
                    }
                }
            }
            (_, Value::Object(fields)) => {
                // Nulls in a new object mean absent, so they are not copied.
                *target = json!({});
                for (field, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
                    let mut new = Value::Null;
                    into(&mut new, field, value, by_key);
                    target[field] = new;
                }
            }
            (_, other) => *target = other.clone(),
        }
    }
    into(target, "", patch, by_key);
}

/// Removes the leaf at a path, and what becomes empty by that.
fn remove(object: &mut Value, path: &str) {
    fn walk(value: &mut Value, name: &str, here: &str, path: &str) -> bool {
        if here == path {
            return true;
        }
        if !path.starts_with(here) {
            return false;
        }
        match value {
            Value::Object(fields) => {
                let below: Vec<String> = fields.keys().cloned().collect();
                for field in below {
                    if walk(&mut fields[&field], &field, &format!("{here}.{field}"), path) {
                        fields.remove(&field);
                        return fields.is_empty();
                    }
                }
                false
            }
            Value::Array(items) => {
                for n in 0..items.len() {
                    let Some(key) = identity(name, &items[n]) else { return false };
                    if walk(&mut items[n], "", &format!("{here}{key}"), path) {
                        items.remove(n);
                        return items.is_empty();
                    }
                }
                false
            }
            _ => false,
        }
    }
    walk(object, "", "", path);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(replicas: Option<u32>, image: &str) -> Value {
        let mut object = json!({"spec": {"template": {"spec": {"containers": [{"name": "api", "image": image}]}}}});
        if let Some(replicas) = replicas {
            object["spec"]["replicas"] = json!(replicas);
        }
        object
    }

    #[test]
    fn another_managers_value_is_a_conflict_and_force_takes_it() {
        let (live, managers) =
            apply(&json!({}), &Managers::new(), &deployment(Some(3), "a:1"), "argocd", false).unwrap();
        let same = apply(&live, &managers, &deployment(None, "a:1"), "sparc", false);
        assert!(same.is_ok(), "the same value is shared");

        let image = ".spec.template.spec.containers[name=\"api\"].image".to_owned();
        let conflicts = apply(&live, &managers, &deployment(None, "a:2"), "sparc", false).unwrap_err();
        assert_eq!(conflicts, [("argocd".to_owned(), image.clone())]);

        let (after, managers) = apply(&live, &managers, &deployment(None, "a:2"), "sparc", true).unwrap();
        assert_eq!(after, deployment(Some(3), "a:2"));
        assert!(managers[&("sparc".to_owned(), "Apply")].contains(&image));
        assert!(!managers[&("argocd".to_owned(), "Apply")].contains(&image));
    }

    #[test]
    fn what_is_left_out_goes_away_unless_somebody_else_owns_it() {
        let (live, managers) = apply(&json!({}), &Managers::new(), &deployment(Some(3), "a:1"), "one", false).unwrap();
        let (live, managers) = apply(&live, &managers, &deployment(None, "a:1"), "two", false).unwrap();
        let (live, _) = apply(&live, &managers, &json!({}), "one", false).unwrap();
        assert_eq!(live, deployment(None, "a:1"));
    }

    #[test]
    fn a_patch_takes_what_it_changes() {
        let (live, managers) = apply(&json!({}), &Managers::new(), &deployment(Some(3), "a:1"), "one", false).unwrap();
        let managers = update(&live, &deployment(Some(5), "a:1"), &managers, "hpa");
        assert_eq!(managers[&("hpa".to_owned(), "Update")], BTreeSet::from([".spec.replicas".to_owned()]));
        assert!(!managers[&("one".to_owned(), "Apply")].contains(".spec.replicas"));
    }
}
