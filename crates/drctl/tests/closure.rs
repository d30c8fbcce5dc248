//! `drctl closure` on a platform with everything, and on one in which something is missing.

#![allow(clippy::unwrap_used)]

mod platform;

use std::collections::BTreeSet;

use platform::World;
use recovery::{
    closure::{Closure, Found, NeedKind},
    plan::Approval,
};
use serde::Deserialize;
use serde_json::{Value, json};

async fn closure(world: &World) -> (Option<i32>, Closure) {
    let output = world.child(&["closure", "--json"]).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let closure = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    (output.status.code(), closure)
}

fn not_there(closure: &Closure) -> Vec<(NeedKind, &str, &str)> {
    let why = |found: &'_ Found| match found {
        Found::Present => None,
        Found::Missing { .. } => Some("missing"),
        Found::Unknown { .. } => Some("unknown"),
    };
    let items =
        closure.items.iter().filter_map(|item| Some((item.need.kind, item.need.name.as_str(), why(&item.found)?)));
    items.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_lacks_something_is_found_out_beforehand_and_without_the_primary_region() {
    let world = World::start(Approval::Automatic).await;
    let lab = &world.platform.lab;
    let cluster = lab.secondary_cluster().unwrap();
    let admin = cluster.admin();

    // The recovery role applies and does not read secrets: what stands in the cluster is unknown to it.
    let (code, first) = closure(&world).await;
    let secret = "Secret/sparc-prod/database";
    assert_eq!(code, Some(1));
    assert_eq!(not_there(&first), [(NeedKind::Object, secret, "unknown")], "{first:#?}");
    let kinds: BTreeSet<NeedKind> = first.items.iter().map(|item| item.need.kind).collect();
    let expected =
        [NeedKind::Bundle, NeedKind::Image, NeedKind::Secret, NeedKind::Key, NeedKind::Certificate, NeedKind::Object];
    assert_eq!(kinds, expected.into());

    // With the rights that the suite ships for looking, it is known to be missing.
    for document in serde_yaml_ng::Deserializer::from_str(include_str!("../../../bundles/backup-rights.yaml")) {
        let mut object = Value::deserialize(document).unwrap();
        if object["kind"] == "ClusterRoleBinding" {
            object["subjects"] =
                json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "sparc-recovery"}]);
        }
        let plural = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
        admin.create(&format!("/apis/rbac.authorization.k8s.io/v1/{plural}"), &object).await.unwrap();
    }
    let (code, second) = closure(&world).await;
    assert_eq!((code, not_there(&second)), (Some(1), vec![(NeedKind::Object, secret, "missing")]));
    let item = second.items.iter().find(|item| item.need.name == secret).unwrap();
    assert!(item.needed_by.contains("Deployment/core-apis"), "{item:?}");

    let database = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "database"}, "data": {}});
    admin.create("/api/v1/namespaces/sparc-prod/secrets", &database).await.unwrap();
    let (code, whole) = closure(&world).await;
    assert_eq!((code, not_there(&whole)), (Some(0), vec![]));
    assert_eq!((whole.present, whole.missing, whole.unknown), (whole.checked, 0, 0));

    // An image that was never replicated, a key that somebody has disabled, a secret that is being deleted.
    lab.aws.forget_image("sparc/auth").await.unwrap();
    let key = &lab.addresses().aws.backups_key;
    lab.aws.json("kms", lab::aws::TERTIARY, "TrentService.DisableKey", json!({"KeyId": key})).await.unwrap();
    let deleted = json!({"SecretId": "sparc/postgresql/application", "RecoveryWindowInDays": 7});
    lab.aws.json("secretsmanager", lab::aws::TERTIARY, "secretsmanager.DeleteSecret", deleted).await.unwrap();
    let (code, lacking) = closure(&world).await;
    assert_eq!(code, Some(1));
    let found = not_there(&lacking);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].0 == NeedKind::Image && found[0].1.contains("sparc/auth@sha256:"), "{found:?}");
    assert_eq!(
        found[1..],
        [(NeedKind::Secret, "sparc/postgresql/application", "missing"), (NeedKind::Key, key.as_str(), "missing")]
    );

    let output = world.child(&["closure"]).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("its state is Disabled; needed by every backup"), "{said}");
    assert!(said.ends_with("3 missing, 0 not looked at\n"), "{said}");
}
