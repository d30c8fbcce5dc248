//! What is not as it should be, with what to do about it.

use recovery::backup::{Finding, Reason, Rung};

/// A finding with the remedy of its reason.
pub fn finding(rung: Rung, reason: Reason, artifact: Option<&str>, says: impl Into<String>) -> Finding {
    Finding {
        rung,
        reason,
        artifact: artifact.map(str::to_owned),
        says: says.into(),
        remedy: remedy(reason).to_owned(),
    }
}

/// What a person does.
pub const fn remedy(reason: Reason) -> &'static str {
    match reason {
        Reason::Missing => "take a new backup now, then find out who removed it: `aws s3api list-object-versions`",
        Reason::Truncated => "take a new backup now; an older version of the object may still be whole",
        Reason::StoredDigest => {
            "take a new backup now; look for the right version of the object, and for who wrote this one"
        }
        Reason::PlainDigest => "take a new backup now and report this as a defect: it was written wrong",
        Reason::Encoding => "take a new backup now; what is stored was never readable",
        Reason::ManifestChanged => {
            "restore nothing from it; read the version that the receipt names, and find out who wrote the other"
        }
        Reason::ManifestUnreadable => {
            "take a new backup now; read the manifest by eye before anything is restored from it"
        }
        Reason::Structure => "take a new backup now; restore from an older one that is proven",
        Reason::OtherContent => "find out how it came there; restore from another backup until that is known",
        Reason::NotCovered => "compare the plan with the server; take a new backup when they agree",
        Reason::WalGap => "take a base backup now: what lies behind the gap cannot be reached",
        Reason::WalForeign => "find out which server archives into this bucket, and stop it",
        Reason::Stale => "find out why no newer one was taken: the runs of nightly-backup",
        Reason::NotChecked => "make it readable and verify again; until then it counts as unproven",
        Reason::Unusable => "take a new backup now; restore from an older one that is proven",
        Reason::Protection => {
            "take a new backup now; find out who wrote it under these settings, and whether its key will be there"
        }
        Reason::Exposed => "take the others' right to it away now, and find out who gave it to them",
    }
}
