//! Role-based access of the small API: the roles and bindings that are stored in it, judged as a real server does.

use serde_json::Value;

/// What somebody wants to do.
pub(super) struct Wish<'a> {
    pub user: &'a str,
    pub groups: &'a [String],
    pub verb: &'a str,
    pub group: &'a str,
    /// With its subresource: `deployments/scale`.
    pub resource: &'a str,
    pub namespace: Option<&'a str>,
    pub name: Option<&'a str>,
}

/// Looks up roles and bindings: `(kind, namespace)` gives all objects of it.
pub(super) fn allowed(wish: &Wish<'_>, objects: impl Fn(&str, Option<&str>) -> Vec<Value>) -> bool {
    if wish.groups.iter().any(|group| group == "system:masters") {
        return true;
    }
    let mut bindings = objects("ClusterRoleBinding", None);
    if wish.namespace.is_some() {
        bindings.extend(objects("RoleBinding", wish.namespace));
    }
    bindings.iter().filter(|binding| is_subject(wish, binding)).any(|binding| {
        let reference = &binding["roleRef"];
        let kind = reference["kind"].as_str().unwrap_or_default();
        let namespace = if kind == "Role" { wish.namespace } else { None };
        let roles = objects(kind, namespace);
        let role = roles.iter().find(|role| role["metadata"]["name"] == reference["name"]);
        role.is_some_and(|role| role["rules"].as_array().into_iter().flatten().any(|rule| permits(wish, rule)))
    })
}

fn is_subject(wish: &Wish<'_>, binding: &Value) -> bool {
    binding["subjects"].as_array().into_iter().flatten().any(|subject| {
        let name = subject["name"].as_str().unwrap_or_default();
        match subject["kind"].as_str() {
            Some("User") => name == wish.user,
            Some("Group") => wish.groups.iter().any(|group| group == name),
            _ => false,
        }
    })
}

fn permits(wish: &Wish<'_>, rule: &Value) -> bool {
    let has = |field: &str, wanted: &str| {
        rule[field].as_array().into_iter().flatten().any(|value| value == wanted || value == "*")
    };
    let names = rule["resourceNames"].as_array();
    let named = names.is_none_or(|names| names.is_empty() || names.iter().any(|name| name.as_str() == wish.name));
    has("apiGroups", wish.group) && has("resources", wish.resource) && has("verbs", wish.verb) && named
}
