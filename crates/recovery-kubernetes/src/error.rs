//! What can go wrong with a cluster, told apart by who acts next.

use std::fmt;

use kube::core::Status;
use recovery::cluster::ClusterError;
use recovery::fault::{Classified, Fault};

use crate::bundle::BundleError;

/// Somebody else's field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Field manager, as the server names it.
    pub manager: String,
    /// For example `.spec.template.spec.containers[name="api"].image`.
    pub field: String,
}

/// Everything of one object that others manage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectConflict {
    /// For example `Deployment/core-apis`.
    pub object: String,
    /// Who and what.
    pub owners: Vec<Owner>,
}

impl fmt::Display for ObjectConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, owner) in self.owners.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}`{}` owns {}", owner.manager, owner.field)?;
        }
        Ok(())
    }
}

/// A cluster did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection, or it broke: nothing is known of what happened.
    #[error("cannot reach cluster `{cluster}` while {doing}")]
    Unreachable {
        /// Which cluster.
        cluster: String,
        /// What was tried.
        doing: String,
        /// What the network said.
        #[source]
        source: Box<kube::Error>,
    },
    /// No answer in time: nothing is known of what happened.
    #[error("cluster `{cluster}` did not answer within {seconds} s while {doing}")]
    TimedOut {
        /// Which cluster.
        cluster: String,
        /// What was tried.
        doing: String,
        /// The limit.
        seconds: f32,
    },
    /// 429 or 5xx.
    #[error("cluster `{cluster}` answers {code} while {doing}: {said}")]
    Unavailable {
        /// Which cluster.
        cluster: String,
        /// What was tried.
        doing: String,
        /// HTTP status.
        code: u16,
        /// Its own words.
        said: String,
    },
    /// Somebody changed the object between our look and our change.
    #[error("cluster `{cluster}`: the object changed while {doing}: {said}")]
    Raced {
        /// Which cluster.
        cluster: String,
        /// What was tried.
        doing: String,
        /// Its own words.
        said: String,
    },
    /// 410: a list in pages took longer than the server keeps its history.
    #[error("cluster `{cluster}` no longer knows the list that it began while {doing}: {said}")]
    Expired {
        /// Which cluster.
        cluster: String,
        /// What was tried.
        doing: String,
        /// Its own words.
        said: String,
    },
    /// The namespace is on its way out.
    #[error("cluster `{cluster}` is still deleting the namespace: {said}")]
    Terminating {
        /// Which cluster.
        cluster: String,
        /// Its own words.
        said: String,
    },
    /// The definition is in the bundle, but the server does not serve the kind yet.
    #[error("cluster `{cluster}` does not serve `{kind}` yet, whose definition it has just been given")]
    NotServedYet {
        /// Which cluster.
        cluster: String,
        /// `apiVersion/kind`.
        kind: String,
    },
    /// The server's certificate is not from the authority that we were given.
    #[error("cluster `{cluster}` shows a certificate that its recorded authority did not sign")]
    Untrusted {
        /// Which cluster.
        cluster: String,
        /// What TLS said.
        #[source]
        source: Box<kube::Error>,
    },
    /// There is no token.
    #[error("there is no token for cluster `{cluster}`")]
    Token {
        /// Which cluster.
        cluster: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// 401.
    #[error("cluster `{cluster}` does not know us (401) while {doing}: {said}")]
    Unauthenticated {
        /// Which cluster.
        cluster: String,
        /// What was tried.
        doing: String,
        /// Its own words.
        said: String,
    },
    /// 403.
    #[error("cluster `{cluster}` forbids us {doing}: {said}")]
    Forbidden {
        /// Which cluster.
        cluster: String,
        /// What was tried.
        doing: String,
        /// Its own words.
        said: String,
    },
    /// Other managers own what the bundle sets.
    #[error("cluster `{cluster}`: {}", .objects.iter().map(|o| format!("`{}`: {o}", o.object)).collect::<Vec<_>>().join("; "))]
    Conflict {
        /// Which cluster.
        cluster: String,
        /// Every object with a conflict; nothing was applied.
        objects: Vec<ObjectConflict>,
    },
    /// A later fence holds this writer.
    #[error("cluster `{cluster}`: writer `{writer}` was stopped under epoch {held}, which is later than {epoch}")]
    Superseded {
        /// Which cluster.
        cluster: String,
        /// Deployment.
        writer: String,
        /// Ours.
        epoch: u64,
        /// The one on the Deployment.
        held: u64,
    },
    /// 404.
    #[error("cluster `{cluster}` has no {object}")]
    Missing {
        /// Which cluster.
        cluster: String,
        /// What was looked for.
        object: String,
    },
    /// The server does not know this kind.
    #[error("cluster `{cluster}` serves no kind `{kind}`, which {object} is of")]
    UnknownKind {
        /// Which cluster.
        cluster: String,
        /// `apiVersion/kind`.
        kind: String,
        /// The object in the bundle.
        object: String,
    },
    /// 400, 413 or 422.
    #[error("cluster `{cluster}` does not take {object}: {said}")]
    Invalid {
        /// Which cluster.
        cluster: String,
        /// What was sent.
        object: String,
        /// Its own words.
        said: String,
    },
    /// The bundle was not even sent.
    #[error("the bundle for cluster `{cluster}` cannot be applied")]
    Bundle {
        /// Which cluster.
        cluster: String,
        /// What is wrong with it.
        #[source]
        source: BundleError,
    },
    /// The endpoint or the authority is not usable.
    #[error("cluster `{cluster}` cannot be addressed: {why}")]
    Misconfigured {
        /// Which cluster.
        cluster: String,
        /// What is wrong.
        why: String,
    },
    /// An answer that is not understood.
    #[error("the answer of cluster `{cluster}` is not understood while {doing}: {why}")]
    Unreadable {
        /// Which cluster.
        cluster: String,
        /// What was tried.
        doing: String,
        /// Where the answer went wrong.
        why: String,
    },
}

impl Error {
    pub(crate) fn from_kube(cluster: &str, doing: &str, error: kube::Error) -> Self {
        let (cluster, doing) = (cluster.to_owned(), doing.to_owned());
        match error {
            kube::Error::Api(status) => Self::from_status(cluster, doing, &status),
            kube::Error::SerdeError(error) => Error::Unreadable { cluster, doing, why: error.to_string() },
            kube::Error::FromUtf8(error) => Error::Unreadable { cluster, doing, why: error.to_string() },
            kube::Error::BuildRequest(error) => Error::Invalid { cluster, object: doing, said: error.to_string() },
            other if is_about_trust(&other) => Error::Untrusted { cluster, source: Box::new(other) },
            other => Error::Unreachable { cluster, doing, source: Box::new(other) },
        }
    }

    fn from_status(cluster: String, doing: String, status: &Status) -> Self {
        let said = status.message.clone();
        let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
        let has_cause = |reason: &str| causes.iter().any(|cause| cause.reason == reason);
        match status.code {
            401 => Error::Unauthenticated { cluster, doing, said },
            403 if has_cause("NamespaceTerminating") => Error::Terminating { cluster, said },
            403 => Error::Forbidden { cluster, doing, said },
            404 => Error::Missing { cluster, object: format!("answer for {doing}: {said}") },
            409 if has_cause("FieldManagerConflict") => {
                let owners = causes.iter().map(|cause| Owner {
                    // `conflict with "argocd-controller" using apps/v1`
                    manager: cause.message.split('"').nth(1).unwrap_or(&cause.message).to_owned(),
                    field: cause.field.clone(),
                });
                Error::Conflict { cluster, objects: vec![ObjectConflict { object: doing, owners: owners.collect() }] }
            }
            409 => Error::Raced { cluster, doing, said },
            410 => Error::Expired { cluster, doing, said },
            429 | 500..=599 => Error::Unavailable { cluster, doing, code: status.code, said },
            _ => Error::Invalid { cluster, object: doing, said },
        }
    }

    /// The same, with the object's name where the request's was all there was.
    pub(crate) fn about(self, label: &str) -> Self {
        match self {
            Error::Conflict { cluster, mut objects } => {
                for conflict in &mut objects {
                    label.clone_into(&mut conflict.object);
                }
                Error::Conflict { cluster, objects }
            }
            Error::Invalid { cluster, said, .. } => Error::Invalid { cluster, object: label.to_owned(), said },
            other => other,
        }
    }

    /// Who acts next.
    pub fn fault(&self) -> Fault {
        match self {
            Error::Unreachable { .. }
            | Error::TimedOut { .. }
            | Error::Unavailable { .. }
            | Error::Raced { .. }
            | Error::Expired { .. } => Fault::Transient,
            Error::Terminating { .. } | Error::NotServedYet { .. } => Fault::NotYet,
            Error::Untrusted { .. }
            | Error::Token { .. }
            | Error::Unauthenticated { .. }
            | Error::Forbidden { .. }
            | Error::Conflict { .. }
            | Error::Superseded { .. } => Fault::Refused,
            Error::Missing { .. }
            | Error::UnknownKind { .. }
            | Error::Invalid { .. }
            | Error::Bundle { .. }
            | Error::Misconfigured { .. }
            | Error::Unreadable { .. } => Fault::Permanent,
        }
    }
}

impl Classified for Error {
    fn fault(&self) -> Fault {
        self.fault()
    }

    fn remedy(&self) -> String {
        match self {
            Error::Unreachable { cluster, .. } => {
                format!("check the endpoint of `{cluster}` in the plan and the route to it")
            }
            Error::TimedOut { cluster, .. } | Error::Unavailable { cluster, .. } => {
                format!("look at the health of `{cluster}`'s control plane; the request may be repeated")
            }
            Error::Raced { .. } => "repeat the step; it reads the object again".to_owned(),
            Error::Expired { .. } => "repeat the step; the list begins anew".to_owned(),
            Error::Terminating { cluster, .. } => format!("find what holds the namespace's finalizers in `{cluster}`"),
            Error::NotServedYet { .. } => "wait until the server has established the definition".to_owned(),
            Error::Untrusted { cluster, .. } => {
                format!(
                    "compare the authority recorded for `{cluster}` with what EKS names, before trusting the new one"
                )
            }
            Error::Token { .. } => "check the credentials of the role that runs this step".to_owned(),
            Error::Unauthenticated { cluster, .. } => {
                format!(
                    "give the role that runs this step an access entry in `{cluster}`, and check this machine's clock"
                )
            }
            Error::Forbidden { cluster, .. } => format!("add the missing right to the recovery role in `{cluster}`"),
            Error::Conflict { .. } => {
                "take the fields out of the bundle or out of the other manager, or allow the apply to take them"
                    .to_owned()
            }
            Error::Superseded { held, .. } => format!("leave this run; the one with epoch {held} is in charge"),
            Error::Missing { object, .. } => format!("correct the plan or the bundle, which expect {object}"),
            Error::UnknownKind { kind, .. } => {
                format!("install the definition of `{kind}` in the cluster or add it to the bundle")
            }
            Error::Invalid { object, .. } => format!("correct {object} in the bundle and upload it again"),
            Error::Bundle { .. } => "correct the bundle and upload it again".to_owned(),
            Error::Misconfigured { cluster, .. } => {
                format!("correct the endpoint or the authority of `{cluster}` in the plan")
            }
            Error::Unreadable { .. } => {
                "compare the version of the cluster with the versions this was tested on".to_owned()
            }
        }
    }
}

impl From<Error> for ClusterError {
    fn from(error: Error) -> Self {
        let words = error.to_string();
        match error {
            Error::Unreachable { ref cluster, .. }
            | Error::TimedOut { ref cluster, .. }
            | Error::Unavailable { ref cluster, .. }
            | Error::Raced { ref cluster, .. }
            | Error::Expired { ref cluster, .. } => {
                ClusterError::Unreachable { cluster: cluster.clone(), source: Box::new(error) }
            }
            Error::Terminating { cluster, .. } | Error::NotServedYet { cluster, .. } => {
                ClusterError::Busy { cluster, why: words }
            }
            Error::Untrusted { ref cluster, .. } | Error::Token { ref cluster, .. } => ClusterError::Denied {
                cluster: cluster.clone(),
                doing: "a connection".to_owned(),
                source: Box::new(error),
            },
            Error::Unauthenticated { ref cluster, ref doing, .. } | Error::Forbidden { ref cluster, ref doing, .. } => {
                ClusterError::Denied { cluster: cluster.clone(), doing: doing.clone(), source: Box::new(error) }
            }
            Error::Conflict { cluster, objects } => ClusterError::Conflict {
                cluster,
                object: objects.iter().map(|o| o.object.as_str()).collect::<Vec<_>>().join(", "),
                who: objects.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            },
            Error::Superseded { cluster, .. } => ClusterError::Refused { cluster, why: words },
            Error::Missing { cluster, object } | Error::UnknownKind { cluster, object, .. } => {
                ClusterError::Invalid { cluster, object, why: words }
            }
            Error::Invalid { cluster, object, said } => ClusterError::Invalid { cluster, object, why: said },
            Error::Bundle { cluster, source } => {
                ClusterError::Invalid { cluster, object: "the bundle".to_owned(), why: source.to_string() }
            }
            Error::Misconfigured { cluster, why } => {
                ClusterError::Invalid { cluster, object: "its address".to_owned(), why }
            }
            Error::Unreadable { cluster, doing, why } => ClusterError::Invalid { cluster, object: doing, why },
        }
    }
}

/// A certificate that fails is not an outage: trying again does not help, and somebody should look.
fn is_about_trust(error: &kube::Error) -> bool {
    if matches!(error, kube::Error::RustlsTls(_)) {
        return true;
    }
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        let found = cause.downcast_ref::<rustls::Error>().or_else(|| inside(cause.downcast_ref()?));
        if let Some(tls) = found {
            return matches!(tls, rustls::Error::InvalidCertificate(_));
        }
        next = cause.source();
    }
    false
}

/// `io::Error` answers for its inner error's source, not for the inner error itself, and the connector wraps it twice.
fn inside(error: &std::io::Error) -> Option<&rustls::Error> {
    let inner = error.get_ref()?;
    inner.downcast_ref().or_else(|| inside(inner.downcast_ref()?))
}

#[cfg(test)]
mod tests {
    use kube::core::response::{StatusCause, StatusDetails};

    use super::*;

    fn status(code: u16, cause: Option<(&str, &str, &str)>) -> kube::Error {
        let mut status = Status::failure("the server's words", "Reason").with_code(code);
        if let Some((reason, message, field)) = cause {
            status.details = Some(StatusDetails {
                name: String::new(),
                group: String::new(),
                kind: String::new(),
                uid: String::new(),
                causes: vec![StatusCause { reason: reason.into(), message: message.into(), field: field.into() }],
                retry_after_seconds: 0,
            });
        }
        kube::Error::Api(status.boxed())
    }

    #[test]
    fn every_answer_says_who_acts_next_and_the_domain_agrees() {
        let situations = [
            ("throttled", status(429, None), Fault::Transient),
            ("etcd has no leader", status(500, None), Fault::Transient),
            ("a list in pages took too long", status(410, None), Fault::Transient),
            ("overtaken by another writer", status(409, Some(("Other", "", ""))), Fault::Transient),
            ("the namespace is going away", status(403, Some(("NamespaceTerminating", "", ""))), Fault::NotYet),
            ("unknown token", status(401, None), Fault::Refused),
            ("right is missing", status(403, None), Fault::Refused),
            (
                "somebody else's field",
                status(409, Some(("FieldManagerConflict", "conflict with \"argocd\" using apps/v1", ".spec.x"))),
                Fault::Refused,
            ),
            ("wrong object", status(422, None), Fault::Permanent),
            ("nothing there", status(404, None), Fault::Permanent),
        ];
        for (situation, answer, fault) in situations {
            let error = Error::from_kube("west", "applying `Deployment/x`", answer);
            assert_eq!(error.fault(), fault, "{situation}");
            assert!(!error.remedy().is_empty());
            assert_eq!(Classified::fault(&ClusterError::from(error)), fault, "{situation}");
        }
    }

    #[test]
    fn a_conflict_names_the_other_manager_and_the_field() {
        let answer = status(409, Some(("FieldManagerConflict", "conflict with \"argocd\" using apps/v1", ".spec.x")));
        let error = Error::from_kube("west", "Deployment/x", answer);
        assert_eq!(error.to_string(), "cluster `west`: `Deployment/x`: `argocd` owns .spec.x");
    }
}
